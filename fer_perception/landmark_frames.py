# SPDX-License-Identifier: Apache-2.0
"""Puts the faces of one image together that come one by one. Free of ROS."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# A stamp that is older than the last one by at most this belongs to an image that is over; by
# more, time itself has gone back.
STRAGGLER_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class LandmarkFrame:
    """Hold the faces that another node found in one image."""

    header: Any  # std_msgs/Header of the image
    stamp_ns: int
    image_size: tuple[int, int]  # width, height in pixels; 0, 0 before the first face
    faces: dict[str, np.ndarray]  # landmarks (68, 2) in pixels of each face id
    tracked_ids: frozenset[str]  # of all faces that are followed, also those missing here


class LandmarkFrames:
    """Collects faces by the stamp of their image, and hands over each image once.

    An image is complete with all the faces that the last one had; a face that appears is waited
    for from the next image on, and one that disappears keeps the others waiting for no longer than
    to the next image.
    """

    def __init__(
        self, hand_over: Callable[[LandmarkFrame], None], *, counts: Counter[str]
    ) -> None:
        """Take who gets the images, and where refused faces are counted by kind."""
        self._hand_over = hand_over
        self._counts = counts
        self._tracked: frozenset[str] = frozenset()
        self._expected: set[str] = set()  # faces that an image is not complete without
        self._pending: LandmarkFrame | None = None
        self._last_ns: int | None = None  # of the image handed over last
        self._image_size = (0, 0)  # of the last image with a face

    def track(self, face_ids: Collection[str]) -> None:
        """Take the ids of the faces that are followed from now on; the others are forgotten."""
        self._tracked = frozenset(face_ids)
        self._expected &= self._tracked
        if self._pending is not None:
            for face_id in self._pending.faces.keys() - self._tracked:
                del self._pending.faces[face_id]
            self._finish_if_complete()

    def add_empty(self, *, header: Any, stamp_ns: int) -> None:
        """Add an image in which nobody is; call `track` before. Nothing happens if it is late."""
        if self._is_late(stamp_ns):
            return
        self._last_ns = stamp_ns
        self._hand_over(
            LandmarkFrame(
                header=header,
                stamp_ns=stamp_ns,
                image_size=self._image_size,
                faces={},
                tracked_ids=self._tracked,
            )
        )

    def add(
        self,
        face_id: str,
        landmarks: np.ndarray,
        *,
        header: Any,
        stamp_ns: int,
        image_size: tuple[int, int],
    ) -> None:
        """Add a face that is followed.

        landmarks: (68, 2) in pixels; header: the image's; stamp_ns: its time in nanoseconds;
        image_size: width and height in pixels. A face of an image that is over, or of another size
        than the other faces of its image have, is counted and left out.
        """
        pending = self._pending
        if pending is None or stamp_ns != pending.stamp_ns:
            if self._is_late(stamp_ns):
                self._expected.add(face_id)
                self._counts['late'] += 1
                return
            self._finish()
            self._image_size = image_size
            pending = self._pending = LandmarkFrame(
                header=header,
                stamp_ns=stamp_ns,
                image_size=image_size,
                faces={},
                tracked_ids=self._tracked,
            )
        elif image_size != pending.image_size:
            self._counts['image size'] += 1
            return
        self._expected.add(face_id)
        pending.faces[face_id] = landmarks
        self._finish_if_complete()

    def _is_late(self, stamp_ns: int) -> bool:
        newest_ns = self._last_ns if self._pending is None else self._pending.stamp_ns
        return newest_ns is not None and newest_ns - STRAGGLER_NS <= stamp_ns <= newest_ns

    def _finish_if_complete(self) -> None:
        if self._pending is not None and self._expected <= self._pending.faces.keys():
            self._finish()

    def _finish(self) -> None:
        """Hand the pending image over, if there is one with a face."""
        frame, self._pending = self._pending, None
        if frame is None:
            return
        self._last_ns = frame.stamp_ns
        self._expected = set(frame.faces)
        if frame.faces:
            self._hand_over(replace(frame, tracked_ids=self._tracked))
