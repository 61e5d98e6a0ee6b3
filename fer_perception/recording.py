# SPDX-License-Identifier: Apache-2.0
"""Recording of images and results to an MCAP rosbag2, without ROS running."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from fer_perception.messages import header_message, image_message, result_messages
from fer_perception.results import FrameResult
from fer_perception.sources import SourceFrame

# What is recorded where; the names are those of the node brought up by fer.launch.py.
TOPICS = {
    '/image_raw': 'sensor_msgs/msg/Image',
    '/fer/expression': 'fer_msgs/msg/Expression',
    '/fer/expressions': 'fer_msgs/msg/ExpressionArray',
    '/fer/landmarks': 'fer_msgs/msg/FaceLandmarks',
}


class RecordingError(Exception):
    """Say why a bag cannot be written."""


class BagRecorder:
    """Writes what the node would have received and published to a new bag."""

    def __init__(self, path: Path) -> None:
        """Create the bag; raises RecordingError if it exists or fer_msgs is not to be found."""
        self._types = _typestore()
        self._path = path
        try:
            self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise RecordingError(f'the bag {path} cannot be made: {error}') from error
        self._connections = {
            topic: self._writer.add_connection(topic, kind, typestore=self._types)
            for topic, kind in TOPICS.items()
        }

    def __enter__(self) -> 'BagRecorder':
        """Record within a with block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the bag; raises RecordingError if it cannot be."""
        try:
            self._writer.close()
        except OSError as failure:
            raise self._incomplete(failure) from failure

    def record(self, frame: SourceFrame, result: FrameResult) -> None:
        """Write an image and all that was found in it, at the image's time.

        Raises RecordingError if the disk is full, or otherwise unwilling.
        """
        header = header_message(self._make, stamp_ns=frame.stamp_ns, frame_id=frame.frame_id)
        self._write('/image_raw', frame, image_message(self._make, frame.image, header))
        for topic, message in result_messages(self._make, result, header):
            self._write(f'/fer/{topic}', frame, message)

    def _make(self, type_name: str, **fields: Any) -> Any:
        return self._types.types[type_name](**fields)

    def _write(self, topic: str, frame: SourceFrame, message: Any) -> None:
        data = self._types.serialize_cdr(message, TOPICS[topic])
        try:
            self._writer.write(self._connections[topic], frame.stamp_ns, data)
        except OSError as failure:
            raise self._incomplete(failure) from failure

    def _incomplete(self, failure: OSError) -> RecordingError:
        return RecordingError(f'the bag {self._path} is incomplete: {failure.strerror}')


def _typestore() -> Typestore:
    """Make a store of ROS 2 Jazzy's message types and those of fer_msgs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        folder = Path(prefix) / 'share' / 'fer_msgs' / 'msg'
        if prefix and folder.is_dir():
            types: dict[str, Any] = {}
            for path in sorted(folder.glob('*.msg')):
                types |= get_types_from_msg(path.read_text('utf-8'), f'fer_msgs/msg/{path.stem}')
            store.register(types)
            return store
    raise RecordingError(
        'fer_msgs was not found in AMENT_PREFIX_PATH: source the environment it was built in '
        '(source install/setup.bash, or source scripts/environment.sh)'
    )
