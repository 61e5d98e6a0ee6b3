# SPDX-License-Identifier: Apache-2.0
"""fer_train curves: how a streaming model's answers change with how a face is seen."""

import argparse
import shlex
import sys
from pathlib import Path

from fer_perception.models.model_file import load_model
from fer_training.commands.arguments import Commands, positive
from fer_training.curves import CURVES_FILE, CurveSettings, measure_curves
from fer_training.curves_report import write_curves_report
from fer_training.face_basis import load_face_basis


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'curves',
        help='measure a streaming model over yaw, pitch, distance, frame rate, noise, face size',
    )
    parser.add_argument('--model', type=Path, required=True, help='model file (.safetensors)')
    parser.add_argument('--basis', type=Path, required=True,
                        help='3D landmark basis (.npz), or a checkout of ICT-FaceKit (folder)')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder for curves.json, curves.md and curves.png; points that its '
                        'curves.json has already are not measured again')
    parser.add_argument('--tracks-per-point', type=positive, metavar='NUMBER',
                        default=CurveSettings.tracks_per_point,
                        help='synthetic people at each level (%(default)s)')
    parser.add_argument('--samples', type=positive, default=CurveSettings.samples,
                        help='Monte Carlo samples (%(default)s)')
    parser.add_argument('--seed', type=int, default=CurveSettings.seed, help='(%(default)s)')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure what is missing, write the table and the picture."""
    model = load_model(options.model)
    basis = load_face_basis(options.basis, progress=True)
    curves = measure_curves(
        model,
        basis,
        settings=CurveSettings.of(
            options.model,
            basis,
            tracks_per_point=options.tracks_per_point,
            samples=options.samples,
            seed=options.seed,
        ),
        folder=options.out,
        command=shlex.join(['fer_train', *sys.argv[1:]]),
        progress=True,
    )
    picture, table = write_curves_report(options.out, curves)
    print(f'{len(curves.points)} points in {options.out / CURVES_FILE}, a table in {table}, '
          f'a picture in {picture}')
