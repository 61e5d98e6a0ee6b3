# SPDX-License-Identifier: Apache-2.0
"""The messages of ROS4HRI (REP-155) from results, and landmarks from them. Free of ROS.

Images are normalised as hri_msgs says: (0, 0) is the corner of the top-left pixel, (1, 1) that of
the bottom-right one. In pixels (0, 0) is the centre of the top-left pixel.
"""

import os
import re
from collections.abc import Collection
from importlib import import_module
from typing import Any

import cv2
import numpy as np

from fer_perception.affect import derive_affect
from fer_perception.faces.face import Box, Face
from fer_perception.faces.place import FacePlace
from fer_perception.faces.tracker import MIN_SIDE
from fer_perception.graph.landmarks import LANDMARK_COUNT
from fer_perception.graph.normalization import face_size
from fer_perception.messages import Factory
from fer_perception.records import region_of_interest
from fer_perception.uncertainty.estimate import ExpressionEstimate, ExpressionState

# What hri_msgs/Expression calls our classes. It has no word for contempt.
EXPRESSIONS = {
    'neutral': 'neutral',
    'anger': 'angry',
    'disgust': 'disgusted',
    'fear': 'scared',
    'happiness': 'happy',
    'sadness': 'sad',
    'surprise': 'surprised',
}

POINT_COUNT = 70  # dlib's 68 landmarks and the two pupils
CROP_SIDE = 128  # pixels, the default of REP-155

MAX_ID_LENGTH = 32
# What may stand in a ROS 2 topic name, with a letter first and no underscore last.
FACE_ID = re.compile('[A-Za-z](_?[A-Za-z0-9])*')

MAX_IMAGE_SIDE = 1 << 16  # pixels
FARTHEST = 1.0  # landmarks may lie outside of the image by so many of its sides
MIN_FACE_SIZE = 1.0  # pixels; what `face_size` measures, by which faces are normalised


class HriMessageError(ValueError):
    """Say in one line why a message cannot be used; `kind` says it in a word or two."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def load_hri_messages(mode: str) -> Any:
    """Return the module hri_msgs.msg; ImportError with one line if it is not installed."""
    try:
        return import_module('hri_msgs.msg')
    except ImportError as error:
        distribution = os.environ.get('ROS_DISTRO', '$ROS_DISTRO')
        raise ImportError(
            f'hri_mode:={mode} needs hri_msgs: install ros-{distribution}-hri-msgs'
        ) from error


def is_face_id(text: str) -> bool:
    """Tell whether a text may name a face in a topic: letter first, 32 characters at most."""
    return len(text) <= MAX_ID_LENGTH and FACE_ID.fullmatch(text) is not None


def tracked_message(make: Factory, face_ids: Collection[str], header: Any) -> Any:
    """Make the hri_msgs/IdsList of the faces that are seen."""
    return make('hri_msgs/msg/IdsList', header=header, ids=list(face_ids))


def roi_message(make: Factory, face: Face, image_size: tuple[int, int], header: Any) -> Any:
    """Make the hri_msgs/NormalizedRegionOfInterest2D of a face's box within the image."""
    x, y, width, height = region_of_interest(face.box, image_size)
    image_width, image_height = image_size
    return make(
        'hri_msgs/msg/NormalizedRegionOfInterest2D',
        header=header,
        xmin=x / image_width,
        ymin=y / image_height,
        xmax=(x + width) / image_width,
        ymax=(y + height) / image_height,
        c=1.0,
    )


