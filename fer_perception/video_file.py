# SPDX-License-Identifier: Apache-2.0
"""Writing of images to an MP4 video."""

from pathlib import Path
from types import TracebackType

import cv2
import numpy as np


class VideoFile:
    """Writes images of one size at a constant rate; the file appears with the first image."""

    def __init__(self, path: Path, *, frame_rate: float) -> None:
        self._path = path
        self._frame_rate = frame_rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._images = 0  # that were written

    def __enter__(self) -> 'VideoFile':
        """Write within a with block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the file; raises OSError if it does not hold what was written."""
        if self._writer is None:
            return
        self._writer.release()
        # OpenCV does not tell of a full disk.
        written = cv2.VideoCapture(str(self._path))
        count = round(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if count < self._images and error is None:
            raise OSError(
                f'the video {self._path} holds {count} of {self._images} images: is the disk full?'
            )

    def write(self, image: np.ndarray) -> None:
        """Append an image (H, W, 3) uint8 BGR, scaled to the size of the first one.

        Raises OSError if the file cannot be written.
        """
        size = (image.shape[1], image.shape[0])
        if self._writer is None:
            fourcc = cv2.VideoWriter.fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(self._path), fourcc, self._frame_rate, size)
            self._size = size
            if not self._writer.isOpened():
                raise OSError(f'the video {self._path} cannot be written')
        if size != self._size:
            image = cv2.resize(image, self._size)
        self._writer.write(image)
        self._images += 1
