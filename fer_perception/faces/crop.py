# SPDX-License-Identifier: Apache-2.0
"""The image of a face as image recognisers read it: upright, square, of one size."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from fer_perception.faces.place import FacePlace, patch_of
from fer_perception.graph.landmarks import check_landmarks

MOST_PIXELS = 1024  # side of the patch that is cut before it is made smaller
CLAHE_LIMIT = 2.0  # contrast limit and tiles of the equalisation, OpenCV's usual ones
CLAHE_TILES = (8, 8)


@dataclass(frozen=True, kw_only=True)
class FaceCrop:
    """Say how a face is cut out of an image: by its landmarks, turned upright."""

    size: int = 224  # side of the crop, pixels
    margin: float = 0.15  # share of the face's square that is added on each side

    def __post_init__(self) -> None:
        """Refuse values outside of their ranges."""
        if not 8 <= self.size <= MOST_PIXELS:
            raise ValueError(f'size must be 8 to {MOST_PIXELS} pixels, not {self.size}')
        if not 0.0 <= self.margin <= 1.0:
            raise ValueError(f'margin must be 0 to 1, not {self.margin}')

    def cut(self, image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut a face out of an image; beyond the image its border is repeated.

        image: (H, W, 3) uint8 BGR; landmarks: (68, 2) pixels. Returns the crop (size, size, 3)
        uint8 RGB, and the landmarks in it (68, 2) float32, 0 to 1 from one side of it to the
        other (points of the face that do not fit lie beyond). Raises ValueError for landmarks
        that are no face.
        """
        place = FacePlace.from_landmarks(check_landmarks(landmarks))
        if not place.side > 0:
            raise ValueError('a face has no extent: its landmarks all lie on one point')
        whole = replace(place, side=place.side * (1.0 + 2.0 * self.margin))
        # Cut at the image's own resolution and then averaged down, so that nothing is skipped.
        side = min(max(self.size, round(whole.side)), MOST_PIXELS)
        to_image = whole.to_image(face_side=side, patch_side=side)
        patch = patch_of(image, to_image, side=side)
        if side > self.size:
            patch = cv2.resize(patch, (self.size, self.size), interpolation=cv2.INTER_AREA)
        points = landmarks.astype(np.float64) - to_image[:, 2]
        points = np.linalg.solve(to_image[:, :2], points.T).T  # (68, 2) pixels of the patch
        within = ((points + 0.5) / side).astype(np.float32)
        return np.ascontiguousarray(patch[..., ::-1]), within


@dataclass(frozen=True, kw_only=True)
class ImageNormalization:
    """Say how the pixels of crops become the numbers that a network reads."""

    grey: bool = False  # one grey channel, repeated three times
    equalize: bool = False  # contrast limited adaptive histogram equalisation, of grey crops
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of red, green, blue, 0 to 1;
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)  # ImageNet's, as torchvision

    def __post_init__(self) -> None:
        """Refuse values outside of their ranges."""
        if self.equalize and not self.grey:
            raise ValueError('equalize is of grey crops only: set grey')
        if len(self.mean) != 3 or len(self.deviation) != 3 or min(self.deviation) <= 0:
            raise ValueError(
                f'mean and deviation must be three numbers, the latter positive: {self.mean}, '
                f'{self.deviation}'
            )

    def pixels(self, crop: np.ndarray) -> np.ndarray:
        """Make a crop grey and equalise it, as said: (H, W, 3) uint8 RGB to the same."""
        if not self.grey:
            return crop
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        if self.equalize:
            grey = cv2.createCLAHE(CLAHE_LIMIT, CLAHE_TILES).apply(grey)
        return np.repeat(grey[..., None], 3, axis=-1)  # (H, W) -> (H, W, 3)

    def numbers(self, pixels: np.ndarray) -> np.ndarray:
        """Normalise pixels: (..., H, W, 3) uint8 to (..., 3, H, W) float32."""
        mean, deviation = np.array([self.mean, self.deviation], np.float32)
        scaled = (pixels.astype(np.float32) / 255.0 - mean) / deviation
        return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))
