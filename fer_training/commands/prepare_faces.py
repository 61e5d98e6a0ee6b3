# SPDX-License-Identifier: Apache-2.0
"""fer_train prepare: from data sets as distributed to sets of face images."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fer_training.commands.arguments import Commands
from fer_training.commands.extract import add_extraction_options, extraction_config
from fer_training.commands.face_options import add_face_options, make_face_set
from fer_training.protocols.afew import list_afew
from fer_training.protocols.affwild2 import list_affwild2
from fer_training.protocols.casia import list_casia
from fer_training.protocols.ckplus import list_ckplus
from fer_training.protocols.face_listing import (
    FaceListing,
    first_and_last_stills,
    joined,
    whole_recordings,
)
from fer_training.protocols.jaffe import list_jaffe
from fer_training.protocols.listing import Listing
from fer_training.protocols.mmi import list_mmi
from fer_training.protocols.sfew import list_sfew

# Options of landmark clips, which face images have no use for.
CLIP_OPTIONS = (
    'normalization', 'displacement', 'edge_list', 'augment', 'flip', 'seed', 'folds',
    'leave_one_subject_out', 'neutral', 'frames',
)

Lister = Callable[[argparse.Namespace], FaceListing]


def add_parsers(sets: Commands) -> None:
    """Declare the data sets that are prepared as face images only."""
    sfew = _add_parser(
        sets, 'sfew', _list_sfew,
        help='SFEW 2.0, face images: <root>/Train/Angry/*.png, <root>/Val/..., <root>/Test/*.png')
    sfew.add_argument('--aligned', action='store_true',
                       help="take the data set's own aligned faces (Train_Aligned_Faces, ...)")
    _add_parser(
        sets, 'jaffe', lambda options: list_jaffe(options.root),
        help='JAFFE, face images: <root>/KA.AN1.39.tiff')
    _add_parser(
        sets, 'mmi', lambda options: list_mmi(options.root),
        help='MMI, face images: <root>/Sessions/<n>/S001-101.avi with its .xml files')
    _add_parser(
        sets, 'affwild2', lambda options: list_affwild2(options.root),
        help='Aff-Wild2, face images: <root>/cropped_aligned/<video>/00001.jpg, '
        '<root>/annotations/EXPR_Set/Train_Set/<video>.txt')


def add_faces_flag(parser: argparse.ArgumentParser, lister: Lister, *, stills: bool) -> None:
    """Let a data set of landmark clips be prepared as face images too; call this last.

    stills: offer the first and the last frames of its sequences as still images.
    """
    faces = parser.add_argument_group('face images')
    faces.add_argument('--faces', action='store_true',
                        help='make a set of face images of whole recordings instead of clips')
    if stills:
        faces.add_argument('--stills', action='store_true',
                            help='with --faces: still images, the first one of each sequence as '
                            'neutral and the last --last-frames with its expression')
    add_face_options(faces)
    defaults = {
        name: parser.get_default(name)
        for name in (*CLIP_OPTIONS, 'last_frames', 'size', 'margin', 'stills')
    }
    parser.set_defaults(list_faces=lister, defaults=defaults)


def list_afew_faces(options: argparse.Namespace) -> FaceListing:
    """List the videos of AFEW's two parts."""
    parts = [
        whole_recordings(list_afew(options.root, part=part), part=part)
        for part in ('train', 'val')
    ]
    return joined(parts, data_set='AFEW')


def list_ckplus_faces(options: argparse.Namespace) -> FaceListing:
    """List the sequences of CK+, or the first and the last images of each."""
    return _sequences_or_stills(list_ckplus(options.root), options)


def list_casia_faces(options: argparse.Namespace) -> FaceListing:
    """List the sequences of Oulu-CASIA, or the first and the last images of each."""
    listing = list_casia(
        options.root, camera=options.camera, illumination=options.illumination
    )
    return _sequences_or_stills(listing, options)


def prepare_faces(options: argparse.Namespace) -> None:
    """Make a face set of a data set that is otherwise prepared as clips."""
    stills = getattr(options, 'stills', False)
    ignored = [*CLIP_OPTIONS] + ([] if stills else ['last_frames'])
    _refuse(options, ignored, 'is of landmark clips: leave it out, or leave out --faces')
    _make(options, list_faces=options.list_faces)


def refuse_face_options(options: argparse.Namespace) -> None:
    """Refuse what is of face images only where clips are made."""
    _refuse(options, ['size', 'margin', 'stills'], 'is of face images: add --faces')


def _add_parser(
    sets: Commands, name: str, lister: Lister, *, help: str
) -> argparse.ArgumentParser:
    parser = sets.add_parser(name, help=help)
    parser.add_argument('root', type=Path, metavar='SOURCE', help='root folder of the data set')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to make')
    add_face_options(parser)
    add_extraction_options(parser)
    parser.set_defaults(run=partial(_make, list_faces=lister))
    return parser


def _make(options: argparse.Namespace, *, list_faces: Lister) -> None:
    listing = list_faces(options)
    make_face_set(listing, extraction_config(options, frame_rate=listing.frame_rate), options)


def _list_sfew(options: argparse.Namespace) -> FaceListing:
    return list_sfew(options.root, aligned=options.aligned)


def _sequences_or_stills(listing: Listing, options: argparse.Namespace) -> FaceListing:
    if options.stills:
        return first_and_last_stills(listing, last=options.last_frames)
    return whole_recordings(listing)


def _refuse(options: argparse.Namespace, names: list[str], reason: str) -> None:
    for name in names:
        default = options.defaults[name]
        if getattr(options, name, default) != default:
            raise ValueError(f'--{name.replace("_", "-")} {reason}')
