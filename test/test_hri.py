# SPDX-License-Identifier: Apache-2.0
"""ROS4HRI messages without ROS: what stands in them, what is not said, what is refused."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faces_made import face_landmarks
from hri_messages_made import definitions
from hypothesis import given
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from fer_perception.affect import COORDINATES
from fer_perception.faces.face import Box, Face
from fer_perception.faces.identifiers import Identifiers
from fer_perception.faces.place import FacePlace
from fer_perception.hri import (
    CROP_SIDE,
    EXPRESSIONS,
    POINT_COUNT,
    HriMessageError,
    cropped_face,
    facial_landmarks_message,
    hri_expression_message,
    is_face_id,
    landmarks_from_message,
    load_hri_messages,
    roi_message,
    tracked_message,
)
from fer_perception.messages import header_message, stamp_ns
from fer_perception.uncertainty.estimate import ExpressionEstimate, ExpressionState

LABELS = tuple(COORDINATES)
SIZE = (640, 480)

TYPES = get_typestore(Stores.ROS2_JAZZY)
for kind, text in definitions().items():
    TYPES.register(get_types_from_msg(text, f'hri_msgs/msg/{kind}'))


def make(type_name: str, **fields: Any) -> Any:
    return TYPES.types[type_name](**fields)


def sent(message: Any) -> Any:
    """Return the message as it arrives: through CDR and back."""
    kind = message.__msgtype__
    return TYPES.deserialize_cdr(TYPES.serialize_cdr(message, kind), kind)


HEADER = header_message(make, stamp_ns=1_500_000_000, frame_id='camera')


def face_at(x: float, y: float, side: float, face_id: str = 'a0000') -> Face:
    """Make a schematic face of that height about a place, in pixels."""
    landmarks = face_landmarks(frames=1, movement=0.0)[0] * side / 125 + (x, y)
    return Face(face_id, FacePlace.from_landmarks(landmarks).box, landmarks.astype(np.float32))


def estimate_of(
    probabilities: dict[str, float], state: ExpressionState = ExpressionState.CONFIDENT
) -> ExpressionEstimate:
    """Make an estimate; what is left of the probabilities is shared out among our classes."""
    rest = (1.0 - sum(probabilities.values())) / len(LABELS)
    labels = (*LABELS, *(probabilities.keys() - set(LABELS)))
    values = [probabilities.get(label, 0.0) + rest * (label in LABELS) for label in labels]
    return ExpressionEstimate(
        state=state,
        labels=labels,
        probabilities=np.array(values),
        standard_deviations=np.zeros(len(labels)),
        predictive_entropy=0.0,
        expected_entropy=0.0,
        mutual_information=0.0,
        mc_samples=10,
        window_s=1.0,
    )


@pytest.mark.parametrize('ids', [[], ['a0000'], ['a0000', 'k3x9z']])
def test_tracked_holds_the_ids_and_the_header_of_the_image(ids: list[str]) -> None:
    message = sent(tracked_message(make, ids, HEADER))
    assert message.ids == ids
    assert (stamp_ns(message.header), message.header.frame_id) == (1_500_000_000, 'camera')


@given(st.floats(-200, 840), st.floats(-200, 680), st.floats(20, 900))
def test_roi_is_normalised_and_within_the_image(x: float, y: float, side: float) -> None:
    face = face_at(x, y, side)
    roi = sent(roi_message(make, face, SIZE, HEADER))
    assert 0.0 <= roi.xmin <= roi.xmax <= 1.0 and 0.0 <= roi.ymin <= roi.ymax <= 1.0
    inside = face.box.clipped(*SIZE)
    assert roi.xmin * SIZE[0] == pytest.approx(inside.left, abs=1.01)
    assert roi.xmax * SIZE[0] == pytest.approx(inside.right, abs=1.01)
    assert roi.ymin * SIZE[1] == pytest.approx(inside.top, abs=1.01)
    assert roi.ymax * SIZE[1] == pytest.approx(inside.bottom, abs=1.01)


def test_landmarks_are_70_normalised_points_and_the_pupils_unknown() -> None:
    face = face_at(300, 200, 180)
    message = sent(facial_landmarks_message(make, face, SIZE, HEADER))
    assert (message.width, message.height) == SIZE
    assert len(message.landmarks) == POINT_COUNT == 70
    assert [point.c for point in message.landmarks] == [1.0] * 68 + [0.0] * 2
    for point, (x, y) in zip(message.landmarks, face.landmarks.tolist(), strict=False):
        # The middle of pixel 0 lies half a pixel right of the image's edge.
        assert point.x == pytest.approx((x + 0.5) / 640) and 0.0 <= point.x <= 1.0
        assert point.y == pytest.approx((y + 0.5) / 480) and 0.0 <= point.y <= 1.0


@given(
    st.integers(64, 4096), st.integers(64, 4096), st.floats(0.4, 0.6), st.floats(0.5, 0.6)
)
def test_landmarks_survive_the_way_through_a_message(
    width: int, height: int, place: float, share: float
) -> None:
    face = face_at(place * width, place * height, share * min(width, height))
    message = sent(facial_landmarks_message(make, face, (width, height), HEADER))
    landmarks, size = landmarks_from_message(message)
    assert size == (width, height)
    assert np.abs(landmarks - face.landmarks).max() < 2e-3


def test_landmarks_beyond_the_image_are_unknown_and_at_its_border() -> None:
    face = face_at(10, 200, 180)
    outside = face.landmarks[:, 0] < -0.5
    assert 10 < outside.sum() < 60
    message = sent(facial_landmarks_message(make, face, SIZE, HEADER))
    points = message.landmarks[:68]
    assert [point.c == 0.0 for point in points] == outside.tolist()
    assert all(point.x == 0.0 for point, out in zip(points, outside, strict=True) if out)
    with pytest.raises(HriMessageError, match='unknown') as refused:
        landmarks_from_message(message)
    assert refused.value.kind == 'unknown landmarks'


@pytest.mark.parametrize(('label', 'word'), EXPRESSIONS.items())
def test_a_confident_expression_is_said_in_the_words_of_hri_msgs(label: str, word: str) -> None:
    message = hri_expression_message(make, estimate_of({label: 0.93}), HEADER)
    message = sent(message)
    assert message.expression == word
    assert message.confidence == pytest.approx(0.94)
    derived = 0.93 * np.array(COORDINATES[label])
    derived += 0.01 * np.array(list(COORDINATES.values())).sum(0)
    assert (message.valence, message.arousal) == pytest.approx(tuple(derived), abs=1e-6)
    assert stamp_ns(message.header) == 1_500_000_000


def test_words_are_seven_different_ones() -> None:
    assert set(EXPRESSIONS) == set(LABELS)
    assert sorted(EXPRESSIONS.values()) == [
        *('angry', 'disgusted', 'happy', 'neutral', 'sad', 'scared', 'surprised')
    ]


def test_the_page_has_the_words_and_coordinates_of_the_code() -> None:
    page = (Path(__file__).parents[1] / 'docs' / 'ros4hri.md').read_text('utf-8')
    rows = [tuple(cell.strip() for cell in line.split('|')[1:-1]) for line in page.splitlines()]
    for label, word in EXPRESSIONS.items():
        valence, arousal = COORDINATES[label]
        assert (label, word, f'{valence:.2f}', f'{arousal:.2f}') in rows


@pytest.mark.parametrize('state', set(ExpressionState) - {ExpressionState.CONFIDENT})
def test_what_is_not_confident_is_not_said(state: ExpressionState) -> None:
    assert hri_expression_message(make, estimate_of({'anger': 0.9}, state), HEADER) is None


def test_an_expression_without_a_word_is_not_said() -> None:
    assert hri_expression_message(make, estimate_of({'contempt': 0.9}), HEADER) is None
    said = hri_expression_message(make, estimate_of({'contempt': 0.1, 'anger': 0.8}), HEADER)
    assert said is not None and said.expression == 'angry'


def test_crop_is_scaled_to_fit_and_centred() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[100:300, 200:300] = (10, 200, 30)
    crop = cropped_face(image, Box(200, 100, 300, 300))
    assert crop.shape == (CROP_SIDE, CROP_SIDE, 3) and crop.dtype == np.uint8
    assert (crop[:, 32:96] == (10, 200, 30)).all()
    assert not crop[:, :32].any() and not crop[:, 96:].any()


@given(
    st.floats(-2000, 2000), st.floats(-2000, 2000), st.floats(0, 3000), st.floats(0, 3000)
)
def test_any_box_gives_a_crop(left: float, top: float, width: float, height: float) -> None:
    image = np.full((48, 64, 3), 255, np.uint8)
    crop = cropped_face(image, Box(left, top, left + width, top + height))
    assert crop.shape == (CROP_SIDE, CROP_SIDE, 3)
    if left > 64 or left + width < 0:
        assert not crop.any()


@pytest.mark.parametrize('text', ['a0000', 'A', 'face_1', 'f00000', 'x' * 32, 'a_b_c'])
def test_ids_that_may_stand_in_topics_are_taken(text: str) -> None:
    assert is_face_id(text)


@pytest.mark.parametrize(
    'text',
    ['', '23bd5', '_a', 'a_', 'a__b', 'a/b', '../x', 'a b', 'a\n', 'ä', 'a~', '{id}', 'x' * 33],
)
def test_other_ids_are_refused(text: str) -> None:
    assert not is_face_id(text)


@given(st.text(max_size=40))
def test_every_id_taken_makes_a_topic_that_ros_takes(text: str) -> None:
    validation = pytest.importorskip('rclpy.validate_full_topic_name')
    if is_face_id(text):
        assert validation.validate_full_topic_name(f'/humans/faces/{text}/landmarks')


def test_our_own_ids_are_taken() -> None:
    identifiers = Identifiers()
    assert all(is_face_id(identifiers.new()) for _ in range(200))


def message_of(
    landmarks: np.ndarray, *, size: tuple[int, int] = SIZE, c: float = 1.0, count: int = 70
) -> Any:
    """Make what rclpy would give, with anything in it; landmarks: (68, 2) normalised."""
    points = [SimpleNamespace(x=x, y=y, c=c) for x, y in landmarks.tolist()]
    points += [SimpleNamespace(x=0.0, y=0.0, c=0.0)] * 2
    points = (points * 2)[:count]
    return SimpleNamespace(header=HEADER, landmarks=points, width=size[0], height=size[1])


GOOD = (face_at(300, 200, 180).landmarks + 0.5) / SIZE  # (68, 2)


def test_the_good_message_is_taken() -> None:
    landmarks, size = landmarks_from_message(message_of(GOOD))
    assert size == SIZE and landmarks == pytest.approx(face_at(300, 200, 180).landmarks, abs=1e-3)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('image size', message_of(GOOD, size=(0, 480))),
        ('image size', message_of(GOOD, size=(640, 0))),
        ('image size', message_of(GOOD, size=(2**32 - 1, 480))),
        ('point count', message_of(GOOD, count=68)),
        ('point count', message_of(GOOD, count=0)),
        ('point count', message_of(GOOD, count=71)),
        ('unknown landmarks', message_of(GOOD, c=0.0)),
        ('unknown landmarks', message_of(GOOD, c=float('nan'))),
        ('coordinates', message_of(GOOD * np.nan)),
        ('coordinates', message_of(GOOD * np.inf)),
        ('coordinates', message_of(GOOD * 640)),  # pixels, not normalised
        ('face size', message_of(GOOD * 0.0)),
        ('face size', message_of(GOOD * 0.01)),
    ],
)
def test_a_bad_message_is_refused_by_kind(kind: str, message: Any) -> None:
    with pytest.raises(HriMessageError) as refused:
        landmarks_from_message(message)
    assert refused.value.kind == kind
    assert '\n' not in str(refused.value)


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32) | st.floats(0.0, 1.0)


@given(
    st.lists(st.tuples(numbers, numbers, numbers), max_size=72),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
def test_whatever_arrives_is_either_a_face_or_refused(
    points: list[tuple[float, float, float]], width: int, height: int
) -> None:
    points = (points * 70)[:70]
    message = SimpleNamespace(
        landmarks=[SimpleNamespace(x=x, y=y, c=c) for x, y, c in points],
        width=width,
        height=height,
    )
    try:
        landmarks, size = landmarks_from_message(message)
    except HriMessageError:
        return
    assert landmarks.shape == (68, 2) and np.isfinite(landmarks).all()
    assert size == (width, height)


def test_without_hri_msgs_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'hri_msgs', None)
    monkeypatch.setitem(sys.modules, 'hri_msgs.msg', None)
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    with pytest.raises(ImportError) as refused:
        load_hri_messages('standalone')
    line = 'hri_mode:=standalone needs hri_msgs: install ros-jazzy-hri-msgs'
    assert str(refused.value) == line
