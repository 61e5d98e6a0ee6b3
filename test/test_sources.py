# SPDX-License-Identifier: Apache-2.0
"""Every kind of source gives the same frames with sensible stamps, or a clear error."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from fer_perception.sources import SourceError, SourceFrame, open_source

FRAME_COUNT = 12
PERIOD_NS = 40_000_000  # 25 frames per second
START_NS = 1_700_000_000_000_000_000
IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
TYPES = get_typestore(Stores.ROS2_JAZZY)


def picture(index: int) -> np.ndarray:
    """Return the picture of a frame: its brightness tells its number."""
    return np.full((48, 64, 3), 20 * index, np.uint8)


def number_of(frame: SourceFrame) -> int:
    return round(float(frame.image.mean()) / 20)


def numbers(frames: list[SourceFrame]) -> list[int]:
    return [number_of(frame) for frame in frames]


def write_video(path: Path, *, frame_count: int = FRAME_COUNT) -> None:
    code = cv2.VideoWriter.fourcc(*('MJPG' if path.suffix == '.avi' else 'mp4v'))
    writer = cv2.VideoWriter(str(path), code, 25.0, (64, 48))
    for index in range(frame_count):
        writer.write(picture(index))
    writer.release()


def write_folder(path: Path) -> None:
    path.mkdir()
    for index in range(FRAME_COUNT):
        cv2.imwrite(str(path / f'frame{index}.png'), picture(index))


def header(stamp_ns: int) -> Any:
    time = TYPES.types['builtin_interfaces/msg/Time']
    return TYPES.types['std_msgs/msg/Header'](
        stamp=time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id='eye'
    )


def image_message(index: int, stamp_ns: int) -> Any:
    image = picture(index)
    return TYPES.types[IMAGE](
        header=header(stamp_ns), height=48, width=64, encoding='bgr8', is_bigendian=0,
        step=192, data=image.reshape(-1),
    )


def compressed_message(index: int, stamp_ns: int) -> Any:
    _, data = cv2.imencode('.jpg', picture(index))
    return TYPES.types[COMPRESSED_IMAGE](header=header(stamp_ns), format='jpeg', data=data)


def write_bag(
    path: Path,
    *,
    storage: StoragePlugin = StoragePlugin.MCAP,
    topics: tuple[tuple[str, str], ...] = (('/image', IMAGE),),
    stamped: bool = True,
    damaged: tuple[int, ...] = (),
    compression: CompressionMode = CompressionMode.NONE,
) -> None:
    """Write a bag; headers lag half a period behind the bag's times, or are zero."""
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections = [
            (writer.add_connection(topic, kind, typestore=TYPES), kind) for topic, kind in topics
        ]
        text = writer.add_connection('/text', 'std_msgs/msg/String', typestore=TYPES)
        hello = TYPES.types['std_msgs/msg/String'](data='hello')
        for index in range(FRAME_COUNT):
            bag_ns = START_NS + index * PERIOD_NS
            stamp_ns = bag_ns - PERIOD_NS // 2 if stamped else 0
            for connection, kind in connections:
                make = image_message if kind == IMAGE else compressed_message
                data = TYPES.serialize_cdr(make(index, stamp_ns), kind)
                if index in damaged:
                    data = data[: len(data) // 2]
                writer.write(connection, bag_ns, data)
            writer.write(text, bag_ns, TYPES.serialize_cdr(hello, 'std_msgs/msg/String'))


def read(path: Path, **options: Any) -> list[SourceFrame]:
    with open_source(str(path), **options) as source:
        return list(source)


def check_bag(frames: list[SourceFrame], *, offset_ns: int = -PERIOD_NS // 2) -> None:
    assert numbers(frames) == list(range(FRAME_COUNT))
    expected = [START_NS + offset_ns + index * PERIOD_NS for index in range(FRAME_COUNT)]
    assert [frame.stamp_ns for frame in frames] == expected
    assert {frame.frame_id for frame in frames} == {'eye'}


# Videos


@pytest.mark.parametrize('suffix', ['.mp4', '.avi'])
def test_a_video_gives_all_frames(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f'clip{suffix}'
    write_video(path)
    with open_source(str(path)) as source:
        assert source.name == path.name
        assert source.frame_rate == pytest.approx(25)
        assert source.frame_count == FRAME_COUNT
        frames = list(source)
    assert numbers(frames) == list(range(FRAME_COUNT))
    stamps = [frame.stamp_ns for frame in frames]
    np.testing.assert_allclose(stamps, np.arange(FRAME_COUNT) * PERIOD_NS, atol=1e6)
    assert stamps[0] == 0


def test_a_source_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / 'clip.avi'
    write_video(path)
    with open_source(str(path)) as source:
        next(iter(source))
        assert numbers(list(source)) == numbers(list(source)) == list(range(FRAME_COUNT))


@pytest.mark.parametrize(
    'positions', [[0.0] * FRAME_COUNT, [float('nan')] * FRAME_COUNT, [9.0, 5.0] * FRAME_COUNT]
)
def test_without_usable_times_the_frame_rate_tells_the_stamps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positions: list[float]
) -> None:
    path = tmp_path / 'clip.avi'
    write_video(path)

    class Capture:
        """OpenCV's, with other times."""

        def __init__(self, name: str) -> None:
            self.capture = cv2_capture(name)
            self.positions = iter(positions)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.capture, name)

        def get(self, what: int) -> float:
            if what == cv2.CAP_PROP_POS_MSEC:
                return next(self.positions)
            return self.capture.get(what)

    cv2_capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, 'VideoCapture', Capture)
    stamps = [frame.stamp_ns for frame in read(path)]
    assert stamps == [index * PERIOD_NS for index in range(FRAME_COUNT)]


