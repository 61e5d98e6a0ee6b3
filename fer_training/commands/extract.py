# SPDX-License-Identifier: Apache-2.0
"""fer_train extract: landmark tracks or face images from videos, images and OpenFace files."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fer_perception.sources import FALLBACK_FRAME_RATE
from fer_training.commands.arguments import Commands, positive
from fer_training.commands.face_options import add_face_options, make_face_set
from fer_training.extraction import ExtractionConfig, default_landmark_model, extract_tracks
from fer_training.openface import MIN_CONFIDENCE, read_openface_files
from fer_training.protocols.face_listing import own_recordings
from fer_training.samples import (
    Layout,
    Sample,
    at_other_depths,
    find_recordings,
    samples_by_layout,
    samples_by_table,
)
from fer_training.tracks import Track, write_tracks

NAMED_PATHS = 5  # of those left out, so many are named

EPILOG = """examples:
  fer_train extract clip.mp4 --label happiness --subject anna --out clip.npz
  fer_train extract recordings --layout '{label}/{subject}/*' --out tracks.npz
  fer_train extract recordings --labels recordings/labels.csv --out tracks.npz
  fer_train extract --openface processed/*.csv --layout '{subject}_{label}' --out tracks.npz
  fer_train extract recordings --layout '{label}/{subject}/*' --faces --out faces

Every folder that directly holds images is one sequence, every video one recording. An interrupted
extraction goes on when called again: until it is done, finished recordings are kept beside the
output in a folder that ends in .part."""


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'extract',
        help='extract landmark tracks or face images from videos and images, or import OpenFace '
        'files',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('sources', nargs='*', type=Path, metavar='SOURCE',
                         help='video, folder of images, or tree of both')
    parser.add_argument('--openface', nargs='+', type=Path, default=[], metavar='CSV',
                         help='CSV files of OpenFace to import instead')
    parser.add_argument('--out', type=Path, required=True,
                         help='track file to write (.npz), or with --faces the folder to make')
    parser.add_argument('--label', default='', help='of all recordings, where nothing else tells')
    parser.add_argument('--subject', default='', help='of all recordings, likewise')
    told = parser.add_mutually_exclusive_group()
    told.add_argument('--layout', type=_layout, metavar='PATTERN',
                       help="how the end of each path tells label and subject, with {label}, "
                       "{subject} and *, such as '{label}/{subject}/*'; a file counts without "
                       'its suffix')
    told.add_argument('--labels', type=Path, metavar='CSV',
                       help='table with the columns file (relative to its folder), label, '
                       'subject; recordings that are not in it are left out')
    parser.add_argument('--fps', type=float, default=FALLBACK_FRAME_RATE,
                         help='frames per second of image folders, and of videos and CSV files '
                         'that tell none (%(default)s)')
    parser.add_argument('--min-confidence', type=float, default=MIN_CONFIDENCE,
                         help='of OpenFace, below which a frame counts as without a face '
                         '(%(default)s)')
    add_extraction_options(parser)
    faces = parser.add_argument_group('face images')
    faces.add_argument('--faces', action='store_true',
                        help='cut the faces out and make a set of face images instead of tracks')
    add_face_options(faces)
    parser.set_defaults(run=run)


def add_extraction_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of everything that extracts landmarks."""
    parser.add_argument('--workers', type=positive, default=os.cpu_count() or 1,
                         help='processes (%(default)s); the result is the same with any number')
    parser.add_argument('--landmark-model', type=Path, metavar='DAT',
                         help="dlib's 68-landmark model (the one fetched by fer_assets)")
    parser.add_argument('--upsample', type=int, default=1, metavar='N',
                         help='how often an image is doubled when no face is found in it: finds '
                         'smaller faces, takes longer (%(default)s)')


def extraction_config(options: argparse.Namespace, *, frame_rate: float) -> ExtractionConfig:
    """Read the options of add_extraction_options."""
    return ExtractionConfig(
        landmark_model=options.landmark_model or default_landmark_model(),
        frame_rate=frame_rate,
        upsample=options.upsample,
    )


def run(options: argparse.Namespace) -> None:
    """Extract or import tracks, or cut faces, and write them."""
    if bool(options.sources) == bool(options.openface):
        raise ValueError('give either sources to extract from or --openface with CSV files')
    if options.openface:
        if options.faces:
            raise ValueError('CSV files of OpenFace hold no images: give videos with --faces')
        samples = _samples(options.openface, options)
        tracks, faceless = read_openface_files(
            samples,
            min_confidence=options.min_confidence,
            fallback_frame_rate=options.fps,
        )
        _write(options.out, tracks, faceless)
        return
    samples = _samples(find_recordings(options.sources), options)
    if options.faces:
        listing = own_recordings(
            samples, data_set=options.out.name or 'faces', frame_rate=options.fps
        )
        make_face_set(listing, extraction_config(options, frame_rate=options.fps), options)
        return
    parts = options.out.with_name(options.out.name + '.part')
    extracted = extract_tracks(
        samples,
        config=extraction_config(options, frame_rate=options.fps),
        parts=parts,
        workers=options.workers,
        progress=True,
    )
    _write(
        options.out,
        [track for track in extracted if track is not None],
        faceless_paths(samples, extracted),
    )
    shutil.rmtree(parts)


def faceless_paths(samples: Sequence[Sample], tracks: Sequence[Track | None]) -> list[Path]:
    """List the recordings without a track."""
    return [
        sample.path for sample, track in zip(samples, tracks, strict=True) if track is None
    ]


def warn_left_out(paths: Sequence[Path], reason: str) -> None:
    """Print one line on recordings that are left out; nothing if there are none."""
    if paths:
        print(f'left out {_named(paths, reason)}', file=sys.stderr)


def _named(paths: Sequence[Path], what: str) -> str:
    named = ', '.join(str(path) for path in paths[:NAMED_PATHS])
    more = ' ...' if len(paths) > NAMED_PATHS else ''
    count = f'{len(paths)} recording' + ('s' if len(paths) > 1 else '')
    return f'{count} {what}: {named}{more}'


def _layout(text: str) -> Layout:
    try:
        return Layout(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _samples(paths: Sequence[Path], options: argparse.Namespace) -> list[Sample]:
    """Label the recordings as the options say."""
    unlike: list[Path] = []
    if options.layout is not None:
        samples, unlike = samples_by_layout(
            paths, options.layout, label=options.label, subject=options.subject
        )
        warn_left_out(unlike, 'unlike the layout')
        matched = [sample.path for sample in samples]
        if deep := at_other_depths(matched, options.sources, options.layout):
            what = (
                f'not {options.layout.parts} deep below its source as {options.layout.pattern!r} '
                'has it, so that label and subject may be wrong'
            )
            print(_named(deep, what), file=sys.stderr)
    elif options.labels is not None:
        samples, unlike = samples_by_table(
            paths, options.labels, label=options.label, subject=options.subject
        )
        warn_left_out(unlike, f'not in {options.labels}')
    else:
        samples = [
            Sample(path=path, label=options.label, subject=options.subject) for path in paths
        ]
    return samples


def _write(out: Path, tracks: list[Track], faceless: Sequence[Path]) -> None:
    warn_left_out(faceless, 'without any face')
    if not tracks:
        raise ValueError('no recording shows a face')
    scratch = out.with_name(f'.{out.name}.{os.getpid()}')
    write_tracks(scratch, tracks)
    scratch.replace(out)
    frames = sum(len(track.landmarks) for track in tracks)
    found = sum(len(track.found_landmarks) for track in tracks)
    count = f'{len(tracks)} track' + ('s' if len(tracks) > 1 else '')
    print(f'{count}, {frames} frames, {frames - found} of them without a face, in {out}')
