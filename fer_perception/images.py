# SPDX-License-Identifier: Apache-2.0
"""
Turn ROS image messages into BGR arrays.

Works on anything with the fields of sensor_msgs/Image or sensor_msgs/CompressedImage, whoever
made it (rclpy, rosbags, a test), and needs NumPy and OpenCV only.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from fer_perception.image_headers import JPEG_START, claimed_size, without_extras

MAX_PIXELS = 64_000_000  # larger images are taken for damaged messages

# Encoding: bytes per pixel, and OpenCV's conversion to BGR (None: it is BGR).
ENCODINGS: dict[str, tuple[int, int | None]] = {
    'bgr8': (3, None),
    '8UC3': (3, None),
    'rgb8': (3, cv2.COLOR_RGB2BGR),
    'bgra8': (4, cv2.COLOR_BGRA2BGR),
    'rgba8': (4, cv2.COLOR_RGBA2BGR),
    'mono8': (1, cv2.COLOR_GRAY2BGR),
    '8UC1': (1, cv2.COLOR_GRAY2BGR),
    'yuv422': (2, cv2.COLOR_YUV2BGR_UYVY),
    'uyvy': (2, cv2.COLOR_YUV2BGR_UYVY),
    'yuv422_yuy2': (2, cv2.COLOR_YUV2BGR_YUY2),
    'yuyv': (2, cv2.COLOR_YUV2BGR_YUY2),
}

JPEG_SCAN = b'\xff\xda'
JPEG_END = b'\xff\xd9'


class ImageError(ValueError):
    """An image message that holds no usable image; the text says why."""


def to_bgr(message: Any) -> np.ndarray:
    """
    Convert a sensor_msgs/Image to an array (H, W, 3) uint8 in BGR order.

    The array may be the message's own memory (bgr8 without padding is not copied): do not write
    to it. Raises ImageError if the message is empty, truncated, too large, inconsistent, or of an
    encoding that is not in ``ENCODINGS``.
    """
    encoding, width, height = message.encoding, message.width, message.height
    if encoding not in ENCODINGS:
        raise ImageError(f'unknown encoding {encoding[:80]!r}; known are {", ".join(ENCODINGS)}')
    pixel_bytes, conversion = ENCODINGS[encoding]
    if width < 1 or height < 1:
        raise ImageError(f'the image is empty: {width}x{height} pixels')
    if width * height > MAX_PIXELS:
        raise ImageError(f'{width}x{height} pixels are more than the {MAX_PIXELS} allowed')
    if pixel_bytes == 2 and width % 2:
        raise ImageError(f'{encoding} needs an even width, not {width}')
    row_bytes = width * pixel_bytes
    step = message.step
    if step < row_bytes:
        raise ImageError(f'a step of {step} bytes is too small: {width} pixels take {row_bytes}')
    data = _bytes_of(message.data)
    if data.size < step * height:
        raise ImageError(
            f'the image is truncated: {data.size} bytes of {height} rows of {step} bytes'
        )
    # (bytes,) -> (H, step) -> (H, W * bytes per pixel) -> (H, W, bytes per pixel)
    rows = data[: step * height].reshape(height, step)[:, :row_bytes]
    pixels = np.ascontiguousarray(rows).reshape(height, width, pixel_bytes)
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)


def compressed_to_bgr(message: Any) -> np.ndarray:
    """
    Decode a sensor_msgs/CompressedImage, JPEG or PNG, to an array (H, W, 3) uint8, BGR order.

    Other formats are refused, and a size above MAX_PIXELS before anything is decoded. Raises
    ImageError if the message is empty, truncated, too large or damaged.
    """
    data = _bytes_of(message.data)
    if data.size == 0:
        raise ImageError('the compressed image is empty: 0 bytes')
    raw = data.tobytes()
    size = claimed_size(raw)
    if size is None:
        raise ImageError(
            f'the compressed image is no whole JPEG or PNG: {data.size} bytes, format '
            f'{message.format[:80]!r}'
        )
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(f'{width}x{height} pixels are more than the {MAX_PIXELS} allowed')
    # Some versions of OpenCV fill up a truncated JPEG with grey and say nothing.
    if raw.startswith(JPEG_START) and raw.rfind(JPEG_END) < raw.rfind(JPEG_SCAN):
        raise ImageError(f'the JPEG image is truncated after {data.size} bytes')
    try:
        image = cv2.imdecode(np.frombuffer(without_extras(raw), np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f'OpenCV cannot decode the compressed image: {error.err}') from error
    if image is None:
        raise ImageError(
            f'OpenCV cannot decode the compressed image of {width}x{height} pixels: '
            f'{data.size} bytes are damaged'
        )
    return image


def _bytes_of(data: Any) -> np.ndarray:
    """View the bytes of a message as an array (n,) uint8."""
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        if not len(data):
            return np.empty(0, np.uint8)
        raise ImageError(f'image data must be bytes, not {type(data).__name__}') from error
