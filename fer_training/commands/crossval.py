# SPDX-License-Identifier: Apache-2.0
"""fer_train crossval: networks for every fold and seed, each tried on people it has not seen."""

import argparse
import functools
import itertools
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_training.commands.arguments import Commands, positive
from fer_training.commands.crossval_images import cross_validate_recognizer
from fer_training.commands.crossval_streaming import cross_validate_and_report
from fer_training.commands.grow import add_growth_options, growth_config
from fer_training.commands.image_options import (
    LANDMARK_RECOGNIZER,
    add_recognizer_options,
    refuse_other_options,
)
from fer_training.commands.options import (
    add_calibration_options,
    add_data_options,
    add_fit_options,
    add_mixing_options,
    add_network_options,
    augmentation,
    calibration_rule,
    clip_source,
    fit_config,
    network_template,
    training_path,
)
from fer_training.commands.variations import file_name, variations_of, vary
from fer_training.comparison.config import PAPER_CHANNELS
from fer_training.crossval import (
    FoldJob,
    cross_validate,
    gather,
    subject_jobs,
    write_crossval,
)
from fer_training.engines import ENGINES
from fer_training.evaluation import UNITS
from fer_training.fit_recipes import FINE_TUNING, FIT_RECIPES
from fer_training.frame_calibration import CalibrationRule
from fer_training.plan import ARCHITECTURES, NetworkPlan
from fer_training.protocols.description import ProtocolDescription, read_protocol
from fer_training.protocols.folds import leave_one_subject_out, subject_folds
from fer_training.results import CrossvalResult, join_predictions

TITLES = {'pst_bln': 'PST-BLN', 'st_bln': 'ST-BLN', 'st_gcn': 'ST-GCN', 'agcn': 'AGCN',
          'dgnn': 'DGNN'}
STRIDED_LAYERS = (4, 7)  # of networks of fixed width, as in the reference


