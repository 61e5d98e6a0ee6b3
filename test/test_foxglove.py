# SPDX-License-Identifier: Apache-2.0
"""What Foxglove draws over the image: every landmark, box and label where it belongs."""

from typing import Any

import numpy as np
import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from fer_perception.drawing import STATE_COLOURS
from fer_perception.faces.face import Box, Face
from fer_perception.foxglove import annotations_message
from fer_perception.messages import header_message
from fer_perception.results import FaceResult, FrameResult
from fer_perception.uncertainty.estimate import ExpressionEstimate, ExpressionState

# The fields of foxglove_msgs 3.4; those marked with a star were added in 2026.
DEFINITIONS = {
    'Color': 'float64 r\nfloat64 g\nfloat64 b\nfloat64 a',
    'Point2': 'float64 x\nfloat64 y',
    'KeyValuePair': 'string key\nstring value',
    'CircleAnnotation': """builtin_interfaces/Time timestamp
foxglove_msgs/Point2 position
float64 diameter
float64 thickness
foxglove_msgs/Color fill_color
foxglove_msgs/Color outline_color
*foxglove_msgs/KeyValuePair[] metadata""",
    'PointsAnnotation': """builtin_interfaces/Time timestamp
uint8 UNKNOWN=0
uint8 POINTS=1
uint8 LINE_LOOP=2
uint8 LINE_STRIP=3
uint8 LINE_LIST=4
uint8 type
foxglove_msgs/Point2[] points
foxglove_msgs/Color outline_color
foxglove_msgs/Color[] outline_colors
foxglove_msgs/Color fill_color
float64 thickness
*foxglove_msgs/KeyValuePair[] metadata""",
    'TextAnnotation': """builtin_interfaces/Time timestamp
foxglove_msgs/Point2 position
string text
float64 font_size
foxglove_msgs/Color text_color
foxglove_msgs/Color background_color
*foxglove_msgs/KeyValuePair[] metadata""",
    'ImageAnnotations': """*builtin_interfaces/Time timestamp
foxglove_msgs/CircleAnnotation[] circles
foxglove_msgs/PointsAnnotation[] points
foxglove_msgs/TextAnnotation[] texts
*foxglove_msgs/KeyValuePair[] metadata""",
}
KIND = 'foxglove_msgs/msg/ImageAnnotations'
STAMP_NS = 12_345_678_901


class Factory:
    """Makes messages as ROS does: fields that are not given have their defaults."""

    def __init__(self, *, is_current: bool) -> None:
        self.store: Typestore = get_typestore(Stores.ROS2_JAZZY)
        types: dict[str, Any] = {}
        for name, text in DEFINITIONS.items():
            lines = [
                line.lstrip('*') for line in text.splitlines() if is_current or line[0] != '*'
            ]
            types |= get_types_from_msg('\n'.join(lines), f'foxglove_msgs/msg/{name}')
        self.store.register(types)

    def __call__(self, type_name: str, **fields: Any) -> Any:
        names = {name for name, _ in self.store.get_msgdef(type_name).fields}
        if 'metadata' in names:
            fields.setdefault('metadata', [])
        if type_name == KIND and 'timestamp' in names:
            time = self.store.types['builtin_interfaces/msg/Time'](sec=0, nanosec=0)
            fields.setdefault('timestamp', time)
        return self.store.types[type_name](**fields)


@pytest.fixture(params=[True, False], ids=['current', 'before 2026'])
def make(request: pytest.FixtureRequest) -> Factory:
    return Factory(is_current=request.param)


def face_of(face_id: str, *, left: float, state: ExpressionState | None) -> FaceResult:
    landmarks = np.random.default_rng(1).uniform(left, left + 90, (68, 2)).astype(np.float32)
    estimate = None
    if state is not None:
        estimate = ExpressionEstimate(
            state=state,
            labels=('neutral', 'happiness'),
            probabilities=np.array([0.25, 0.75]),
            standard_deviations=np.array([0.1, 0.1]),
            predictive_entropy=0.5,
            expected_entropy=0.4,
            mutual_information=0.1,
            mc_samples=100,
            window_s=1.0,
        )
    box = Box(left=left, top=50, right=left + 100, bottom=150)
    return FaceResult(Face(face_id, box, landmarks), estimate, updated=True)


def through_the_wire(make: Factory, *faces: FaceResult) -> Any:
    result = FrameResult(
        stamp_ns=STAMP_NS, image_size=(640, 480), faces=faces, processing_ms=1.0
    )
    header = header_message(make, stamp_ns=STAMP_NS, frame_id='camera')
    message = annotations_message(make, result, header)
    return make.store.deserialize_cdr(make.store.serialize_cdr(message, KIND), KIND)


def bgr(colour: Any) -> tuple[int, ...]:
    return tuple(round(255 * value) for value in (colour.b, colour.g, colour.r))


@pytest.mark.parametrize('state', list(ExpressionState))
def test_a_face_is_drawn_in_the_colour_of_its_state(
    make: Factory, state: ExpressionState
) -> None:
    message = through_the_wire(make, face_of('abcde', left=100, state=state))
    box, landmarks = message.points
    assert box.type == box.LINE_LOOP and landmarks.type == landmarks.POINTS
    assert bgr(box.outline_color) == STATE_COLOURS[state]
    (label,) = message.texts
    assert bgr(label.background_color) == STATE_COLOURS[state]
    for part in ('abcde', 'happiness', '0.75', state.name.lower().replace('_', ' ')):
        assert part in label.text


def test_everything_lies_where_the_face_is(make: Factory) -> None:
    face = face_of('abcde', left=100, state=ExpressionState.CONFIDENT)
    message = through_the_wire(make, face)
    box, landmarks = message.points
    # Foxglove's origin is the corner of the first pixel, the landmarks' its centre.
    points = np.array([(point.x, point.y) for point in landmarks.points])
    assert points.shape == (68, 2)
    assert np.allclose(points, face.face.landmarks + 0.5)
    corners = [(point.x, point.y) for point in box.points]
    assert corners == [(100.5, 50.5), (200.5, 50.5), (200.5, 150.5), (100.5, 150.5)]
    (label,) = message.texts
    assert label.position.x == 100.5 and label.position.y <= 50.5


def test_all_is_stamped_as_the_image(make: Factory) -> None:
    message = through_the_wire(
        make, *(face_of(face_id, left=60, state=None) for face_id in ('aaaaa', 'bbbbb'))
    )
    annotations = [*message.points, *message.texts]
    assert len(annotations) == 6
    assert {(a.timestamp.sec, a.timestamp.nanosec) for a in annotations} == {(12, 345_678_901)}


def test_a_face_that_cannot_be_read_has_no_expression(make: Factory) -> None:
    message = through_the_wire(make, face_of('abcde', left=100, state=None))
    assert message.texts[0].text == 'abcde unknown'
    assert bgr(message.points[0].outline_color) == STATE_COLOURS[ExpressionState.UNKNOWN]


def test_a_label_of_a_face_at_the_upper_border_stays_in_the_image(make: Factory) -> None:
    face = face_of('abcde', left=100, state=ExpressionState.UNCERTAIN)
    box = Box(left=100, top=-20, right=200, bottom=80)
    face = FaceResult(
        Face('abcde', box, face.face.landmarks), face.estimate, updated=True
    )
    (label,) = through_the_wire(make, face).texts
    assert label.position.y - label.font_size >= 0


def test_no_face_makes_an_empty_message_that_clears_the_picture(make: Factory) -> None:
    message = through_the_wire(make)
    assert not message.points and not message.texts and not message.circles
