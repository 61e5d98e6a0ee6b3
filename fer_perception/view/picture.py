# SPDX-License-Identifier: Apache-2.0
"""What the page gets for an image: the image as JPEG, and all that was found in it as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from fer_perception.records import expression_records, region_of_interest
from fer_perception.results import FrameResult

LONGEST_SIDE = 1280  # pixels, of the image as it is sent; landmarks stay those of the source's
JPEG_QUALITY = 85


@dataclass(frozen=True, kw_only=True)
class WatchStatistics:
    """Say how well the pipeline keeps up with its source."""

    frame_rate: float  # images processed in a second, lately
    age_ms: float  # from taking the image to having its result
    dropped: int  # images left out for newer ones so far
    skipped: int  # damaged images in the source so far


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Hold one image with its results, ready to be sent."""

    number: int  # counts up from 1
    text: str  # JSON, see `picture_of`
    jpeg: bytes


def picture_of(
    image: np.ndarray,
    result: FrameResult,
    *,
    number: int,
    frame_id: str,
    statistics: WatchStatistics,
) -> Picture:
    """Make the picture of an image (H, W, 3) uint8 BGR and its result.

    The JSON has `kind` 'picture', `number`, `stamp_ns`, `size` (width, height in pixels),
    `processing_ms`, the statistics, and `faces`: each with `face_id`, `updated`, `roi` (x, y,
    width, height), 68 `landmarks` (x, y), both in pixels of the source's image, and `record`,
    that of ExpressionRecord or null for a face that cannot be read.
    """
    records = {record.face_id: record for record in expression_records(result, frame_id=frame_id)}
    faces: list[dict[str, Any]] = []
    for face in result.faces:
        record = records.get(face.face.face_id)
        faces.append(
            {
                'face_id': face.face.face_id,
                'updated': face.updated,
                'roi': region_of_interest(face.face.box, result.image_size),
                'landmarks': face.face.landmarks.round(1).astype(float).tolist(),
                'record': None if record is None else json.loads(record.to_json()),
            }
        )
    content = {
        'kind': 'picture',
        'number': number,
        'stamp_ns': result.stamp_ns,
        'size': result.image_size,
        'processing_ms': result.processing_ms,
        **asdict(statistics),
        'faces': faces,
    }
    return Picture(number=number, text=json.dumps(content), jpeg=_jpeg(image))


def _jpeg(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