def test_the_sample_clip_is_read(sample_clip: Path) -> None:
    frames = read(sample_clip)
    assert len(frames) == 72
    assert frames[0].image.shape == (360, 640, 3)
    assert frames[-1].stamp_ns == pytest.approx(71 / 30 * 1e9, abs=1e6)


def test_an_animated_gif_has_the_times_of_its_frames(shared_data: Path) -> None:
    frames = read(shared_data / 'head-pose-face-detection-male.gif')
    assert len(frames) == 62
    stamps = np.array([frame.stamp_ns for frame in frames])
    assert stamps[0] == 0
    # Its delays are 80 or 90 ms.
    assert set(np.diff(stamps).round(-6)) == {80_000_000, 90_000_000}


# Folders


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / 'images'
    write_folder(folder)
    (folder / 'notes.txt').write_text('no image')
    with open_source(str(folder), frame_rate=25) as source:
        assert (source.frame_rate, source.frame_count) == (25, FRAME_COUNT)
        frames = list(source)
    assert numbers(frames) == list(range(FRAME_COUNT))
    assert [frame.stamp_ns for frame in frames] == [i * PERIOD_NS for i in range(FRAME_COUNT)]


def test_a_folder_has_30_frames_per_second_by_default(tmp_path: Path) -> None:
    write_folder(tmp_path / 'images')
    frames = read(tmp_path / 'images')
    assert frames[3].stamp_ns == 100_000_000


