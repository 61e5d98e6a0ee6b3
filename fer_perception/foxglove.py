# SPDX-License-Identifier: Apache-2.0
"""Annotations that Foxglove draws over the image: box, landmarks, expression and state.

The messages are those of the package foxglove_msgs, which need not be installed for anything
else. Only fields that all its releases have are filled in: `make` has to give any other, such as
the `metadata` that was added in 2026, its default value.
"""

from typing import Any

from fer_perception.drawing import (
    BLACK,
    STATE_COLOURS,
    WHITE,
    Colour,
    state_of,
    state_text,
    title_of,
)
from fer_perception.messages import Factory
from fer_perception.records import region_of_interest
from fer_perception.results import FaceResult, FrameResult

# Values of `type` in foxglove_msgs/PointsAnnotation.
POINTS = 1
LINE_LOOP = 2

# Foxglove counts pixels from the corner of the top-left pixel, landmarks from its centre.
PIXEL_CENTRE = 0.5

BOX_THICKNESS = 2.0  # pixels
LANDMARK_SIZE = 2.0  # pixels
LABEL_HEIGHTS = 28.0  # so many lines of text are as high as the image,
SMALLEST_LABEL = 12.0  # but none is smaller than this, in pixels


def annotations_message(make: Factory, result: FrameResult, header: Any) -> Any:
    """Make a foxglove_msgs/ImageAnnotations of all faces of an image; header: the image's.

    Each face has its landmarks, its box in the colour of its state, and a label with id,
    expression, confidence and state. Without a face it is empty, which clears the picture.
    """
    return make(
        'foxglove_msgs/msg/ImageAnnotations',
        circles=[],
        points=[
            annotation
            for face in result.faces
            for annotation in (
                _box_annotation(make, face, result.image_size, header.stamp),
                _landmarks_annotation(make, face, header.stamp),
            )
        ],
        texts=[
            _label_annotation(make, face, result.image_size, header.stamp)
            for face in result.faces
        ],
    )


def _box_annotation(
    make: Factory, face: FaceResult, image_size: tuple[int, int], stamp: Any
) -> Any:
    x, y, width, height = region_of_interest(face.face.box, image_size)
    right, bottom = x + width, y + height
    corners: list[tuple[float, float]] = [(x, y), (right, y), (right, bottom), (x, bottom)]
    colour = STATE_COLOURS[state_of(face)]
    return _points_annotation(
        make, LINE_LOOP, corners, colour=colour, thickness=BOX_THICKNESS, stamp=stamp
    )


def _landmarks_annotation(make: Factory, face: FaceResult, stamp: Any) -> Any:
    points = [(x, y) for x, y in face.face.landmarks.tolist()]
    return _points_annotation(
        make, POINTS, points, colour=WHITE, thickness=LANDMARK_SIZE, stamp=stamp
    )


def _points_annotation(
    make: Factory,
    kind: int,
    points: list[tuple[float, float]],
    *,
    colour: Colour,
    thickness: float,
    stamp: Any,
) -> Any:
    return make(
        'foxglove_msgs/msg/PointsAnnotation',
        timestamp=stamp,
        type=kind,
        points=[_point(make, x, y) for x, y in points],
        outline_color=_colour(make, colour),
        outline_colors=[],
        fill_color=_colour(make, BLACK, alpha=0.0),
        thickness=thickness,
    )


def _label_annotation(
    make: Factory, face: FaceResult, image_size: tuple[int, int], stamp: Any
) -> Any:
    state = state_of(face)
    font_size = max(SMALLEST_LABEL, image_size[1] / LABEL_HEIGHTS)
    x, y, _, _ = region_of_interest(face.face.box, image_size)
    return make(
        'foxglove_msgs/msg/TextAnnotation',
        timestamp=stamp,
        position=_point(make, x, max(y - BOX_THICKNESS, font_size)),  # its lower left corner
        text=f'{title_of(face)} {state_text(state)}',
        font_size=font_size,
        text_color=_colour(make, BLACK),
        background_color=_colour(make, STATE_COLOURS[state]),
    )


def _point(make: Factory, x: float, y: float) -> Any:
    return make('foxglove_msgs/msg/Point2', x=x + PIXEL_CENTRE, y=y + PIXEL_CENTRE)


def _colour(make: Factory, colour: Colour, *, alpha: float = 1.0) -> Any:
    blue, green, red = (value / 255 for value in colour)
    return make('foxglove_msgs/msg/Color', r=red, g=green, b=blue, a=alpha)
