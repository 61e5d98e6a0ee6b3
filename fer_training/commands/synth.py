# SPDX-License-Identifier: Apache-2.0
"""fer_train synth: synthesise expression sequences from a 3D landmark basis."""

import argparse
import os
from pathlib import Path

from tqdm import tqdm

from fer_training.commands.arguments import Commands, positive, positive_number
from fer_training.face_basis import load_face_basis
from fer_training.recipes import CLASSES, VARIANTS
from fer_training.synthesis import SynthesisConfig, synthesize_tracks
from fer_training.synthesis.landmark_noise import read_noise
from fer_training.tracks import write_tracks


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser('synth', help='synthesise expression sequences from a 3D basis')
    parser.add_argument('--basis', type=Path, required=True,
                         help='3D landmark basis (.npz), or a checkout of ICT-FaceKit (folder)')
    parser.add_argument('--out', type=Path, required=True, help='track file to write (.npz)')
    parser.add_argument('--count', type=positive, default=3500, help='sequences (%(default)s)')
    parser.add_argument('--seed', type=int, default=1, help='(%(default)s)')
    parser.add_argument('--variants', choices=VARIANTS, default='training',
                         help='recipes to draw from: those of training, those kept from it for a '
                         'test set of other people, or all (%(default)s)')
    parser.add_argument('--duration', type=positive_number, default=SynthesisConfig.duration_s,
                         help='seconds of each sequence (%(default)s)')
    parser.add_argument('--noise', type=Path, metavar='JSON',
                         help="landmark noise that fer_train noise measured (the package's own, "
                         'measured of dlib)')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Synthesise tracks and write them."""
    basis = load_face_basis(options.basis, progress=True)
    drawn = synthesize_tracks(
        basis,
        count=options.count,
        seed=options.seed,
        variants=options.variants,
        config=SynthesisConfig(duration_s=options.duration),
        noise=read_noise(options.noise) if options.noise else None,
    )
    tracks = list(tqdm(drawn, total=options.count, desc='synthesise', unit='track'))
    scratch = options.out.with_name(f'.{options.out.name}.{os.getpid()}')
    write_tracks(scratch, tracks)
    scratch.replace(options.out)
    print(f'{len(tracks)} tracks of {len(CLASSES)} classes in {options.out}')
