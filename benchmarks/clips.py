# SPDX-License-Identifier: Apache-2.0
"""The sample clip as the benchmarks need it: at a given size, with one face or more."""

import math

import cv2
import numpy as np

from fer_perception.assets import asset_path
from fer_perception.faces import FaceDetector
from fer_perception.faces.place import FacePlace
from fer_perception.sources import open_source

# Height of a tile in face sides: each face has 100 pixels or more where the detector, which sees
# faces of 80 and more, searches a copy 640 pixels wide.
TILE_HEIGHT = 1.8


def sample_frames() -> list[np.ndarray]:
    """Return the images of the sample clip, (H, W, 3) uint8 BGR; AssetError if it is missing."""
    with open_source(str(asset_path('single_face.mp4'))) as source:
        return [frame.image for frame in source]


def tiled(frames: list[np.ndarray], size: tuple[int, int], faces: int) -> list[np.ndarray]:
    """Return the frames at a size (width, height) in pixels, with so many faces.

    One face: the frames, scaled. More (a square number): tiles, each cut around the face.
    Raises ValueError for another number, or if the first frame does not show one face.
    """
    if faces == 1:
        return [cv2.resize(frame, size) for frame in frames]
    side = math.isqrt(faces)
    if faces < 1 or side * side != faces:
        raise ValueError(f'faces must be a square number such as 1 or 4, not {faces}')
    found = FaceDetector().detect(cv2.cvtColor(frames[0], cv2.COLOR_BGR2GRAY))
    if len(found) != 1:
        raise ValueError(f'the first frame must show one face, not {len(found)}')
    place = FacePlace.from_box(found[0][0])
    width, height = size[0] // side, size[1] // side
    scale = height / (TILE_HEIGHT * place.side)
    # The face's centre to the tile's centre.
    matrix = np.array(
        [
            [scale, 0.0, width / 2 - scale * place.x],
            [0.0, scale, height / 2 - scale * place.y],
        ]
    )
    tiles = [
        cv2.warpAffine(frame, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        for frame in frames
    ]
    return [np.tile(tile, (side, side, 1)) for tile in tiles]
