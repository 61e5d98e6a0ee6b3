# SPDX-License-Identifier: Apache-2.0
"""What the pipeline finds in an image; imports without PyTorch, for those that only listen."""

from dataclasses import dataclass

from fer_perception.faces.face import Face
from fer_perception.uncertainty.estimate import ExpressionEstimate


@dataclass(frozen=True)
class FaceResult:
    """Hold one face of an image and what is known of its expression."""

    face: Face
    estimate: ExpressionEstimate | None  # the latest one; None if the face cannot be read
    updated: bool  # whether the estimate is of this image


@dataclass(frozen=True)
class FrameResult:
    """Hold everything found in one image."""

    stamp_ns: int
    image_size: tuple[int, int]  # width, height in pixels
    faces: tuple[FaceResult, ...]
    processing_ms: float
