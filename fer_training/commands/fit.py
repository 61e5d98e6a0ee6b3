# SPDX-License-Identifier: Apache-2.0
"""fer_train fit: fit a PST-BLN to tracks, calibrate and save it."""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from fer_perception.graph.edges import EDGE_LISTS, load_edge_list
from fer_perception.graph.normalization import NORMALIZATIONS
from fer_perception.models.model_file import ModelDescription, save_model
from fer_perception.models.pst_bln import PADDINGS, PstBlnConfig
from fer_training.calibration import calibrate
from fer_training.commands.arguments import Commands, positive
from fer_training.dataset import track_tensors
from fer_training.fitting import FitConfig, fit
from fer_training.recipes import CLASSES
from fer_training.tracks import read_tracks


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser('fit', help='fit a PST-BLN to tracks, calibrate and save it')
    parser.add_argument('--tracks', type=Path, required=True, help='training tracks (.npz)')
    parser.add_argument('--validation', type=Path, required=True, help='other people (.npz)')
    parser.add_argument('--out', type=Path, required=True, help='model file (.safetensors)')
    parser.add_argument('--channels', type=positive, nargs='+', default=[10, 10, 10],
                         help='channels of each layer (%(default)s)')
    parser.add_argument('--window', type=positive, default=15,
                         help='frames that are pooled (%(default)s)')
    parser.add_argument('--padding', choices=PADDINGS, default='causal')
    parser.add_argument('--input-norm', action=argparse.BooleanOptionalAction, default=True,
                         help='batch norm of the input, as the reference has it (%(default)s)')
    parser.add_argument('--dropout', type=float, default=0.2, help='(%(default)s)')
    parser.add_argument('--frame-rate', type=float, default=30.0, help='Hz (%(default)s)')
    parser.add_argument('--edge-list', choices=EDGE_LISTS, default=EDGE_LISTS[0])
    parser.add_argument('--normalization', choices=NORMALIZATIONS, default=NORMALIZATIONS[0])
    parser.add_argument('--warm-up', type=float, default=1 / 3, metavar='SECONDS',
                         help='evidence before any answer counts (%(default).2f)')
    parser.add_argument('--epochs', type=positive, default=12, help='(%(default)s)')
    parser.add_argument('--batch-size', type=positive, default=64, help='(%(default)s)')
    parser.add_argument('--learning-rate', type=float, default=0.01, help='(%(default)s)')
    parser.add_argument('--seed', type=int, default=1, help='(%(default)s)')
    parser.add_argument('--licence', default='', help='terms of the weights')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Fit, calibrate and save a model."""
    edges = load_edge_list(options.edge_list)
    config = PstBlnConfig(
        channels=tuple(options.channels),
        classes=len(CLASSES),
        edges=len(edges),
        padding=options.padding,
        window=options.window,
        dropout=options.dropout,
        input_norm=options.input_norm,
    )
    fit_config = FitConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    training, validation = (
        track_tensors(
            read_tracks(path),
            classes=CLASSES,
            frame_rate=options.frame_rate,
            normalization=options.normalization,
            progress=True,
        )
        for path in (options.tracks, options.validation)
    )
    edge_tensor = torch.from_numpy(edges)
    checkpoint = options.out.with_suffix('.checkpoint')
    network = fit(
        config, training, edges=edge_tensor, config=fit_config, checkpoint=checkpoint
    )
    calibration = calibrate(network, validation, edges=edge_tensor)
    print(
        f'validation, {calibration.frames} frames, {calibration.mc_samples} samples: accuracy '
        f'{calibration.accuracy:.3f}, macro F1 {calibration.macro_f1:.3f}; CONFIDENT from '
        f'{calibration.abstention_threshold:.2f} on: {calibration.coverage:.0%} of the frames, '
        f'{calibration.risk:.1%} of them wrong'
    )
    description = ModelDescription(
        network=config,
        edge_list=tuple((source, target) for source, target in edges.tolist()),
        classes=CLASSES,
        frame_rate=options.frame_rate,
        normalization=options.normalization,
        temperature=calibration.temperature,
        abstention_threshold=calibration.abstention_threshold,
        warm_up_s=options.warm_up,
        training={
            'tracks': options.tracks.name,
            'validation': options.validation.name,
            'sequences': len(training),
            'fit': asdict(fit_config),
            'validation_scores': asdict(calibration),
        },
        licence=options.licence,
    )
    save_model(options.out, network, description)
    checkpoint.unlink(missing_ok=True)
    print(f'model in {options.out}')