def facial_landmarks_message(
    make: Factory, face: Face, image_size: tuple[int, int], header: Any
) -> Any:
    """Make the hri_msgs/FacialLandmarks of a face: 70 points, 68 of them dlib's.

    c is 1 where a landmark is known, and 0 where it is not: for both pupils, and for landmarks
    beyond the image, which stand at its border.
    """
    width, height = image_size
    points = (face.landmarks.astype(np.float64) + 0.5) / (width, height)  # (68, 2)
    known = ((points >= 0.0) & (points <= 1.0)).all(-1)  # (68,)
    values = np.zeros((POINT_COUNT, 3))  # x, y, c
    values[:LANDMARK_COUNT, :2] = points.clip(0.0, 1.0)
    values[:LANDMARK_COUNT, 2] = known
    return make(
        'hri_msgs/msg/FacialLandmarks',
        header=header,
        landmarks=[
            make('hri_msgs/msg/NormalizedPointOfInterest2D', x=x, y=y, c=c)
            for x, y, c in values.tolist()
        ],
        height=height,
        width=width,
    )


def hri_expression_message(make: Factory, estimate: ExpressionEstimate, header: Any) -> Any | None:
    """Make the hri_msgs/Expression of an estimate, or None to abstain.

    Only CONFIDENT estimates are said, and only expressions that hri_msgs has a word for. Valence
    and arousal are derived from the probabilities by `derive_affect`.
    """
    word = EXPRESSIONS.get(estimate.expression)
    if word is None or estimate.state != ExpressionState.CONFIDENT:
        return None
    affect = derive_affect(estimate.labels, estimate.probabilities)
    return make(
        'hri_msgs/msg/Expression',
        header=header,
        expression=word,
        valence=affect.valence,
        arousal=affect.arousal,
        confidence=estimate.confidence,
    )


def cropped_face(image: np.ndarray, box: Box) -> np.ndarray:
    """Cut a face out as REP-155 has it: scaled, centred and padded with zeros to 128 x 128.

    image: (H, W, 3) uint8. Returns (128, 128, 3) uint8, black for a box beside the image.
    """
    crop = np.zeros((CROP_SIDE, CROP_SIDE, 3), np.uint8)
    x, y, width, height = region_of_interest(box, (image.shape[1], image.shape[0]))
    if width == 0 or height == 0:
        return crop
    scale = CROP_SIDE / max(width, height)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    scaled = cv2.resize(
        image[y : y + height, x : x + width],
        size,
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
    )
    left, top = (CROP_SIDE - size[0]) // 2, (CROP_SIDE - size[1]) // 2
    crop[top : top + size[1], left : left + size[0]] = scaled
    return crop


def landmarks_from_message(message: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """Read a hri_msgs/FacialLandmarks of another node.

    Returns the landmarks (68, 2) float64 in pixels and the image's width and height. Raises
    HriMessageError for a message that is none, and for a face of which less than the 68 landmarks
    are known (their c is 0) or that is too small to be read.
    """
    width, height = int(message.width), int(message.height)
    if not (0 < width <= MAX_IMAGE_SIDE and 0 < height <= MAX_IMAGE_SIDE):
        raise HriMessageError('image size', f'an image cannot have {width} x {height} pixels')
    if len(message.landmarks) != POINT_COUNT:
        raise HriMessageError(
            'point count', f'{POINT_COUNT} points are needed, not {len(message.landmarks)}'
        )
    values = np.array(
        [(point.x, point.y, point.c) for point in message.landmarks[:LANDMARK_COUNT]], np.float64
    )  # (68, 3)
    unknown = int((~(values[:, 2] > 0.0)).sum())
    if unknown:
        raise HriMessageError(
            'unknown landmarks', f'{unknown} of the {LANDMARK_COUNT} landmarks are unknown'
        )
    points = values[:, :2]
    # NaN is not within any limits either.
    if not ((points >= -FARTHEST) & (points <= 1.0 + FARTHEST)).all():
        raise HriMessageError(
            'coordinates', 'landmarks must be normalised, 0 to 1, but some lie far outside'
        )
    landmarks = points * (width, height) - 0.5  # (68, 2)
    if FacePlace.from_landmarks(landmarks).side < MIN_SIDE or face_size(landmarks) < MIN_FACE_SIZE:
        raise HriMessageError('face size', 'the face is too small to be read')
    return landmarks, (width, height)
