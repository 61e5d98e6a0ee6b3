# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a running node: plays recordings to it as a camera does and takes its answers."""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType

from rclpy.context import Context
from rclpy.exceptions import InvalidServiceNameException, InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger

from fer_msgs.msg import ExpressionArray
from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.labels import read_labels
from fer_perception.evaluation.observations import ObservationCollector, Observations
from fer_perception.evaluation.offline import Progress
from fer_perception.evaluation.played_images import NodeError, PlayedImages
from fer_perception.evaluation.recording_files import RecordingFile
from fer_perception.fast_dds import use_prompt_resends
from fer_perception.messages import record_from_message, stamp_ns
from fer_perception.pacing import paced
from fer_perception.publish import CameraPublisher
from fer_perception.records import ExpressionRecord
from fer_perception.sources import BagSource, SourceError, SourceFrame, open_source

ANSWERS_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE
)
POLL_S = 0.02
MATCH_S = 1.0  # after the node was found: its subscription may follow the reliability offered
RESET_S = 5.0  # for the node to forget its faces
SILENCE_S = 2.0  # without any answer, after the last image: what was not answered was dropped
MOST_FACES = 256  # of an image
LONGEST_GAP_S = 60.0  # from one image to the next; a longer one is no rate to play at
FIRST_STAMP_NS = 1_000_000_000  # in place of 0, which to ROS is no stamp
STAMP_LIMIT_NS = 2**31 * 1_000_000_000  # of builtin_interfaces/Time


@dataclass(frozen=True, kw_only=True)
class _Answer:
    stamp_ns: int
    received_ns: int  # time.monotonic_ns()
    records: list[ExpressionRecord] | None  # None: the message held no expressions