@dataclass(frozen=True, kw_only=True)
class _Folds:
    """The folds of a data set, whose clips are loaded here once for all runs."""

    data: str
    title: str
    classes: tuple[str, ...]
    jobs: Callable[[NetworkPlan, Path], list[FoldJob]]


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'crossval', help='cross-validate by subject: PST-BLN grown or fixed, ST-BLN, ST-GCN, ..., '
        'image recognisers'
    )
    parser.add_argument('--out', type=Path, required=True,
                        help='folder for results; a fold that is done in it is not run again')
    parser.add_argument('--architecture', choices=('pst_bln', 'st_bln', *ARCHITECTURES[1:]),
                        default='pst_bln', help="'st_bln' is a PST-BLN of the paper's fixed "
                        'widths (%(default)s)')
    parser.add_argument('--channels', type=positive, nargs='+',
                        help='fixed channels of each layer (a pst_bln grows; the paper: '
                        f'{" ".join(map(str, PAPER_CHANNELS))})')
    parser.add_argument('--name', help='of the network in tables')
    parser.add_argument('--prepared', type=Path,
                        help='folder that fer_train prepare made, with its folds')
    parser.add_argument('--folds', default='subject',
                        help="'subject' to leave each subject out in turn, or a number of folds; "
                        "of --faces also 'parts', to train on the part train and try on the part "
                        'val (%(default)s)')
    parser.add_argument('--fold-seed', type=int, default=1,
                        help='that deals the subjects into a number of folds (%(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1],
                        help='one cross-validation for each (%(default)s)')
    parser.add_argument('--vary', action='append', default=[], metavar='SETTING=V1,V2,...',
                        help='sweep: one cross-validation for each value of a setting of fitting, '
                        'the network or the augmentation; may be given several times')
    parser.add_argument('--engine', choices=ENGINES, default=ENGINES[0], help='(%(default)s)')
    parser.add_argument('--processes', type=int, default=0,
                        help='folds at the same time; 0: one a core (%(default)s)')
    parser.add_argument('--ray-address', help='of a Ray cluster; none: Ray on this machine')
    parser.add_argument('--streaming', action='store_true',
                        help='networks that answer at every frame, of --tracks whose subjects are '
                        'held out (of several files, those of the further ones are dealt over the '
                        'folds of the first) and --synthetic tracks that are always in')
    parser.add_argument('--start', type=Path, metavar='MODEL',
                        help='with --streaming: every fold fine-tunes this model (.safetensors); '
                        f'unsaid settings are then {FINE_TUNING.epochs} epochs, batches '
                        f'of {FINE_TUNING.batch_size}, rate {FINE_TUNING.learning_rate}')
    add_data_options(parser, streams=False)
    add_mixing_options(parser)
    add_calibration_options(parser)
    add_network_options(parser, streams=True)
    add_growth_options(parser)
    add_fit_options(parser, FIT_RECIPES['practical'].fit)
    images = add_recognizer_options(parser)
    images.add_argument('--unit', choices=UNITS,
                        help='what one answer is for: a sequence or each of its frames (frame; '
                        'clip of fer_gcn)')
    parser.set_defaults(run=functools.partial(run, parser))


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Run all folds of all seeds and variations, then write a result for each."""
    refuse_other_options(parser, options)
    command = shlex.join(['fer_train', *sys.argv[1:]]) if sys.argv else 'fer_train crossval'
    variations = list(variations_of(options.vary))
    if options.recognizer != LANDMARK_RECOGNIZER:
        cross_validate_recognizer(options, command=command, variations=variations)
        return
    if options.streaming:
        cross_validate_and_report(options, command=command, variations=variations)
        return
    if options.start is not None or options.synthetic or options.baseline:
        raise ValueError('--start, --synthetic and --baseline go with --streaming')
    if calibration_rule(options) != CalibrationRule():
        raise ValueError('--max-risk and --max-false-alarms go with --streaming')
    folds = _prepared_folds(options) if options.prepared is not None else _subject_folds(options)
    base = _plan(options, classes=len(folds.classes))
    title = options.name or TITLES[options.architecture] + (' (grown)' if base.growth else '')
    runs = []
    for settings, seed in itertools.product(variations, options.seeds):
        name = ', '.join([title, *(f'{key}={value}' for key, value in settings.items())])
        plan = vary(base, settings).with_seed(seed)
        folder = options.out / file_name(name) / f'seed_{seed}'
        runs.append((name, seed, folder, folds.jobs(plan, folder)))
    outcomes = cross_validate(
        [job for *_, jobs in runs for job in jobs],
        engine=options.engine,
        workers=options.processes,
        ray_address=options.ray_address,
    )
    for name, seed, folder, jobs in runs:
        of_run = [outcomes[job.folder] for job in jobs]
        predictions = join_predictions([outcome.predictions for outcome in of_run])
        result = gather(
            of_run,
            predictions=predictions,
            name=name,
            data=folds.data,
            folds=folds.title,
            seed=seed,
            classes=folds.classes,
            command=command,
        )
        path = options.out / f'{folder.parent.name}_seed_{seed}.json'
        write_crossval(path, result, predictions)
        print(_describe(path, result))


def _plan(options: argparse.Namespace, *, classes: int) -> NetworkPlan:
    recipe = FIT_RECIPES[options.recipe]
    is_grown = options.architecture == 'pst_bln' and not options.channels
    channels = tuple(options.channels or PAPER_CHANNELS)
    template = network_template(
        options,
        classes=max(classes, 1),
        channels=channels,
        reads_clips=True,
        strides=tuple(2 if layer in STRIDED_LAYERS else 1 for layer in range(len(channels))),
    )
    return NetworkPlan(
        architecture='pst_bln' if options.architecture == 'st_bln' else options.architecture,
        template=template,
        edge_list=options.edge_list,
        fit=fit_config(options, recipe.fit),
        growth=growth_config(options) if is_grown else None,
        augmentation=augmentation(options),
    )


def _subject_folds(options: argparse.Namespace) -> _Folds:
    source = clip_source(options, training_path(options), options.labels)
    clips = source.load()
    if options.folds == 'subject':
        folds = leave_one_subject_out(clips.subjects)
    else:
        folds = subject_folds(
            clips.subjects, count=int(options.folds), seed=options.fold_seed
        )
    return _Folds(
        data=training_path(options).name,
        title=options.folds,
        classes=clips.classes,
        jobs=lambda plan, folder: subject_jobs(
            source, folds, plan=plan, samples=options.mc_samples, folder=folder
        ),
    )


def _prepared_folds(options: argparse.Namespace) -> _Folds:
    protocol = read_protocol(options.prepared)
    return _Folds(
        data=options.prepared.name,
        title='prepared',
        classes=protocol.classes,
        jobs=lambda plan, folder: _prepared_jobs(options, protocol, plan, folder),
    )


def _prepared_jobs(
    options: argparse.Namespace, protocol: ProtocolDescription, plan: NetworkPlan, folder: Path
) -> list[FoldJob]:
    jobs = []
    for split in protocol.splits:
        training, validation = (
            clip_source(
                options,
                options.prepared / split.folder / f'{part}.npy',
                options.prepared / split.folder / f'{part}_labels.pkl',
            )
            for part in ('train', 'val')
        )
        jobs.append(
            FoldJob(
                name=split.folder,
                training=training,
                validation=validation,
                held_out=(),
                plan=plan,
                samples=options.mc_samples,
                folder=folder / split.folder,
            )
        )
    return jobs


def _describe(path: Path, result: CrossvalResult) -> str:
    by_fold = [fold.monte_carlo_accuracy for fold in result.per_fold]
    return (
        f'{result.name}, seed {result.seed}: accuracy {result.monte_carlo.accuracy:.4f} with '
        f'Monte Carlo dropout (folds {np.min(by_fold):.3f} to {np.max(by_fold):.3f}), '
        f'{result.single_pass.accuracy:.4f} by one pass; {path}'
    )
