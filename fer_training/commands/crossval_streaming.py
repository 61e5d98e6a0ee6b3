# SPDX-License-Identifier: Apache-2.0
"""fer_train crossval --streaming: networks for every frame, each tried on unseen people."""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_perception.graph.edges import load_edge_list
from fer_training.commands.grow import growth_config
from fer_training.commands.options import (
    WARM_UP_S,
    augmentation,
    baseline_frames,
    calibration_rule,
    first_weights,
    fit_config,
    mixture,
    network_template,
    stream_baseline,
    stream_channels,
    track_sources,
)
from fer_training.commands.variations import file_name, vary
from fer_training.fit_recipes import FINE_TUNING, FROM_SCRATCH
from fer_training.frame_calibration import cross_fit, describe_caution
from fer_training.plan import NetworkPlan
from fer_training.streaming_comparison import compare_streaming
from fer_training.streaming_crossval import (
    StreamingFold,
    cross_validate_streaming,
    deal_subjects,
    read_folds,
)
from fer_training.streaming_report import write_streaming_report
from fer_training.streaming_scores import StreamingScores, measure_streaming

COMPARISON_FILE = 'comparison.md'


def cross_validate_and_report(
    options: argparse.Namespace, *, command: str, variations: Sequence[Mapping[str, Any]]
) -> None:
    """Run all folds of all seeds and variations, then write a report for each.

    Raises ValueError or OSError naming what is wrong with the options or the files.
    """
    if options.tracks is None:
        raise ValueError('--streaming needs --tracks FILE.npz, whose subjects are held out')
    if options.architecture != 'pst_bln':
        raise ValueError(f'only a pst_bln answers at every frame, not {options.architecture}')
    start = first_weights(options)
    sources = track_sources(options, classes=tuple(options.classes or ()))
    tracks, classes = sources.load(progress=True)
    folds = deal_subjects(
        tracks,
        always_in=[file.source for file in options.synthetic],
        folds=options.folds,
        seed=options.fold_seed,
    )
    is_grown = start is None and not options.channels
    base = NetworkPlan(
        architecture='pst_bln',
        template=network_template(
            options, classes=len(classes), channels=stream_channels(options), reads_clips=False
        ),
        edge_list=options.edge_list,
        fit=fit_config(options, FROM_SCRATCH if start is None else FINE_TUNING),
        growth=growth_config(options) if is_grown else None,
        augmentation=augmentation(options),
        first_weights=start,
        baseline_frames=baseline_frames(stream_baseline(options), sources.frame_rate),
    )
    title = options.name or 'PST-BLN' + (' (grown)' if is_grown else '')
    runs: list[tuple[str, int, Path, list[StreamingFold]]] = []
    for settings, seed in itertools.product(variations, options.seeds):
        name = ', '.join([title, *(f'{key}={value}' for key, value in settings.items())])
        plan = vary(base, settings).with_seed(seed)
        if start is not None:
            start.check(
                plan.template, classes=classes, edges=load_edge_list(options.edge_list),
                frame_rate=sources.frame_rate, baseline_s=stream_baseline(options),
                normalization=sources.normalization,
            )
        folder = options.out / file_name(name) / f'seed_{seed}'
        jobs = [
            StreamingFold(
                name=fold.name,
                sources=sources,
                held_out=fold.subjects,
                mixture=mixture(options, sources),
                plan=plan,
                warm_up_s=WARM_UP_S,
                samples=options.mc_samples,
                folder=folder / fold.name,
            )
            for fold in folds
        ]
        runs.append((name, seed, folder, jobs))
    cross_validate_streaming(
        [job for *_, jobs in runs for job in jobs],
        classes=classes,
        engine=options.engine,
        workers=options.processes,
        ray_address=options.ray_address,
    )
    rule = calibration_rule(options)
    measured: list[tuple[str, StreamingScores]] = []
    for name, seed, folder, _ in runs:
        frames = read_folds(folder, classes=classes)
        calibrations = cross_fit(frames, classes=classes, rule=rule)
        if any(calibration.is_cautious for calibration in calibrations.values()):
            print(f'{folder}: {describe_caution(rule)}', file=sys.stderr)
        scores = measure_streaming(
            frames, calibrations, classes=classes, frame_rate=sources.frame_rate
        )
        measured.append((name, scores))
        report = options.out / f'{folder.parent.name}_seed_{seed}'
        held_out = ', '.join(file.source for file in options.tracks)
        write_streaming_report(
            report, scores, title=f'{name}, seed {seed}, unseen people of {held_out}',
            command=command,
        )
        print(f'{name}, seed {seed}: report in {report}, folds in {folder}')
    table = compare_streaming(measured)
    comparison = options.out / COMPARISON_FILE
    comparison.write_text(f'`{command}`\n\n{table}', 'utf-8')
    print(table)
    print(f'all runs in {comparison}')
