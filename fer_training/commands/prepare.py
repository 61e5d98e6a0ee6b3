# SPDX-License-Identifier: Apache-2.0
"""fer_train prepare: from data sets as distributed, or track files, to the papers' protocols."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fer_perception.graph.edges import EDGE_LISTS
from fer_perception.graph.normalization import NORMALIZATIONS
from fer_perception.models.model_file import CLIP_DISPLACEMENTS
from fer_training.clips import ClipPreparation
from fer_training.commands.arguments import Commands, positive
from fer_training.commands.extract import (
    add_extraction_options,
    extraction_config,
    faceless_paths,
    warn_left_out,
)
from fer_training.commands.prepare_faces import (
    add_faces_flag,
    add_parsers,
    list_afew_faces,
    list_casia_faces,
    list_ckplus_faces,
    prepare_faces,
    refuse_face_options,
)
from fer_training.extraction import extract_tracks
from fer_training.protocols.afew import list_afew
from fer_training.protocols.augmentation import FLIPS, ProtocolAugmentation
from fer_training.protocols.casia import CAMERAS, ILLUMINATIONS, list_casia
from fer_training.protocols.ckplus import CLASSES_WITH_NEUTRAL, list_ckplus, with_neutral_class
from fer_training.protocols.description import (
    PROTOCOL_FILE,
    ProtocolDescription,
    SplitDescription,
)
from fer_training.protocols.expressions import in_project_order
from fer_training.protocols.folds import Fold, leave_one_subject_out, subject_folds
from fer_training.protocols.listing import Listing
from fer_training.protocols.writing import ClipConfig, NamedTracks, write_folds, write_split
from fer_training.tracks import read_tracks, write_tracks

PARTS_FOLDER = 'extraction.part'
TRACKS_FILE = 'tracks.npz'

DESCRIPTION = """Make protocol files: the reference's .npy and _labels.pkl of the training and the
validation part, per fold, with the tracks they were made from and a protocol.json that says what
is in them; or a set of face images, with landmarks and labels, for the recognisers that read
images (sfew, jaffe, mmi, affwild2; --faces of afew, ckplus, casia). An interrupted extraction goes
on when called again."""


def add_parser(commands: Commands) -> None:
    """Declare the subcommand and one subcommand of it per data set."""
    parser = commands.add_parser(
        'prepare', help='make protocol files from a data set or tracks', description=DESCRIPTION
    )
    sets = parser.add_subparsers(dest='data_set', required=True)

    afew = sets.add_parser('afew', help='AFEW: <root>/Train/Angry/*.avi, <root>/Val/...')
    _add_common_options(afew, normalization='centred', augment=True)
    afew.add_argument('--frames', type=positive, default=150, metavar='N',
                       help='at equal intervals, tiled if there are fewer (%(default)s)')
    add_extraction_options(afew)
    afew.set_defaults(run=_prepare_afew)
    add_faces_flag(afew, list_afew_faces, stills=False)

    ckplus = sets.add_parser(
        'ckplus', help='CK+: <root>/cohn-kanade-images/S005/001/*.png, <root>/Emotion/...')
    _add_common_options(ckplus, normalization='centred', augment=False)
    _add_fold_options(ckplus)
    _add_last_frames_option(ckplus)
    ckplus.add_argument('--neutral', action='store_true',
                         help="take Neutral for the seventh class, made from each subject's "
                         'first frames, as the reference does, in place of contempt')
    add_extraction_options(ckplus)
    ckplus.set_defaults(run=_prepare_ckplus)
    add_faces_flag(ckplus, list_ckplus_faces, stills=True)

    casia = sets.add_parser(
        'casia', help='Oulu-CASIA: <root>/OriginalImg/VL/Strong/P001/Anger/*.jpeg')
    _add_common_options(casia, normalization='centred', augment=False)
    _add_fold_options(casia)
    _add_last_frames_option(casia)
    casia.add_argument('--camera', choices=CAMERAS, default=CAMERAS[0],
                        help='visible light or near infrared (%(default)s)')
    casia.add_argument('--illumination', choices=ILLUMINATIONS, default=ILLUMINATIONS[0],
                        help='(%(default)s, the normal one)')
    add_extraction_options(casia)
    casia.set_defaults(run=_prepare_casia)
    add_faces_flag(casia, list_casia_faces, stills=True)

    tracks = sets.add_parser('tracks', help='a track file, such as fer_train extract writes')
    _add_common_options(tracks, normalization='similarity', augment=False, source='track file')
    _add_fold_options(tracks)
    tracks.add_argument('--classes', nargs='+', metavar='LABEL',
                         help='in their order; tracks of other labels are left out (all)')
    chosen = tracks.add_mutually_exclusive_group(required=True)
    chosen.add_argument('--frames', type=positive, metavar='N',
                         help='frames at equal intervals, tiled if there are fewer')
    chosen.add_argument('--last-frames', type=positive, metavar='N',
                         help='the first frame and the last N')
    tracks.set_defaults(run=_prepare_tracks)

    add_parsers(sets)


def _add_common_options(
    parser: argparse.ArgumentParser,
    *,
    normalization: str,
    augment: bool,
    source: str = 'root folder of the data set',
) -> None:
    parser.add_argument('root', type=Path, metavar='SOURCE', help=source)
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to make')
    parser.add_argument('--normalization', choices=NORMALIZATIONS, default=normalization,
                         help="(%(default)s) 'centred' subtracts the nose only, as the paper does")
    parser.add_argument('--displacement', choices=CLIP_DISPLACEMENTS,
                         default=CLIP_DISPLACEMENTS[0],
                         help='frame of a clip that is subtracted from all of it (%(default)s)')
    parser.add_argument('--edge-list', choices=EDGE_LISTS,
                         help='write the vectors of these edges instead of the 51 landmarks')
    parser.add_argument('--augment', action=argparse.BooleanOptionalAction, default=augment,
                         help='make 14 versions of each training clip: noise, rotation, flip')
    parser.add_argument('--flip', choices=FLIPS, default=FLIPS[0],
                         help='of the augmentation: mirror the face, or reverse the time as the '
                         'reference does (%(default)s)')
    parser.add_argument('--seed', type=int, default=1,
                         help='of folds and augmentation (%(default)s)')


def _add_fold_options(parser: argparse.ArgumentParser) -> None:
    folds = parser.add_mutually_exclusive_group()
    folds.add_argument('--folds', type=positive, default=10, metavar='N',
                        help='folds by subject (%(default)s)')
    folds.add_argument('--leave-one-subject-out', action='store_true',
                        help='one fold for each subject instead')


def _add_last_frames_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--last-frames', type=positive, default=3, metavar='N',
                         help='the first frame and the last N make a clip (%(default)s; the '
                         'reference takes 4)')


@dataclass(frozen=True, kw_only=True)
class _Extracted:
    """Hold the tracks of a data set's recordings, and the names of those without a face."""

    named: NamedTracks
    left_out: tuple[str, ...]


