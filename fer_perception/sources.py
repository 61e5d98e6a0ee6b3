# SPDX-License-Identifier: Apache-2.0
"""Sources of camera images: videos, animated GIFs, image folders, rosbags and cameras."""

from __future__ import annotations

import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import Reader
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from fer_perception.images import ImageError, compressed_to_bgr, to_bgr

FRAME_ID = 'camera'  # of the sources that name none
FALLBACK_FRAME_RATE = 30.0  # of videos and image folders that tell none
IMAGE_SUFFIXES = {'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}
BAG_SUFFIXES = {'.db3', '.mcap'}
BAG_METADATA = 'metadata.yaml'
DECODERS: dict[str, Callable[[Any], np.ndarray]] = {
    'sensor_msgs/msg/CompressedImage': compressed_to_bgr,
    'sensor_msgs/msg/Image': to_bgr,
}
RATE_FRAMES = 10  # so many frames tell a bag's frame rate


class SourceError(Exception):
    """A source that cannot be read; the text says which, why and what to do."""


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """
    One image of a source.

    ``image`` is (H, W, 3) uint8 in BGR order, not to be written to. ``stamp_ns`` is in
    nanoseconds: from 0 for videos and folders, the header's for bags, the clock's for cameras.
    """

    image: np.ndarray
    stamp_ns: int
    frame_id: str = FRAME_ID


class Source(ABC):
    """
    Images in order of time; a context manager and an iterable of SourceFrame.

    Iterating again starts again from the first frame, except with a camera. ``frame_rate`` is
    the nominal rate in frames per second and ``frame_count`` the number of frames that the file
    claims to have; None where unknown. ``skipped`` counts the frames of the running iteration
    that were damaged and left out.
    """

    def __init__(
        self, *, name: str, frame_rate: float | None = None, frame_count: int | None = None
    ) -> None:
        self.name = name
        self.frame_rate = frame_rate
        self.frame_count = frame_count
        self.skipped = 0

    @abstractmethod
    def __iter__(self) -> Iterator[SourceFrame]:
        """Iterate over the frames; SourceError if one cannot be read."""

    def close(self) -> None:  # noqa: B027 - most sources hold nothing between iterations
        """Release what is held open."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_source(
    source: str, *, topic: str | None = None, frame_rate: float = FALLBACK_FRAME_RATE
) -> Source:
    """
    Open a source of images.

    :param source: a video or animated GIF, a folder of images, a rosbag2 folder or its .mcap or
        .db3 file, or a camera as '0' or '/dev/video0'.
    :param topic: the image topic of a bag; needed if it has several.
    :param frame_rate: frames per second of an image folder, and of a video that tells none.

    Raises SourceError if the source is missing, unreadable or without a frame.
    """
    if not (math.isfinite(frame_rate) and frame_rate > 0):
        raise SourceError(f'the frame rate must be above 0, not {frame_rate}')
    camera = re.fullmatch(r'(?:/dev/video)?(\d+)', source)
    path = Path(source)
    if camera is None and not (source and path.exists()):
        raise SourceError(f'{source!r} does not exist: give a video, folder, rosbag or camera')
    if camera is None and (path.suffix in BAG_SUFFIXES or (path / BAG_METADATA).is_file()):
        return BagSource(path, topic=topic)
    if topic is not None:
        raise SourceError(f'{source!r} is no rosbag: it has no topic {topic!r}')
    if camera is not None:
        return CameraSource(int(camera.group(1)))
    if path.is_dir():
        return FolderSource(path, frame_rate=frame_rate)
    return VideoSource(path, fallback_frame_rate=frame_rate)


class VideoSource(Source):
    """
    A video or animated GIF, read by OpenCV; stamps start at 0.

    The stamps are the file's own. Where these are missing or do not grow, the frame rate tells
    the next one.
    """

    def __init__(self, path: Path, *, fallback_frame_rate: float = FALLBACK_FRAME_RATE) -> None:
        capture = cv2.VideoCapture(str(path))
        try:
            if not capture.isOpened():
                raise SourceError(f'{str(path)!r} is no video that OpenCV can read')
            if not capture.read()[0]:
                raise SourceError(f'the video {str(path)!r} has no frame that OpenCV can read')
            rate = capture.get(cv2.CAP_PROP_FPS)
            count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finally:
            capture.release()
        if not (math.isfinite(rate) and rate > 0):
            rate = fallback_frame_rate
        super().__init__(
            name=path.name,
            frame_rate=rate,
            frame_count=int(count) if math.isfinite(count) and count > 0 else None,
        )
        self._path = path
        self._period_ms = 1000 / rate

    def __iter__(self) -> Iterator[SourceFrame]:
        """Iterate over the frames from the first one."""
        capture = cv2.VideoCapture(str(self._path))
        try:
            first_ms = math.nan
            last_ms = -self._period_ms
            while True:
                ok, image = capture.read()
                if not ok:
                    return
                position_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
                if math.isnan(first_ms):
                    first_ms = position_ms if math.isfinite(position_ms) else 0.0
                stamp_ms = position_ms - first_ms
                if not (math.isfinite(stamp_ms) and stamp_ms > last_ms):
                    stamp_ms = last_ms + self._period_ms
                last_ms = stamp_ms
                yield SourceFrame(image=image, stamp_ns=round(stamp_ms * 1e6))
        finally:
            capture.release()


class FolderSource(Source):
    """The images of a folder, in natural order (frame2 before frame10), at a constant rate."""

    def __init__(self, path: Path, *, frame_rate: float = FALLBACK_FRAME_RATE) -> None:
        files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            bags = sorted(str(file) for file in path.iterdir() if file.suffix in BAG_SUFFIXES)
            raise SourceError(
                f'the folder {str(path)!r} holds no image ({", ".join(sorted(IMAGE_SUFFIXES))}) '
                + (f'and no {BAG_METADATA}: give {bags[0]!r}' if bags else 'and is no rosbag')
            )
        super().__init__(name=path.name, frame_rate=frame_rate, frame_count=len(files))
        self._files = sorted(files, key=lambda file: _natural_key(file.name))
        self._period_ns = 1e9 / frame_rate

    def __iter__(self) -> Iterator[SourceFrame]:
        """Iterate over the images; SourceError naming the file if one cannot be read."""
        for index, file in enumerate(self._files):
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is None:
                raise SourceError(
                    f'{str(file)!r} is no image that OpenCV can read: remove or replace it'
                )
            yield SourceFrame(image=image, stamp_ns=round(index * self._period_ns))


class BagSource(Source):
    """
    One image topic of a rosbag2, sqlite3 or MCAP, raw or compressed.

    Stamps are the headers', or the bag's own where a header's is zero. Damaged messages are left
    out and counted in ``skipped``.
    """

    def __init__(self, path: Path, *, topic: str | None = None) -> None:
        counts = _count_images(path)
        self._path = path
        self._topic = self._choose_topic(sorted(counts), topic)
        # Image and CompressedImage are the same in every ROS 2 distribution: it does not matter
        # whether the bag brings its types.
        self._typestore = get_typestore(Stores.ROS2_JAZZY)
        count = counts[self._topic]
        super().__init__(name=path.name, frame_count=count)
        stamps = [frame.stamp_ns for frame in islice(self, RATE_FRAMES)]
        if not stamps:
            raise SourceError(
                f'none of the {count} images on {self._topic} in {str(path)!r} can be read'
            )
        if stamps[-1] > stamps[0]:
            self.frame_rate = (len(stamps) - 1) * 1e9 / (stamps[-1] - stamps[0])
        self.skipped = 0

    @property
    def topic(self) -> str:
        """The topic of the images."""
        return self._topic

    def __iter__(self) -> Iterator[SourceFrame]:
        """Iterate over the images of the topic in the order of the bag."""
        self.skipped = 0
        for message_type, bag_ns, data in _read_messages(self._path, self._topic):
            frame = self._decode(message_type, bag_ns, data)
            if frame is None:
                self.skipped += 1
            else:
                yield frame

    def _choose_topic(self, topics: list[str], topic: str | None) -> str:
        bag = f'the rosbag {str(self._path)!r}'
        if not topics:
            raise SourceError(f'{bag} has no images')
        if topic is None and len(topics) > 1:
            raise SourceError(f'{bag} needs a topic to be chosen: {", ".join(topics)}')
        if topic is not None and topic not in topics:
            raise SourceError(
                f'{bag} has no images on {topic!r}, only on these topics: {", ".join(topics)}'
            )
        return topic or topics[0]

    def _decode(self, message_type: str, bag_ns: int, data: bytes) -> SourceFrame | None:
        """Return the image of a serialised message, or None if it is damaged."""
        try:
            message: Any = self._typestore.deserialize_cdr(data, message_type)
            image = DECODERS[message_type](message)
        except (SerdeError, ImageError):
            return None
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        return SourceFrame(
            image=image, stamp_ns=stamp_ns or bag_ns, frame_id=message.header.frame_id
        )


class CameraSource(Source):
    """A camera of this machine by its number; stamps are the clock's, in ns since 1970."""

    def __init__(self, index: int) -> None:
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(f'camera {index} cannot be opened: is it connected and free?')
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        super().__init__(
            name=f'camera {index}',
            frame_rate=rate if math.isfinite(rate) and rate > 0 else None,
        )

    def __iter__(self) -> Iterator[SourceFrame]:
        """Iterate over the images as they come, until `close`; SourceError if they stop."""
        while self._capture.isOpened():
            ok, image = self._capture.read()
            stamp_ns = time.time_ns()
            if not ok:
                raise SourceError(f'{self.name} delivers no more images: was it unplugged?')
            yield SourceFrame(image=image, stamp_ns=stamp_ns)

    def close(self) -> None:
        """Give the camera free."""
        self._capture.release()


def _count_images(path: Path) -> dict[str, int]:
    """Return the number of messages on each image topic of a bag that has any."""
    counts: dict[str, int] = {}
    try:
        with Reader(path) as reader:
            for connection in reader.connections:
                if connection.msgtype in DECODERS and connection.msgcount > 0:
                    counts[connection.topic] = (
                        counts.get(connection.topic, 0) + connection.msgcount
                    )
    except Exception as error:  # rosbags lets errors of many kinds through if a file is damaged
        raise _unreadable(path, error) from error
    return counts


def _read_messages(path: Path, topic: str) -> Iterator[tuple[str, int, bytes]]:
    """Iterate over the (type, time in the bag in ns, serialised message) of an image topic."""
    try:
        with Reader(path) as reader:
            connections = [
                connection
                for connection in reader.connections
                if connection.topic == topic and connection.msgtype in DECODERS
            ]
            for connection, bag_ns, data in reader.messages(connections):
                yield connection.msgtype, bag_ns, data
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SourceError:
    detail = ' '.join(str(error).split())
    return SourceError(
        f'the rosbag {str(path)!r} cannot be read: {detail or type(error).__name__}'
    )


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sorting key that takes the numbers in a name as numbers."""
    # The parts are text, number, text, ...: those compared with each other are of one kind.
    return [
        (int(part), part) if index % 2 else (0, part)
        for index, part in enumerate(re.split('([0-9]+)', name))
    ]
