# SPDX-License-Identifier: Apache-2.0
"""fer_train: one command for making data and models, with a subcommand for each step."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from fer_perception.graph.edges import EDGE_LISTS, load_edge_list
from fer_perception.graph.normalization import NORMALIZATIONS
from fer_perception.models.model_file import ModelDescription, save_model
from fer_perception.models.pst_bln import PADDINGS, PstBlnConfig
from fer_training.calibration import calibrate
from fer_training.dataset import track_tensors
from fer_training.edge_lists import reference_edges, unique_edges, write_edge_list
from fer_training.face_basis import load_face_basis
from fer_training.fitting import FitConfig, fit
from fer_training.recipes import CLASSES
from fer_training.synthesis import synthesize_tracks
from fer_training.tracks import read_tracks, write_tracks


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='fer_train', description='Make data and models, step by step.'
    )
    commands = parser.add_subparsers(dest='command', required=True)

    edges = commands.add_parser('edges', help='make the frozen edge lists from a mean face')
    edges.add_argument('--basis', type=Path, required=True, help='3D landmark basis (.npz)')
    edges.add_argument('--out', type=Path, required=True, help='folder for the lists')
    edges.set_defaults(run=run_edges)

    synth = commands.add_parser('synth', help='synthesise expression sequences from a 3D basis')
    synth.add_argument('--basis', type=Path, required=True, help='3D landmark basis (.npz)')
    synth.add_argument('--out', type=Path, required=True, help='track file to write (.npz)')
    synth.add_argument('--count', type=_positive, default=3500, help='sequences (%(default)s)')
    synth.add_argument('--seed', type=int, default=1, help='(%(default)s)')
    synth.set_defaults(run=run_synth)

    fitting = commands.add_parser('fit', help='fit a PST-BLN to tracks, calibrate and save it')
    fitting.add_argument('--tracks', type=Path, required=True, help='training tracks (.npz)')
    fitting.add_argument('--validation', type=Path, required=True, help='other people (.npz)')
    fitting.add_argument('--out', type=Path, required=True, help='model file (.safetensors)')
    fitting.add_argument('--channels', type=_positive, nargs='+', default=[10, 10, 10],
                         help='channels of each layer (%(default)s)')
    fitting.add_argument('--window', type=_positive, default=15,
                         help='frames that are pooled (%(default)s)')
    fitting.add_argument('--padding', choices=PADDINGS, default='causal')
    fitting.add_argument('--input-norm', action=argparse.BooleanOptionalAction, default=True,
                         help='batch norm of the input, as the reference has it (%(default)s)')
    fitting.add_argument('--dropout', type=float, default=0.2, help='(%(default)s)')
    fitting.add_argument('--frame-rate', type=float, default=30.0, help='Hz (%(default)s)')
    fitting.add_argument('--edge-list', choices=EDGE_LISTS, default=EDGE_LISTS[0])
    fitting.add_argument('--normalization', choices=NORMALIZATIONS, default=NORMALIZATIONS[0])
    fitting.add_argument('--warm-up', type=float, default=1 / 3, metavar='SECONDS',
                         help='evidence before any answer counts (%(default).2f)')
    fitting.add_argument('--epochs', type=_positive, default=12, help='(%(default)s)')
    fitting.add_argument('--batch-size', type=_positive, default=64, help='(%(default)s)')
    fitting.add_argument('--learning-rate', type=float, default=0.01, help='(%(default)s)')
    fitting.add_argument('--seed', type=int, default=1, help='(%(default)s)')
    fitting.add_argument('--licence', default='', help='terms of the weights')
    fitting.set_defaults(run=run_fit)
    return parser.parse_args(arguments)


def run_edges(options: argparse.Namespace) -> None:
    """Write both edge lists."""
    basis = load_face_basis(options.basis)
    options.out.mkdir(parents=True, exist_ok=True)
    write_edge_list(
        options.out / 'edges_181.json',
        unique_edges(basis),
        description='Unique edges of the mean face of ICT-FaceKit: Delaunay triangles of the 51 '
        'inner landmarks and every landmark to the nose (33). Made by fer_train edges.',
    )
    write_edge_list(
        options.out / 'edges_312_reference.json',
        reference_edges(basis),
        description='Edges as the reference implementation makes them, duplicates and the self-'
        'edge of the nose included; for comparison only. Made by fer_train edges.',
    )


def run_synth(options: argparse.Namespace) -> None:
    """Synthesise tracks and write them."""
    basis = load_face_basis(options.basis)
    drawn = synthesize_tracks(basis, count=options.count, seed=options.seed)
    tracks = list(tqdm(drawn, total=options.count, desc='synthesise', unit='track'))
    write_tracks(options.out, tracks)
    print(f'{len(tracks)} tracks of {len(CLASSES)} classes in {options.out}')


def run_fit(options: argparse.Namespace) -> None:
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return the exit code."""
    options = parse_arguments(arguments)
    try:
        options.run(options)
    except (OSError, ValueError) as error:
        print(f'fer_train {options.command}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nfer_train: interrupted; fit goes on after its last whole epoch', file=sys.stderr)
        return 130
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, not {value}')
    return value


if __name__ == '__main__':
    sys.exit(main())