@pytest.mark.parametrize('content', [b'', b'no image', b'\x89PNG\r\n\x1a\n'])
def test_a_damaged_image_of_a_folder_is_named(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / 'images'
    write_folder(folder)
    (folder / 'frame5.png').write_bytes(content)
    seen: list[int] = []
    with pytest.raises(SourceError, match=r'frame5\.png'):
        seen.extend(number_of(frame) for frame in open_source(str(folder)))


# Rosbags


@pytest.mark.parametrize('storage', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize('kind', [IMAGE, COMPRESSED_IMAGE])
@pytest.mark.parametrize('single_file', [False, True])
def test_a_bag_is_read(
    tmp_path: Path, storage: StoragePlugin, kind: str, single_file: bool
) -> None:
    path = tmp_path / 'bag'
    write_bag(path, storage=storage, topics=(('/image', kind),))
    if single_file:
        path = next(file for file in path.iterdir() if file.suffix in {'.mcap', '.db3'})
    with open_source(str(path)) as source:
        assert source.frame_count == FRAME_COUNT
        assert source.frame_rate == pytest.approx(25)
        check_bag(list(source))
        check_bag(list(source))
        assert source.skipped == 0


@pytest.mark.parametrize('compression', [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_a_compressed_bag_is_read(tmp_path: Path, compression: CompressionMode) -> None:
    path = tmp_path / 'bag'
    write_bag(path, storage=StoragePlugin.SQLITE3, compression=compression)
    check_bag(read(path))


def test_a_bag_without_types_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'bag'
    write_bag(path, storage=StoragePlugin.SQLITE3)
    database = next(path.glob('*.db3'))
    # As distributions before Iron wrote them.
    with sqlite3.connect(database) as connection:
        connection.execute('DELETE FROM message_definitions')
    check_bag(read(path))


def test_without_header_stamps_the_time_of_the_bag_counts(tmp_path: Path) -> None:
    path = tmp_path / 'bag'
    write_bag(path, stamped=False)
    check_bag(read(path), offset_ns=0)


def test_damaged_messages_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / 'bag'
    write_bag(path, damaged=(0, 5, 11))
    with open_source(str(path)) as source:
        assert source.skipped == 0
        assert numbers(list(source)) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
        assert source.skipped == 3


def test_one_of_several_topics_must_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / 'bag'
    write_bag(path, topics=(('/left', IMAGE), ('/right/compressed', COMPRESSED_IMAGE)))
    with pytest.raises(SourceError, match='/left, /right/compressed'):
        open_source(str(path))
    check_bag(read(path, topic='/left'))
    check_bag(read(path, topic='/right/compressed'))
    for topic in ('/text', '/nothing'):
        with pytest.raises(SourceError, match=f'{topic}.*/left, /right/compressed'):
            open_source(str(path), topic=topic)


def test_a_bag_without_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'bag'
    write_bag(path, topics=())
    with pytest.raises(SourceError, match='has no images'):
        open_source(str(path))


def test_a_bag_whose_images_are_all_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'bag'
    write_bag(path, damaged=tuple(range(FRAME_COUNT)))
    with pytest.raises(SourceError, match='none of the 12 images on /image'):
        open_source(str(path))


@pytest.mark.parametrize('storage', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize('part', [0.0, 0.01, 0.5])
def test_a_damaged_bag_is_refused(tmp_path: Path, storage: StoragePlugin, part: float) -> None:
    path = tmp_path / 'bag'
    write_bag(path, storage=storage)
    file = next(file for file in path.iterdir() if file.suffix in {'.mcap', '.db3'})
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    for damaged in (path, file):
        with pytest.raises(SourceError, match='cannot be read'):
            read(damaged)


@pytest.mark.parametrize('metadata', ['', '[', 'a: 1', 'rosbag2_bagfile_information: {}'])
def test_a_bag_with_damaged_metadata_is_refused(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / 'bag'
    write_bag(path)
    (path / 'metadata.yaml').write_text(metadata)
    with pytest.raises(SourceError, match='cannot be read'):
        open_source(str(path))


def test_a_bag_without_metadata_says_which_file_to_give(tmp_path: Path) -> None:
    path = tmp_path / 'bag'
    write_bag(path)
    (path / 'metadata.yaml').unlink()
    with pytest.raises(SourceError, match=r'bag\.mcap'):
        open_source(str(path))


# Cameras


class FakeCamera:
    """A camera that delivers three frames and is then unplugged."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.left = 3
        self.open = index == 2

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.open

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, picture(2 - self.left)) if self.left >= 0 else (False, None)

    def get(self, _: int) -> float:
        return 15.0

    def release(self) -> None:
        self.open = False


@pytest.fixture
def fake_camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cv2, 'VideoCapture', FakeCamera)
    yield


@pytest.mark.parametrize('name', ['2', '/dev/video2'])
@pytest.mark.usefixtures('fake_camera')
def test_a_camera_is_read_until_it_is_unplugged(name: str) -> None:
    frames = []
    with open_source(name) as source:
        assert (source.frame_rate, source.frame_count) == (15.0, None)
        with pytest.raises(SourceError, match='unplugged'):
            for frame in source:
                frames.append(frame)
    assert numbers(frames) == [0, 1, 2]
    stamps = [frame.stamp_ns for frame in frames]
    assert stamps == sorted(stamps)
    assert stamps[0] > START_NS


@pytest.mark.usefixtures('fake_camera')
def test_a_closed_camera_ends_the_iteration() -> None:
    source = open_source('2')
    frames = iter(source)
    next(frames)
    source.close()
    assert list(frames) == []


@pytest.mark.usefixtures('fake_camera')
def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(SourceError, match='camera 7 cannot be opened'):
        open_source('7')


# What is no source


@pytest.mark.parametrize('name', ['absent/such.mp4', 'absent', 'absent.mcap', ''])
def test_a_missing_path_is_named(name: str) -> None:
    with pytest.raises(SourceError, match=f'{name!r} does not exist'):
        open_source(name)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match='holds no image'):
        open_source(str(tmp_path))


@pytest.mark.parametrize('content', [b'', b'just text', bytes(5000)])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'clip.mp4'
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r'clip\.mp4'):
        open_source(str(path))


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'clip.avi'
    write_video(path, frame_count=0)
    with pytest.raises(SourceError, match=r'clip\.avi'):
        open_source(str(path))


def test_a_topic_is_for_bags_only(tmp_path: Path) -> None:
    write_folder(tmp_path / 'images')
    with pytest.raises(SourceError, match='no rosbag'):
        open_source(str(tmp_path / 'images'), topic='/image')


@pytest.mark.parametrize('rate', [0.0, -1.0, float('nan'), float('inf')])
def test_a_bad_frame_rate_is_refused(tmp_path: Path, rate: float) -> None:
    with pytest.raises(SourceError, match='above 0'):
        open_source(str(tmp_path), frame_rate=rate)


def test_reading_leaves_no_file_behind(tmp_path: Path) -> None:
    path = tmp_path / 'bag'
    write_bag(path, storage=StoragePlugin.SQLITE3)
    before = sorted(path.iterdir())
    read(path)
    assert sorted(path.iterdir()) == before