def _prepare_afew(options: argparse.Namespace) -> None:
    """Prepare the training and the validation part of AFEW."""
    if options.faces:
        return prepare_faces(options)
    refuse_face_options(options)
    listings = [list_afew(options.root, part=part) for part in ('train', 'val')]
    _claim(options.out)
    config = _clip_config(
        options, classes=listings[0].classes, frames=options.frames
    )
    train, validation = (_extract(listing, options) for listing in listings)
    split = write_split(
        options.out,
        train=train.named,
        validation=validation.named,
        config=config,
        relative_to=options.out,
        progress=True,
    )
    files = {f'train_{TRACKS_FILE}': train.named, f'val_{TRACKS_FILE}': validation.named}
    _finish(
        options, config, data_set='AFEW', files=files, splits=(split,),
        left_out=train.left_out + validation.left_out,
    )


def _prepare_ckplus(options: argparse.Namespace) -> None:
    """Prepare folds of CK+."""
    if options.faces:
        return prepare_faces(options)
    refuse_face_options(options)
    listing = list_ckplus(options.root)
    _folds([sample.subject for sample in listing.samples], options)  # refuse before extracting
    _claim(options.out)
    extracted = _extract(listing, options)
    named, classes = extracted.named, listing.classes
    if options.neutral:
        tracks, names = with_neutral_class(named.tracks, named.names)
        named, classes = NamedTracks(tracks=tracks, names=names), CLASSES_WITH_NEUTRAL
    config = _clip_config(
        options, classes=classes, last_frames=options.last_frames
    )
    _write_folds_of(options, config, named, listing.data_set, extracted.left_out)


def _prepare_casia(options: argparse.Namespace) -> None:
    """Prepare folds of Oulu-CASIA."""
    if options.faces:
        return prepare_faces(options)
    refuse_face_options(options)
    listing = list_casia(
        options.root, camera=options.camera, illumination=options.illumination
    )
    _folds([sample.subject for sample in listing.samples], options)  # refuse before extracting
    _claim(options.out)
    extracted = _extract(listing, options)
    config = _clip_config(
        options, classes=listing.classes, last_frames=options.last_frames
    )
    _write_folds_of(options, config, extracted.named, listing.data_set, extracted.left_out)


