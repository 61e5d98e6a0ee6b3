# SPDX-License-Identifier: Apache-2.0
"""fer_train noise: measure the noise of detected landmarks in videos, for synthesis."""

import argparse
import shutil
from pathlib import Path

from fer_perception.sources import FALLBACK_FRAME_RATE
from fer_training.commands.arguments import Commands
from fer_training.commands.extract import (
    add_extraction_options,
    extraction_config,
    faceless_paths,
    warn_left_out,
)
from fer_training.extraction import extract_tracks
from fer_training.noise_measurement import measure_noise
from fer_training.samples import Sample, find_recordings
from fer_training.synthesis.landmark_noise import write_noise
from fer_training.tracks import read_tracks

EPILOG = """examples:
  fer_train noise clip.mp4 other.gif --out noise.json
  fer_train noise --tracks openface.npz --out noise.json

Landmarks are found as fer_train extract finds them. What moves faster than a face does is taken
for noise; every recording counts the same. Use the file with fer_train synth --noise."""


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'noise',
        help='measure the noise of detected landmarks in videos, for synth',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('sources', nargs='*', type=Path, metavar='SOURCE',
                         help='video, folder of images, or tree of both')
    parser.add_argument('--tracks', type=Path, metavar='NPZ',
                         help='tracks of a detector to measure instead')
    parser.add_argument('--out', type=Path, required=True, help='noise file to write (.json)')
    parser.add_argument('--fps', type=float, default=FALLBACK_FRAME_RATE,
                         help='frames per second of image folders, and of videos that tell none '
                         '(%(default)s)')
    add_extraction_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Find landmarks, measure their noise and write it."""
    if bool(options.sources) == (options.tracks is not None):
        raise ValueError('give either recordings or --tracks')
    if options.tracks is not None:
        tracks = read_tracks(options.tracks)
    else:
        samples = [
            Sample(path=path, subject=path.name) for path in find_recordings(options.sources)
        ]
        parts = options.out.with_name(options.out.name + '.part')
        extracted = extract_tracks(
            samples,
            config=extraction_config(options, frame_rate=options.fps),
            parts=parts,
            workers=options.workers,
            progress=True,
        )
        warn_left_out(faceless_paths(samples, extracted), 'without any face')
        tracks = [track for track in extracted if track is not None]
        shutil.rmtree(parts)
    noise = measure_noise(tracks)
    write_noise(options.out, noise)
    for name, part in noise.parts.items():
        print(f'{name}: {part.white:.4f} white, {part.drift:.4f} drift, in face sizes')
    print(f'{len(tracks)} recordings measured, in {options.out}')
