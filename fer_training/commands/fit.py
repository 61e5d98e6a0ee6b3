# SPDX-License-Identifier: Apache-2.0
"""fer_train fit: fit a PST-BLN of given channels or an image recogniser, calibrate and save it."""

import argparse
import functools
import sys
from dataclasses import asdict
from pathlib import Path

from fer_perception.graph.edges import load_edge_list
from fer_perception.models.model_file import load_model, save_model
from fer_perception.models.pst_bln import PstBln
from fer_training.calibration import Calibration, calibrate
from fer_training.commands.arguments import Commands, positive
from fer_training.commands.fit_images import fit_image_recognizer
from fer_training.commands.image_options import (
    LANDMARK_RECOGNIZER,
    add_recognizer_options,
    refuse_other_options,
)
from fer_training.commands.options import (
    STREAM_CHANNELS,
    add_calibration_options,
    add_data_options,
    add_fit_options,
    add_mixing_options,
    add_network_options,
    add_validation_options,
    baseline_frames,
    calibration_rule,
    describe,
    describe_calibration,
    first_weights,
    fit_config,
    load_data,
    network_template,
    stream_channels,
)
from fer_training.fit_recipes import FINE_TUNING, FROM_SCRATCH
from fer_training.frame_calibration import (
    CalibrationRule,
    FrameCalibration,
    calibrate_frames,
    describe_caution,
)
from fer_training.plan import NetworkPlan
from fer_training.streaming_crossval import read_folds


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'fit', help='fit a PST-BLN to tracks or an image recogniser to faces, calibrate and save'
    )
    parser.add_argument('--out', type=Path, required=True, help='model file (.safetensors)')
    channels = parser.add_mutually_exclusive_group()
    channels.add_argument('--channels', type=positive, nargs='+',
                          help='channels of each layer (those of --start, else '
                          f'{" ".join(map(str, STREAM_CHANNELS))})')
    channels.add_argument('--channels-of', type=Path, metavar='MODEL',
                          help='as many as in this model, one that was grown for example')
    parser.add_argument('--start', type=Path, metavar='MODEL',
                        help='fine-tune this model (.safetensors): the same network, but for kind '
                        'and rate of dropout; unsaid settings of fitting are then '
                        f'{FINE_TUNING.epochs} epochs, batches of {FINE_TUNING.batch_size}, '
                        f'learning rate {FINE_TUNING.learning_rate}')
    parser.add_argument('--calibration', type=Path, metavar='FOLDER',
                        help='choose temperature and threshold from a streaming cross-validation '
                        'instead of --validation: the folder that holds its folds')
    parser.add_argument('--licence', default='', help='terms of the weights')
    add_data_options(parser, streams=True)
    add_mixing_options(parser)
    add_validation_options(parser, required=False)
    add_calibration_options(parser)
    add_network_options(parser, streams=True)
    add_fit_options(parser, FROM_SCRATCH)
    images = add_recognizer_options(parser)
    images.add_argument('--validation-faces', type=Path, metavar='FOLDER',
                        help='faces of other people (the part val of --faces, if it has one)')
    parser.set_defaults(run=functools.partial(run, parser))


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Fit, calibrate and save a model."""
    refuse_other_options(parser, options)
    if options.recognizer != LANDMARK_RECOGNIZER:
        fit_image_recognizer(options)
        return
    if (options.validation is None) == (options.calibration is None):
        raise ValueError('say either --validation, or --calibration of a cross-validation')
    if options.calibration is None and calibration_rule(options) != CalibrationRule():
        raise ValueError('--max-risk and --max-false-alarms go with --calibration')
    start = first_weights(options)
    config = fit_config(options, FROM_SCRATCH if start is None else FINE_TUNING)
    channels = _channels(options)  # a wrong file is told before minutes of preparing tracks
    data = load_data(options)
    template = network_template(
        options,
        classes=len(data.classes),
        channels=channels,
        reads_clips=data.preparation is not None,
    )
    calibration: Calibration | FrameCalibration | None = None
    if options.calibration is not None:
        if data.preparation is not None:
            raise ValueError('--calibration is for networks that stream: leave out --frames')
        calibration = _calibration_of_folds(options, data.classes)
    plan = NetworkPlan(
        architecture='pst_bln',
        template=template,
        edge_list=options.edge_list,
        fit=config,
        augmentation=data.augmentation,
        first_weights=start,
        baseline_frames=baseline_frames(data.baseline_s, data.frame_rate),
    )
    if start is not None:
        start.check(
            template, classes=data.classes, edges=load_edge_list(options.edge_list),
            frame_rate=data.frame_rate, baseline_s=data.baseline_s,
            normalization=data.normalization,
        )
    checkpoint = options.out.with_suffix('.checkpoint')
    network = plan.carry_out(data.training, checkpoint=checkpoint)
    assert isinstance(network, PstBln)
    print(network.parameter_summary())
    if calibration is not None:
        rule = {'max_risk': options.max_risk, 'max_false_alarms': options.max_false_alarms}
        note = {
            'calibration': {'folds': options.calibration.name, **rule, **asdict(calibration)}
        }
    else:
        assert data.validation is not None
        calibration = calibrate(network, data.validation, network_input=data.network_input)
        print(describe_calibration(calibration))
        note = {'validation_scores': asdict(calibration)}
    description = describe(
        template,
        data,
        calibration=calibration,
        training={
            **data.names,
            'sequences': len(data.training),
            'draws': data.training.epoch_length,
            'fit': asdict(config),
            'augmentation': asdict(data.augmentation),
            **({} if start is None else {'start': start.path.name, 'start_sha256': start.sha256}),
            **note,
        },
        licence=options.licence,
    )
    save_model(options.out, network, description)
    checkpoint.unlink(missing_ok=True)
    print(f'model in {options.out}')


def _channels(options: argparse.Namespace) -> tuple[int, ...]:
    if options.channels_of is None:
        return stream_channels(options)
    return load_model(options.channels_of).description.network.channels


def _calibration_of_folds(
    options: argparse.Namespace, classes: tuple[str, ...]
) -> FrameCalibration:
    """Choose temperature and threshold from the folds, before anything is fitted."""
    rule = calibration_rule(options)
    frames = read_folds(options.calibration, classes=classes)
    calibration = calibrate_frames(frames, classes=classes, rule=rule)
    print(f'temperature {calibration.temperature:.3f}, CONFIDENT from '
          f'{calibration.abstention_threshold:.3f} on, by {len(frames)} frames of '
          f'{len(set(frames.tracks.subjects))} people not trained on')
    if calibration.is_cautious:
        print(f'{options.calibration}: {describe_caution(rule)}', file=sys.stderr)
    return calibration
