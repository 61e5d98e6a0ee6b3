# SPDX-License-Identifier: Apache-2.0
"""Drawing of results into the image: box, landmarks, id, label, probabilities, uncertainty."""

import cv2
import numpy as np

from fer_perception.records import region_of_interest
from fer_perception.results import FaceResult, FrameResult
from fer_perception.uncertainty.estimate import ExpressionEstimate, ExpressionState

Colour = tuple[int, int, int]  # BGR

STATE_COLOURS: dict[ExpressionState, Colour] = {
    ExpressionState.UNKNOWN: (160, 160, 160),
    ExpressionState.WARMING_UP: (200, 170, 90),
    ExpressionState.CONFIDENT: (80, 190, 60),
    ExpressionState.UNCERTAIN: (40, 150, 240),
}
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
FONT = cv2.FONT_HERSHEY_SIMPLEX

ROW_HEIGHT = 15  # pixels, of one class in the panel of probabilities
PANEL_WIDTH = 168
BAR_LEFT = 76  # where bars begin in the panel
BAR_WIDTH = 84  # of a probability of 1


def draw_result(image: np.ndarray, result: FrameResult) -> np.ndarray:
    """Draw every face of a result into a copy of its image, (H, W, 3) uint8 BGR.

    The colour of the box tells the state: green CONFIDENT, orange UNCERTAIN, blue-grey
    WARMING_UP. In the panel a bar is a class's mean probability, the white line its mean plus and
    minus one standard deviation.
    """
    canvas = image.copy()
    for face in result.faces:
        _draw_face(canvas, face)
    return canvas


def state_of(face: FaceResult) -> ExpressionState:
    """Return the state of a face's expression, UNKNOWN where it cannot be read."""
    return ExpressionState.UNKNOWN if face.estimate is None else face.estimate.state


def title_of(face: FaceResult) -> str:
    """Return a face's id and, where it can be read, its expression and confidence."""
    if face.estimate is None:
        return face.face.face_id
    estimate = face.estimate
    return f'{face.face.face_id}  {estimate.expression} {estimate.confidence:.2f}'


def state_text(state: ExpressionState) -> str:
    """Return a state in small letters, as in 'warming up'."""
    return state.name.lower().replace('_', ' ')


def hexadecimal(colour: Colour) -> str:
    """Return a colour as web pages and Matplotlib write it, '#rrggbb'."""
    blue, green, red = colour
    return f'#{red:02x}{green:02x}{blue:02x}'


def _draw_face(canvas: np.ndarray, face: FaceResult) -> None:
    height, width = canvas.shape[:2]
    estimate = face.estimate
    state = state_of(face)
    colour = STATE_COLOURS[state]
    x, y, box_width, box_height = region_of_interest(face.face.box, (width, height))
    cv2.rectangle(canvas, (x, y), (x + box_width, y + box_height), colour, 2, cv2.LINE_AA)
    for point_x, point_y in np.rint(face.face.landmarks).astype(int):
        cv2.circle(canvas, (int(point_x), int(point_y)), 1, WHITE, -1, cv2.LINE_AA)
    _draw_label(canvas, title_of(face), (x, y - 6), colour)
    if estimate is not None:
        below = y + box_height + 16
        text = (
            f'{state_text(state)}, '
            f'entropy {estimate.predictive_entropy:.2f}, '
            f'mutual information {estimate.mutual_information:.3f}'
        )
        _draw_label(canvas, text, (x, below), colour, scale=0.4)
        # Beside the face, where there is room.
        left = x + box_width + 8
        if left + PANEL_WIDTH > width:
            left = max(0, x - 8 - PANEL_WIDTH)
        _draw_panel(canvas, estimate, (left, max(0, y)), colour)


def _draw_label(
    canvas: np.ndarray, text: str, place: tuple[int, int], colour: Colour, scale: float = 0.5
) -> None:
    """Write text on a filled bar, moved into the image; place is its lower left corner."""
    (text_width, text_height), baseline = cv2.getTextSize(text, FONT, scale, 1)
    height, width = canvas.shape[:2]
    x = max(0, min(place[0], width - text_width - 4))
    y = max(text_height + 4, min(place[1], height - baseline - 2))
    corner = (x + text_width + 4, y + baseline)
    cv2.rectangle(canvas, (x, y - text_height - 3), corner, colour, -1)
    cv2.putText(canvas, text, (x + 2, y), FONT, scale, BLACK, 1, cv2.LINE_AA)


def _draw_panel(
    canvas: np.ndarray, estimate: ExpressionEstimate, place: tuple[int, int], colour: Colour
) -> None:
    """Draw a bar for every class on a darkened panel."""
    left, top = place
    height = ROW_HEIGHT * len(estimate.labels) + 6
    region = canvas[top : top + height, left : left + PANEL_WIDTH]
    np.multiply(region, 0.35, out=region, casting='unsafe')
    for row, (label, mean, deviation) in enumerate(
        zip(
            estimate.labels,
            estimate.probabilities.tolist(),
            estimate.standard_deviations.tolist(),
            strict=True,
        )
    ):
        y = top + 4 + row * ROW_HEIGHT
        best = label == estimate.expression
        start = left + BAR_LEFT
        cv2.putText(canvas, label, (left + 4, y + 10), FONT, 0.4, WHITE, 1, cv2.LINE_AA)
        bar = (start + round(BAR_WIDTH * mean), y + 11)
        cv2.rectangle(canvas, (start, y + 1), bar, colour if best else (150, 150, 150), -1)
        spread = [
            start + round(BAR_WIDTH * min(max(p, 0.0), 1.0))
            for p in (mean - deviation, mean + deviation)
        ]
        cv2.line(canvas, (spread[0], y + 6), (spread[1], y + 6), WHITE, 1)