class NodeUnderTest:
    """A running node: images go to it, its answers come back. Plays one recording at a time."""

    def __init__(
        self, *, image_topic: str, expressions_topic: str, compressed: bool, topic: str | None
    ) -> None:
        """Join ROS.

        image_topic: what the node's `image` is remapped to; with `compressed` images are sent as
        JPEG on IMAGE_TOPIC/compressed. topic: of the images in bags that have several. Raises
        NodeError for a name that is no topic.
        """
        use_prompt_resends()
        self._topic = topic
        self._answers: list[_Answer] = []  # the executor's thread appends to it
        self._context = Context()
        self._context.init(args=[])
        try:
            self._camera = CameraPublisher(
                topic=image_topic,
                compressed=compressed,
                name='fer_evaluate',
                context=self._context,
            )
            self._expressions = self._camera.create_subscription(
                ExpressionArray, expressions_topic, self._take, ANSWERS_QOS
            )
        except InvalidTopicNameException as error:
            self._context.try_shutdown()
            raise NodeError(' '.join(str(error).split())) from error
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._camera)
        self._thread = threading.Thread(target=self._executor.spin, name='answers', daemon=True)
        self._thread.start()

    def __enter__(self) -> 'NodeUnderTest':
        """Play within a with block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave ROS."""
        self._executor.shutdown()
        self._thread.join()
        self._camera.destroy_node()
        self._context.try_shutdown()

    def find(self, limit_s: float) -> None:
        """Wait for the node; raises NodeError if it is not there within the limit in seconds.

        Raises NodeError also if several nodes or another camera have been discovered by then.
        """
        end = time.monotonic() + limit_s
        is_there = self._camera.wait_for_subscriber(limit_s)
        while is_there and not self._nodes() and (is_there := time.monotonic() < end):
            time.sleep(POLL_S)
        if not is_there:
            raise NodeError(
                f'no node reads {self._camera.topic} and publishes {self._answer_topic} within '
                f'{limit_s:g} s: is fer_node running and active, with these topics and this '
                'ROS_DOMAIN_ID?'
            )
        time.sleep(MATCH_S)
        if len(self._nodes()) > 1:
            raise NodeError(
                f'several nodes publish {self._answer_topic}: {", ".join(self._nodes())}; let one '
                'run, or give each a namespace'
            )
        if self._camera.count_publishers(self._camera.topic) > 1:
            raise NodeError(
                f'somebody else publishes {self._camera.topic}: stop that camera, or run the node '
                'on another topic'
            )

    def __call__(self, file: RecordingFile, progress: Progress = iter) -> LabelledRecording:
        """Play a recording at the pace of its stamps and take the answers.

        Its headers go with the images. Raises LabelError, RecordingFilesError, SourceError, or
        NodeError if nothing is answered, something twice, or images of somebody else are.
        """
        labels = read_labels(file.labels_path())
        with open_source(file.source, topic=self._topic) as source:
            self._forget_faces()
            self._answers.clear()
            sent: list[tuple[int, int]] = []  # stamp and time.monotonic_ns() of each image
            for frame in paced(_playable(progress(source))):
                now_ns = self._camera.publish_image(
                    frame.image, stamp_ns=frame.stamp_ns, frame_id=frame.frame_id
                )
                sent.append((frame.stamp_ns, now_ns))
            self._wait_for_answers(len(sent))
            if not self._answers:
                raise NodeError(
                    f'none of the {len(sent)} images was answered on {self._answer_topic}: is the '
                    'node active and enabled?'
                )
            observations, played = self._match(sent)
            return LabelledRecording(
                name=file.name,
                topic=source.topic if isinstance(source, BagSource) else None,
                damaged=source.skipped,
                observations=observations,
                labels=labels,
                played=played,
            )

    @property
    def _answer_topic(self) -> str:
        return str(self._expressions.topic_name)

    def _nodes(self) -> list[str]:
        """Return the full names of the nodes that publish expressions."""
        return [
            f'{info.node_namespace.rstrip("/")}/{info.node_name}'
            for info in self._camera.get_publishers_info_by_topic(self._answer_topic)
        ]

    def _take(self, message: ExpressionArray) -> None:
        received_ns = time.monotonic_ns()
        records = None
        if len(message.faces) <= MOST_FACES:
            with suppress(ValueError):  # a state that is none
                records = [record_from_message(face) for face in message.faces]
        self._answers.append(
            _Answer(stamp_ns=stamp_ns(message.header), received_ns=received_ns, records=records)
        )

    def _forget_faces(self) -> None:
        """Ask the node to forget the faces, and the time, of what it saw before."""
        for node in self._nodes():
            try:
                client = self._camera.create_client(Trigger, f'{node}/reset')
            except InvalidServiceNameException:  # discovery does not know the node's name
                continue
            if client.wait_for_service(RESET_S):
                answer = client.call_async(Trigger.Request())
                end = time.monotonic() + RESET_S
                while not answer.done() and time.monotonic() < end:
                    time.sleep(POLL_S)
            self._camera.destroy_client(client)

    def _wait_for_answers(self, sent: int) -> None:
        """Wait until as many answers as images have come, or none has for a while."""
        known, end = 0, time.monotonic() + SILENCE_S
        while len(self._answers) < sent and time.monotonic() < end:
            if len(self._answers) > known:
                known, end = len(self._answers), time.monotonic() + SILENCE_S
            time.sleep(POLL_S)

    def _match(self, sent: Sequence[tuple[int, int]]) -> tuple[Observations, PlayedImages]:
        """Find the answer to each image by its stamp; the first to the first where some equal.

        Raises NodeError for answers to no image.
        """
        by_stamp: defaultdict[int, deque[_Answer]] = defaultdict(deque)
        for answer in self._answers:
            by_stamp[answer.stamp_ns].append(answer)
        images = Counter(image_ns for image_ns, _ in sent)
        if foreign := sum(len(found) for stamp, found in by_stamp.items() if stamp not in images):
            raise NodeError(
                f'{foreign} answers are to images that were not played: somebody else publishes '
                f'{self._camera.topic}'
            )
        if any(len(found) > images[stamp] for stamp, found in by_stamp.items()):
            raise NodeError(
                f'an image was answered twice: several nodes publish {self._answer_topic}'
            )
        collector = ObservationCollector()
        latencies_ms: list[float] = []
        malformed = 0
        for image_ns, sent_ns in sent:
            found = by_stamp[image_ns].popleft() if by_stamp[image_ns] else None
            if found is None:
                collector.add(image_ns, None)
                continue
            try:
                if found.records is None:
                    raise ValueError('no expressions')
                collector.add(image_ns, found.records)
            except ValueError:
                malformed += 1
                collector.add(image_ns, None)
            else:
                latencies_ms.append((found.received_ns - sent_ns) * 1e-6)
        return collector.finish(), PlayedImages(
            sent=len(sent),
            latencies_ms=tuple(latencies_ms),
            malformed=malformed,
            latest_ms=_latest_ms(sent),
        )


def _playable(frames: Iterable[SourceFrame]) -> Iterator[SourceFrame]:
    """Give frames that can be played to a node; raises SourceError for the first that cannot.

    Stamps that begin at 0, those of videos and folders, are moved: to ROS 0 is no stamp.
    """
    moved_ns, last_ns = 0, None
    for frame in frames:
        if last_ns is None and frame.stamp_ns == 0:
            moved_ns = FIRST_STAMP_NS
        now_ns = frame.stamp_ns + moved_ns
        if not 0 < now_ns < STAMP_LIMIT_NS:
            raise SourceError(f'an image with the stamp {frame.stamp_ns} ns cannot be played')
        if last_ns is not None and now_ns - last_ns > LONGEST_GAP_S * 1e9:
            raise SourceError(
                f'from one image to the next are {(now_ns - last_ns) / 1e9:g} s; gaps of more '
                f'than {LONGEST_GAP_S:g} s are not played'
            )
        last_ns = now_ns
        yield replace(frame, stamp_ns=now_ns)


def _latest_ms(sent: Sequence[tuple[int, int]]) -> float:
    """Return by how many milliseconds the image that was sent the latest was late."""
    latest_ns, start_ns, last_ns = 0, 0, None
    for stamp, now_ns in sent:
        if last_ns is None or stamp < last_ns:  # there the pace starts anew
            start_ns = now_ns - stamp
        last_ns = stamp
        latest_ns = max(latest_ns, now_ns - stamp - start_ns)
    return latest_ns * 1e-6
