# SPDX-License-Identifier: Apache-2.0
"""Options of everything that cuts faces, and the cutting that they ask for."""

import argparse
import sys

from fer_perception.faces.crop import FaceCrop
from fer_training.extraction import ExtractionConfig
from fer_training.face_extraction import FaceExtractionConfig, extract_faces
from fer_training.protocols.face_listing import FaceListing

NAMED_RECORDINGS = 5  # of those left out, so many are named


def add_face_options(parser: argparse._ActionsContainer) -> None:
    """Declare how faces are cut, on a parser or a group of it."""
    default = FaceExtractionConfig.crop
    parser.add_argument('--size', type=int, default=default.size, metavar='PIXELS',
                         help='side of the face images (%(default)s)')
    parser.add_argument('--margin', type=float, default=default.margin, metavar='SHARE',
                         help="share of the face's square that is added on each side "
                         '(%(default)s)')


def make_face_set(
    listing: FaceListing, landmarks: ExtractionConfig, options: argparse.Namespace
) -> None:
    """Cut the faces of a listing into the folder --out and say what came out."""
    print(listing.summary)
    face_set = extract_faces(
        listing,
        config=FaceExtractionConfig(
            landmarks=landmarks, crop=FaceCrop(size=options.size, margin=options.margin)
        ),
        out=options.out,
        workers=options.workers,
        progress=True,
    )
    if face_set.frames_left_out:
        named = ', '.join(face_set.left_out[:NAMED_RECORDINGS])
        more = ' ...' if len(face_set.left_out) > NAMED_RECORDINGS else ''
        whole = (
            f'; recordings without any: {len(face_set.left_out)}, {named}{more}' if named else ''
        )
        count = f'{face_set.frames_left_out} frame{"s" if face_set.frames_left_out > 1 else ""}'
        print(f'left out {count} without a face{whole}', file=sys.stderr)
    print(f'{face_set.summary}, {options.size} x {options.size} pixels, in {options.out}')
