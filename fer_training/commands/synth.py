# SPDX-License-Identifier: Apache-2.0
"""fer_train synth: synthesise expression sequences from a 3D landmark basis."""

import argparse
from pathlib import Path

from tqdm import tqdm

from fer_training.commands.arguments import Commands, positive
from fer_training.face_basis import load_face_basis
from fer_training.recipes import CLASSES
from fer_training.synthesis import synthesize_tracks
from fer_training.tracks import write_tracks


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser('synth', help='synthesise expression sequences from a 3D basis')
    parser.add_argument('--basis', type=Path, required=True,
                         help='3D landmark basis (.npz), or a checkout of ICT-FaceKit (folder)')
    parser.add_argument('--out', type=Path, required=True, help='track file to write (.npz)')
    parser.add_argument('--count', type=positive, default=3500, help='sequences (%(default)s)')
    parser.add_argument('--seed', type=int, default=1, help='(%(default)s)')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Synthesise tracks and write them."""
    basis = load_face_basis(options.basis, progress=True)
    drawn = synthesize_tracks(basis, count=options.count, seed=options.seed)
    tracks = list(tqdm(drawn, total=options.count, desc='synthesise', unit='track'))
    write_tracks(options.out, tracks)
    print(f'{len(tracks)} tracks of {len(CLASSES)} classes in {options.out}')