def _prepare_tracks(options: argparse.Namespace) -> None:
    """Prepare folds of a track file."""
    if (options.out / TRACKS_FILE).resolve() == options.root.resolve():
        raise ValueError(f'{options.out} would overwrite {options.root}: choose another --out')
    tracks = [track for track in read_tracks(options.root) if len(track.found_landmarks)]
    classes = tuple(options.classes or in_project_order(track.label for track in tracks))
    kept = [track for track in tracks if track.label in classes]
    if not kept:
        raise ValueError(f'{options.root} has no track of the classes {", ".join(classes)}')
    if len(kept) < len(tracks):
        print(f'left out {len(tracks) - len(kept)} tracks of other labels', file=sys.stderr)
    names = [f'{track.label}_{track.subject}_{index}' for index, track in enumerate(kept)]
    config = _clip_config(
        options, classes=classes, frames=options.frames, last_frames=options.last_frames
    )
    named = NamedTracks(tracks=kept, names=names)
    _claim(options.out)
    _write_folds_of(options, config, named, options.root.name, ())


def _clip_config(
    options: argparse.Namespace,
    *,
    classes: tuple[str, ...],
    frames: int | None = None,
    last_frames: int | None = None,
) -> ClipConfig:
    """Make clips of `frames` at equal intervals, or of the first and the last few."""
    preparation = ClipPreparation(
        frames=frames or 1 + (last_frames or 0),
        sampling='intervals' if frames else 'first_and_last',
        normalization=options.normalization,
        displacement=options.displacement,
    )
    return ClipConfig(
        classes=classes,
        preparation=preparation,
        edge_list=options.edge_list,
        augmentation=(
            ProtocolAugmentation(flip=options.flip, seed=options.seed) if options.augment else None
        ),
    )


def _claim(out: Path) -> None:
    """Make the output folder; refuse one that was prepared already."""
    if (out / PROTOCOL_FILE).exists():
        raise ValueError(f'{out} holds prepared files already: remove it or choose another --out')
    out.mkdir(parents=True, exist_ok=True)


def _extract(listing: Listing, options: argparse.Namespace) -> _Extracted:
    """Extract the tracks of a listing's recordings; finished ones are kept in a folder."""
    print(listing.summary)
    extracted = extract_tracks(
        listing.samples,
        config=extraction_config(options, frame_rate=listing.frame_rate),
        parts=options.out / PARTS_FOLDER,
        workers=options.workers,
        progress=True,
    )
    warn_left_out(faceless_paths(listing.samples, extracted), 'without any face')
    pairs = list(zip(listing.samples, extracted, strict=True))
    return _Extracted(
        named=NamedTracks(
            tracks=[track for _, track in pairs if track is not None],
            names=[sample.name for sample, track in pairs if track is not None],
        ),
        left_out=tuple(sample.name for sample, track in pairs if track is None),
    )


def _write_folds_of(
    options: argparse.Namespace,
    config: ClipConfig,
    named: NamedTracks,
    data_set: str,
    left_out: tuple[str, ...],
) -> None:
    """Write the folds that the options ask for, and all that belongs to them."""
    folds = _folds([track.subject for track in named.tracks], options)
    splits = write_folds(options.out, named, folds, config=config, progress=True)
    _finish(
        options, config, data_set=data_set, files={TRACKS_FILE: named}, splits=splits,
        left_out=left_out,
    )


def _folds(subjects: Sequence[str], options: argparse.Namespace) -> list[Fold]:
    """Make the folds that the options ask for. Raises ValueError if that is not possible."""
    if options.leave_one_subject_out:
        return leave_one_subject_out(subjects)
    return subject_folds(subjects, count=options.folds, seed=options.seed)


def _finish(
    options: argparse.Namespace,
    config: ClipConfig,
    *,
    data_set: str,
    files: dict[str, NamedTracks],
    splits: tuple[SplitDescription, ...],
    left_out: tuple[str, ...],
) -> None:
    """Write the track files and, last of all, protocol.json; tidy up."""
    for name, named in files.items():
        write_tracks(options.out / name, list(named.tracks))
    augmentation = config.augmentation
    ProtocolDescription(
        data_set=data_set,
        classes=config.classes,
        preparation=config.preparation,
        features=config.edge_list or 'landmarks',
        seed=options.seed,
        augmentation=None if augmentation is None else asdict(augmentation),
        track_files=tuple(files),
        splits=splits,
        left_out=left_out,
    ).write(options.out)
    shutil.rmtree(options.out / PARTS_FOLDER, ignore_errors=True)
    clips = sum(len(named.tracks) for named in files.values())
    print(
        f'{clips} clips of {config.preparation.frames} frames, {len(config.classes)} classes, '
        f'{len(splits)} split{"s" if len(splits) > 1 else ""} in {options.out}'
    )
