# SPDX-License-Identifier: Apache-2.0
"""MMI as distributed: sessions, each a video with files that describe it."""

import re
from pathlib import Path
from xml.etree import ElementTree

from fer_training.face_samples import FaceSample
from fer_training.protocols.face_listing import FaceListing
from fer_training.protocols.listing import LayoutError, existing_folder, folders_in
from fer_training.samples import Sample, videos_in

DATA_SET = 'MMI'
CLASSES = ('anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise')
CODES = {str(number): name for number, name in enumerate(CLASSES, start=1)}
FOLDERS = ('Sessions', '.')
SESSION_FILE = 'session.xml'
PROFILE_VIEW = '1'  # 0: frontal; 2: both, side by side
FRAME_RATE = 24.0  # of videos that tell none
# Some of the frontal videos lie on their side.
QUARTER_TURNS = (0, 1, 3)
SUBJECT = re.compile(r'(S\d+)-\d+')
MAX_FILE_BYTES = 1 << 20
PUBLISHED = '213 sequences of 30 subjects with one of the six expressions, 205 of them frontal'


def list_mmi(root: Path) -> FaceListing:
    """List the sessions of the six basic expressions: Sessions/<n>/S001-101.avi and its files.

    The data set's own description is for its users only; this is as loaders that others have
    published read it. Beside the video S001-101.avi of subject S001 lies S001-101.xml, where an
    element with Name="Emotion" has the expression as its Value: 1 anger, 2 disgust, 3 fear, 4
    happiness, 5 sadness, 6 surprise. In session.xml the element track tells the view: 0 frontal,
    1 in profile, 2 both at once. Sessions without a video, of another expression or none, and in
    profile only are left out. Every sequence goes from neutral to the apex and back, and all of
    it is taken. Raises LayoutError for another layout.
    """
    folder = existing_folder(root, FOLDERS, data_set=DATA_SET)
    samples = [
        sample
        for session in folders_in(folder)
        for video in videos_in(session)
        if (sample := _sample(video)) is not None
    ]
    if not samples:
        raise LayoutError(
            f'{folder} has no video of one of the six expressions such as 1/S001-101.avi with '
            '1/S001-101.xml'
        )
    return FaceListing(
        data_set=DATA_SET,
        samples=tuple(samples),
        classes=CLASSES,
        frame_rate=FRAME_RATE,
        published=PUBLISHED,
    )


def _sample(video: Path) -> FaceSample | None:
    """Make the sample of a video; None if it is not of the six expressions, or in profile."""
    described = video.with_suffix('.xml')
    if not described.is_file():
        return None
    values = [
        element.get('Value')
        for element in _read_xml(described).iter()
        if element.get('Name') == 'Emotion'
    ]
    label = CODES.get(values[0] or '') if values else None
    session = video.with_name(SESSION_FILE)
    if label is None or (session.is_file() and _is_profile(session)):
        return None
    told = SUBJECT.fullmatch(video.stem)
    if told is None:
        raise LayoutError(f'{video} is not named as {DATA_SET} has it, such as S001-101.avi')
    recording = Sample(path=video, label=label, subject=told[1], name=video.stem)
    return FaceSample(recording=recording, quarter_turns=QUARTER_TURNS)


def _is_profile(session: Path) -> bool:
    views = [
        element.get('view')
        for element in _read_xml(session).iter()
        if element.tag.rpartition('}')[2] == 'track'
    ]
    return bool(views) and all(view == PROFILE_VIEW for view in views)


def _read_xml(path: Path) -> ElementTree.Element:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f'it has more than {MAX_FILE_BYTES} bytes')
        content = path.read_bytes()
        if b'<!ENTITY' in content:
            raise ValueError('it defines entities')
        return ElementTree.fromstring(content)
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        raise LayoutError(f'{path} is no description of a session: {error}') from error
