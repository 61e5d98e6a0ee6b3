# SPDX-License-Identifier: Apache-2.0
"""ROS4HRI over real ROS traffic; test_hri_ros.py runs this where hri_msgs can be imported."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hri_msgs.msg
import numpy as np
import pytest
import rclpy
from faces_made import face_landmarks
from rcl_interfaces.msg import Log
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from fer_perception.affect import COORDINATES, derive_affect
from fer_perception.faces.face import Face
from fer_perception.faces.place import FacePlace
from fer_perception.hri import facial_landmarks_message, tracked_message
from fer_perception.hri_faces import HriFaces
from fer_perception.hri_output import HRI_QOS, HriOutput
from fer_perception.landmark_frames import LandmarkFrame
from fer_perception.messages import header_message, ros_message, stamp_ns
from fer_perception.pipeline import Pipeline, PipelineConfig
from fer_perception.results import FaceResult, FrameResult
from fer_perception.sources import open_source
from fer_perception.uncertainty.estimate import ExpressionEstimate, ExpressionState

LIMIT_S = 30.0
STEP_NS = 33_000_000
SIZE = (640, 480)
IMAGE = np.full((480, 640, 3), 120, np.uint8)
LABELS = tuple(COORDINATES)
KINDS = {
    'roi': hri_msgs.msg.NormalizedRegionOfInterest2D,
    'cropped': Image,
    'landmarks': hri_msgs.msg.FacialLandmarks,
    'expression': hri_msgs.msg.Expression,
}
TRACKED = '/humans/faces/tracked'


@pytest.fixture(scope='module', autouse=True)
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


class Spinner:
    """Spins nodes in a thread of its own, as a robot's process does."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.error: BaseException | None = None
        self._executor = SingleThreadedExecutor()
        self._is_over = False
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def node(self, name: str) -> Node:
        node = rclpy.create_node(f'{name}_{time.monotonic_ns()}')
        self.nodes.append(node)
        self._executor.add_node(node)
        return node

    def _spin(self) -> None:
        try:
            while not self._is_over:
                self._executor.spin_once(timeout_sec=0.05)
        except BaseException as error:  # noqa: BLE001 - the test shows it
            self.error = error

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the thread that spins."""
        task = self._executor.create_task(function)
        assert wait(task.done)
        return task.result()

    def close(self) -> None:
        self._is_over = True
        self._thread.join()
        self._executor.shutdown()
        for node in self.nodes:
            node.destroy_node()
        assert self.error is None, self.error


@pytest.fixture
def spinner() -> Iterator[Spinner]:
    spinning = Spinner()
    yield spinning
    spinning.close()


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Switch threads so often that they meet in the middle of what they do."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual_s)


def wait(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def header_at(image: int) -> Any:
    return header_message(ros_message, stamp_ns=10**12 + image * STEP_NS, frame_id='camera')


def number(message: Any) -> int:
    """Return the number of the image that a message is about."""
    return (stamp_ns(message.header) - 10**12) // STEP_NS


def made_face(face_id: str) -> Face:
    landmarks = face_landmarks(frames=1, movement=0.0)[0] + (320, 240)
    return Face(face_id, FacePlace.from_landmarks(landmarks).box, landmarks.astype(np.float32))


def made_result(
    image: int,
    *face_ids: str,
    expression: str = 'happiness',
    state: ExpressionState = ExpressionState.CONFIDENT,
    updated: bool = True,
) -> FrameResult:
    probabilities = np.array([0.88 if label == expression else 0.02 for label in LABELS])
    estimate = ExpressionEstimate(
        state=state,
        labels=LABELS,
        probabilities=probabilities,
        standard_deviations=np.zeros(len(LABELS)),
        predictive_entropy=0.0,
        expected_entropy=0.0,
        mutual_information=0.0,
        mc_samples=10,
        window_s=1.0,
    )
    return FrameResult(
        stamp_ns=10**12 + image * STEP_NS,
        image_size=SIZE,
        faces=tuple(FaceResult(made_face(name), estimate, updated) for name in face_ids),
        processing_ms=1.0,
    )


class Listener:
    """Keeps what is published about faces."""

    def __init__(self, node: Node, *face_ids: str, topics: tuple[str, ...] = tuple(KINDS)) -> None:
        self.node = node
        self.tracked: list[Any] = []
        self.received: dict[str, list[Any]] = {}
        node.create_subscription(hri_msgs.msg.IdsList, TRACKED, self.tracked.append, 100)
        for face_id in face_ids:
            for topic in topics:
                name = f'/humans/faces/{face_id}/{topic}'
                self.received[f'{face_id}/{topic}'] = []
                node.create_subscription(
                    KINDS[topic], name, self.received[f'{face_id}/{topic}'].append, 100
                )

    def publishers(self, topic: str) -> int:
        return int(self.node.count_publishers(f'/humans/faces/{topic}'))

    def tracks(self, image: int) -> list[str] | None:
        """Return what `tracked` said of an image."""
        return next((list(m.ids) for m in self.tracked if number(m) == image), None)

    def wait_for_topics(self, output_node: Node) -> None:
        """Wait until whatever this listens to is connected."""
        for name in self.received:
            topic = f'/humans/faces/{name}'
            assert wait(lambda topic=topic: output_node.count_subscribers(topic) > 0)  # type: ignore[misc]


def publish_until_heard(
    output: HriOutput, listener: Listener, names: list[str], *face_ids: str
) -> int:
    """Publish images until all of these topics have been heard; return the next image's number."""
    image = 0
    while not all(listener.received[name] for name in names):
        assert image < 300, {name: len(got) for name, got in listener.received.items()}
        output.publish(made_result(image, *face_ids), header_at(image), IMAGE)
        image += 1
        time.sleep(0.03)
    return image


def test_standalone_says_all_about_the_faces_of_every_image(spinner: Spinner) -> None:
    node, listener = spinner.node('fer'), Listener(spinner.node('robot'), 'a0000', 'b1111')
    output = HriOutput(node, mode='standalone')
    image = publish_until_heard(output, listener, list(listener.received), 'a0000', 'b1111')
    output.publish(made_result(image, 'a0000', 'b1111'), header_at(image), IMAGE)
    assert wait(lambda: listener.tracks(image) == ['a0000', 'b1111'])
    for name, messages in listener.received.items():
        assert wait(lambda m=messages: number(m[-1]) == image), name  # type: ignore[misc]
        assert messages[-1].header.frame_id == 'camera'
    expression = listener.received['b1111/expression'][-1]
    assert expression.expression == 'happy' and expression.confidence == pytest.approx(0.88)
    estimate = made_result(0, 'x').faces[0].estimate
    assert estimate is not None
    derived = derive_affect(LABELS, estimate.probabilities)
    assert expression.valence == pytest.approx(derived.valence)
    assert expression.arousal == pytest.approx(derived.arousal)
    crop = listener.received['a0000/cropped'][-1]
    assert (crop.width, crop.height, crop.encoding) == (128, 128, 'bgr8')
    assert set(crop.data) == {120}
    landmarks = listener.received['a0000/landmarks'][-1]
    assert len(landmarks.landmarks) == 70 and (landmarks.width, landmarks.height) == SIZE
    # Whoever is asleep gets nothing wrong: without a face the list is there, and empty.
    output.publish(made_result(image + 1), header_at(image + 1), IMAGE)
    assert wait(lambda: listener.tracks(image + 1) == [])
    output.close()


@pytest.mark.parametrize(
    'silent',
    [
        {'state': ExpressionState.UNCERTAIN},
        {'state': ExpressionState.WARMING_UP},
        {'updated': False},
    ],
)
def test_abstaining_is_not_publishing(spinner: Spinner, silent: dict[str, Any]) -> None:
    node, listener = spinner.node('fer'), Listener(spinner.node('robot'), 'a0000')
    output = HriOutput(node, mode='standalone')
    image = publish_until_heard(output, listener, ['a0000/expression', 'a0000/roi'], 'a0000')
    output.publish(made_result(image, 'a0000', **silent), header_at(image), IMAGE)
    output.publish(made_result(image + 1, 'a0000'), header_at(image + 1), IMAGE)
    said = listener.received['a0000/expression']
    assert wait(lambda: number(said[-1]) == image + 1)
    assert image not in [number(message) for message in said]
    assert wait(lambda: image in [number(m) for m in listener.received['a0000/roi']])
    output.close()


def test_topics_of_a_face_outlast_a_short_loss_but_not_a_long_one(spinner: Spinner) -> None:
    node, listener = spinner.node('fer'), Listener(spinner.node('robot'))
    output = HriOutput(node, mode='standalone')
    output.publish(made_result(0, 'a0000', 'b1111'), header_at(0), IMAGE)
    assert wait(lambda: listener.publishers('a0000/roi') == 1)
    assert wait(lambda: listener.publishers('b1111/expression') == 1)
    for image in range(1, 60):  # 59 * 33 ms < 2 s
        output.publish(made_result(image, 'a0000'), header_at(image), IMAGE)
    assert wait(lambda: listener.tracks(59) == ['a0000'])
    assert listener.publishers('b1111/roi') == 1
    output.publish(made_result(70, 'a0000'), header_at(70), IMAGE)
    assert wait(lambda: sum(listener.publishers(f'b1111/{topic}') for topic in KINDS) == 0)
    assert listener.publishers('a0000/roi') == 1
    # Time that goes back forgets nobody who is there, and those who are not.
    output.publish(made_result(-500, 'c2222'), header_at(0), IMAGE)
    assert wait(lambda: listener.publishers('c2222/roi') == 1)
    assert wait(lambda: listener.publishers('a0000/roi') == 0)
    output.close()


def test_too_many_faces_are_left_out_and_counted(spinner: Spinner) -> None:
    node, listener = spinner.node('fer'), Listener(spinner.node('robot'))
    output = HriOutput(node, mode='standalone', max_faces=16)
    ids = [f'f{index:04d}' for index in range(20)]
    assert wait(lambda: node.count_subscribers(TRACKED) == 1)
    output.publish(made_result(0, *ids), header_at(0), IMAGE)
    assert wait(lambda: listener.tracks(0) == ids[:16])
    assert output.counts == {'too many faces': 4}
    # Those that went make room for those that came.
    output.publish(made_result(1, *ids[10:]), header_at(1), IMAGE)
    assert wait(lambda: listener.tracks(1) == ids[10:])
    assert output.counts == {'too many faces': 4}
    output.close()


@pytest.mark.parametrize('ending', ['clear', 'close'])
def test_at_the_end_nobody_is_tracked(spinner: Spinner, ending: str) -> None:
    node, listener = spinner.node('fer'), Listener(spinner.node('robot'))
    output = HriOutput(node, mode='standalone')
    assert wait(lambda: node.count_subscribers(TRACKED) == 1)
    output.publish(made_result(0, 'a0000'), header_at(0), IMAGE)
    assert wait(lambda: listener.publishers('a0000/roi') == 1)
    getattr(output, ending)()
    assert wait(lambda: [list(m.ids) for m in listener.tracked] == [['a0000'], []])
    assert wait(lambda: listener.publishers('a0000/roi') == 0)
    output.publish(made_result(1, 'b1111'), header_at(1), IMAGE)
    if ending == 'clear':
        assert wait(lambda: listener.tracks(1) == ['b1111'])
        output.close()
    assert wait(lambda: listener.publishers('tracked') == 0)
    assert listener.publishers('b1111/roi') == 0
    output.close()  # once more does no harm


def test_faces_come_and_go_while_the_node_spins(
    spinner: Spinner, eager_threads: None
) -> None:
    node = spinner.node('fer')
    ticks: list[None] = []
    node.create_timer(0.001, lambda: ticks.append(None))
    listener = Listener(spinner.node('robot'))
    output = HriOutput(node, mode='standalone')
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for image in range(150):
                ids = [f'g{(image // 3 + index) % 50:04d}' for index in range(4)]
                # A second from one to the next: topics are made and destroyed all the time.
                output.publish(made_result(30 * image, *ids), header_at(image), IMAGE)
        except BaseException as error:  # noqa: BLE001 - the test shows it
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    while worker.is_alive():
        output.clear()
    worker.join()
    assert not errors and spinner.error is None and ticks
    output.close()
    assert len(list(node.publishers)) == len(list(spinner.node('other').publishers))
    assert wait(lambda: listener.publishers('tracked') == 0)


def test_outputs_are_opened_and_closed_while_the_node_spins(
    spinner: Spinner, eager_threads: None
) -> None:
    node = spinner.node('fer')
    node.create_timer(0.0005, lambda: None)  # the executor collects what it waits for anew
    for _ in range(200):
        HriOutput(node, mode='standalone').close()
    assert spinner.error is None


def test_a_second_writer_of_tracked_is_warned_of(spinner: Spinner) -> None:
    node, robot = spinner.node('fer'), spinner.node('robot')
    warnings: list[str] = []
    robot.create_subscription(Log, '/rosout', lambda m: warnings.append(m.msg), 100)
    other = robot.create_publisher(hri_msgs.msg.IdsList, TRACKED, HRI_QOS)
    assert wait(lambda: node.count_publishers(TRACKED) == 1)
    output = HriOutput(node, mode='standalone')
    for image in range(100):
        output.publish(made_result(image), header_at(image), IMAGE)
        if wait(lambda: any('hri_mode:=attached' in text for text in warnings), 0.1):
            break
    assert sum('another node publishes' in text for text in warnings) == 1
    robot.destroy_publisher(other)
    output.close()


def test_attached_says_nothing_but_expressions(spinner: Spinner) -> None:
    node, listener = spinner.node('fer'), Listener(spinner.node('robot'), 'a0000')
    output = HriOutput(node, mode='attached')
    publish_until_heard(output, listener, ['a0000/expression'], 'a0000')
    assert listener.received['a0000/expression'][-1].expression == 'happy'
    topics = [name for name, _ in node.get_publisher_names_and_types_by_node(node.get_name(), '/')]
    assert [name for name in topics if 'humans' in name] == ['/humans/faces/a0000/expression']
    output.close()
    assert listener.tracked == []


def test_closing_after_ros_has_been_shut_down_does_no_harm() -> None:
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node('fer_alone', context=context)
    output = HriOutput(node, mode='standalone')
    output.publish(made_result(0, 'a0000'), header_at(0), IMAGE)
    faces = HriFaces(node, callback=print)
    context.try_shutdown()
    output.clear()
    output.close()
    faces.close()
    node.destroy_node()


@pytest.mark.parametrize('mode', ['off', 'Standalone', ''])
def test_other_modes_are_refused(spinner: Spinner, mode: str) -> None:
    with pytest.raises(ValueError, match='hri_mode must be'):
        HriOutput(spinner.node('fer'), mode=mode)


class Detector:
    """Publishes tracked faces and their landmarks as another package's detector does."""

    def __init__(self, node: Node, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE):
        self.node = node
        self._qos = QoSProfile(depth=1, reliability=reliability)
        self._tracked = node.create_publisher(hri_msgs.msg.IdsList, TRACKED, self._qos)
        self._landmarks: dict[str, Any] = {}

    def track(self, ids: list[str], image: int) -> None:
        self._tracked.publish(tracked_message(ros_message, ids, header_at(image)))

    def send(self, face_id: str, message: Any) -> None:
        if face_id not in self._landmarks:
            self._landmarks[face_id] = self.node.create_publisher(
                hri_msgs.msg.FacialLandmarks, f'/humans/faces/{face_id}/landmarks', self._qos
            )
        self._landmarks[face_id].publish(message)

    def send_until(self, heard: Callable[[], bool], face: Face, image: int) -> None:
        """Send the landmarks of a face again and again: best effort begins when it likes to."""
        for _ in range(300):
            self.send(face.face_id, landmarks_of(face, image))
            if wait(heard, 0.1):
                return
        raise AssertionError('the landmarks were not heard')

    def is_followed(self, *face_ids: str) -> bool:
        """Tell whether exactly these of the faces sent so far are followed."""
        counts = {name: p.get_subscription_count() for name, p in self._landmarks.items()}
        return {name for name, count in counts.items() if count} == set(face_ids)


def landmarks_of(face: Face, image: int) -> Any:
    return facial_landmarks_message(ros_message, face, SIZE, header_at(image))


@pytest.fixture
def attached(spinner: Spinner) -> Iterator[tuple[HriFaces, list[LandmarkFrame], Detector]]:
    node, frames = spinner.node('fer'), []  # type: ignore[var-annotated]
    detector = Detector(spinner.node('detector'))
    faces = HriFaces(node, callback=frames.append, max_faces=4)
    assert wait(lambda: detector.node.count_subscribers(TRACKED) == 1)
    yield faces, frames, detector
    spinner.call(faces.close)


def test_attached_follows_faces_that_come_and_go(
    attached: tuple[HriFaces, list[LandmarkFrame], Detector],
) -> None:
    faces, frames, detector = attached

    def show(image: int, *ids: str) -> None:
        for face_id in ids:
            detector.send(face_id, landmarks_of(made_face(face_id), image))
        detector.track(list(ids), image)

    show(0, 'a0000')
    assert wait(lambda: detector.is_followed('a0000'))
    detector.send_until(lambda: bool(frames), made_face('a0000'), 1)
    assert stamp_ns(frames[0].header) == frames[0].stamp_ns == 10**12 + STEP_NS
    assert frames[0].header.frame_id == 'camera' and frames[0].image_size == SIZE
    assert frames[0].faces['a0000'] == pytest.approx(made_face('a0000').landmarks, abs=1e-3)
    show(2, 'a0000', 'robin')
    assert wait(lambda: detector.is_followed('a0000', 'robin'))
    image = 3
    while set(frames[-1].faces) != {'a0000', 'robin'} and image < 300:
        show(image, 'a0000', 'robin')
        wait(lambda: number(frames[-1]) == image, 0.2)  # noqa: B023 - called at once
        image += 1
    assert set(frames[-1].faces) == frames[-1].tracked_ids == {'a0000', 'robin'}
    show(image, 'robin')
    assert wait(lambda: detector.is_followed('robin'))
    show(image + 1, 'robin')
    assert wait(lambda: set(frames[-1].faces) == frames[-1].tracked_ids == {'robin'})
    detector.track([], image + 2)
    assert wait(lambda: detector.is_followed())
    assert wait(lambda: frames[-1].faces == {} and frames[-1].tracked_ids == frozenset())
    assert set(faces.counts) <= {'late'}


def test_attached_refuses_ids_that_make_no_topic(
    attached: tuple[HriFaces, list[LandmarkFrame], Detector],
) -> None:
    faces, frames, detector = attached
    bad = ['', '23bd5', 'a/b', '../../tracked', 'ä', 'x' * 500, 'a b', '~', 'a__b']
    detector.send('a0000', landmarks_of(made_face('a0000'), 0))
    detector.track([*bad, 'a0000'], 0)
    assert wait(lambda: detector.is_followed('a0000'))
    assert faces.counts == {'face id': len(bad)}
    detector.send_until(lambda: bool(frames), made_face('a0000'), 1)


def test_attached_follows_so_many_faces_and_keeps_to_them(
    attached: tuple[HriFaces, list[LandmarkFrame], Detector],
) -> None:
    faces, _, detector = attached
    ids = [f'h{index:04d}' for index in range(8)]
    for face_id in ids:
        detector.send(face_id, landmarks_of(made_face(face_id), 0))
    detector.track(ids[:6], 0)
    assert wait(lambda: detector.is_followed(*ids[:4]))
    assert faces.counts == {'too many faces': 2}
    detector.track(list(reversed(ids)), 1)
    assert wait(lambda: faces.counts == {'too many faces': 6})
    assert detector.is_followed(*ids[:4])
    detector.track(ids[:6] * 100_000, 2)
    assert wait(lambda: faces.counts['too many faces'] > 500_000)
    assert detector.is_followed(*ids[:4])


def test_attached_counts_bad_messages_and_goes_on(
    attached: tuple[HriFaces, list[LandmarkFrame], Detector],
) -> None:
    faces, frames, detector = attached
    face = made_face('a0000')
    detector.send('a0000', landmarks_of(face, 0))
    detector.track(['a0000'], 0)
    assert wait(lambda: detector.is_followed('a0000'))

    def spoiled(image: int, **changes: Any) -> Any:
        message = landmarks_of(face, image)
        for name, value in changes.items():
            if name in ('width', 'height'):
                setattr(message, name, value)
            else:
                setattr(message.landmarks[40], name, value)
        return message

    detector.send_until(lambda: bool(frames), face, 1)
    frames.clear()
    faces.counts.clear()
    bad = [
        spoiled(2, width=0),
        spoiled(3, height=0),
        spoiled(4, x=float('nan')),
        spoiled(5, y=float('inf')),
        spoiled(6, c=0.0),
        spoiled(7, x=300.0),
    ]
    for count, message in enumerate(bad, start=1):
        detector.send('a0000', message)
        assert wait(lambda count=count: sum(faces.counts.values()) == count)  # type: ignore[misc]
    assert faces.counts == {'image size': 2, 'coordinates': 3, 'unknown landmarks': 1}
    assert not frames
    said = faces.describe_publishers()
    assert f'/{detector.node.get_name()} publishes it; faces followed: 1' in said
    assert '1 for unknown landmarks' in said and '3 for coordinates' in said
    detector.send('a0000', landmarks_of(face, 8))
    assert wait(lambda: [frame.stamp_ns for frame in frames] == [10**12 + 8 * STEP_NS])


def test_attached_says_that_nobody_is_there(spinner: Spinner) -> None:
    faces = HriFaces(spinner.node('fer'), callback=print)
    assert faces.topic == TRACKED
    assert faces.describe_publishers() == 'nobody publishes it; faces followed: 0'
    spinner.call(faces.close)


def test_attached_hears_detectors_of_any_reliability(spinner: Spinner) -> None:
    node, frames = spinner.node('fer'), []  # type: ignore[var-annotated]
    detector = Detector(spinner.node('detector'), ReliabilityPolicy.BEST_EFFORT)
    faces = HriFaces(node, callback=frames.append)
    face = made_face('a0000')
    for image in range(300):
        detector.send('a0000', landmarks_of(face, image))
        detector.track(['a0000'], image)
        if wait(lambda: bool(frames), 0.05):
            break
    assert frames
    spinner.call(faces.close)


def test_attached_times_what_has_no_stamp_by_the_clock(
    attached: tuple[HriFaces, list[LandmarkFrame], Detector],
) -> None:
    faces, frames, detector = attached
    message = landmarks_of(made_face('a0000'), 0)
    message.header = header_message(ros_message, stamp_ns=0, frame_id='camera')
    detector.send('a0000', message)
    detector.track(['a0000'], 0)
    assert wait(lambda: detector.is_followed('a0000'))
    detector.send_until(lambda: bool(frames), made_face('a0000'), 0)
    frames.clear()
    for count in range(1, 4):
        detector.send('a0000', message)
        assert wait(lambda count=count: len(frames) == count)  # type: ignore[misc]
    stamps = [frame.stamp_ns for frame in frames]
    assert stamps == sorted(set(stamps)) and abs(stamps[-1] - time.time_ns()) < 60 * 10**9
    assert all(stamp_ns(frame.header) == 0 for frame in frames)


def test_attached_reads_what_standalone_reads(
    spinner: Spinner, sample_clip: Path, landmark_model_path: Path
) -> None:
    config = {'mc_samples': 5, 'seed': 1, 'device': 'cpu'}
    own = Pipeline(
        PipelineConfig(landmark_model=landmark_model_path, deterministic_ids=True, **config)  # type: ignore[arg-type]
    )
    foreign = Pipeline(PipelineConfig(finds_faces=False, **config))  # type: ignore[arg-type]
    node, frames = spinner.node('fer'), []  # type: ignore[var-annotated]
    detector = Detector(spinner.node('detector'))
    listener = Listener(spinner.node('robot'), 'a0000', topics=('expression',))
    faces = HriFaces(node, callback=frames.append)
    output = HriOutput(node, mode='attached')
    # All is connected before the first image, so that none is missed.
    face = made_face('a0000')
    detector.send('a0000', landmarks_of(face, -31))
    detector.track(['a0000'], -31)
    assert wait(lambda: detector.is_followed('a0000'))
    detector.send_until(lambda: bool(frames), face, -30)
    publish_until_heard(output, listener, ['a0000/expression'], 'a0000')
    wait(lambda: False, 0.2)
    said = listener.received['a0000/expression']
    frames.clear()
    said.clear()
    words: list[str] = []
    with open_source(str(sample_clip)) as source:
        for image, frame in enumerate(source):
            if image == 45:
                break
            result = own.process(frame.image, frame.stamp_ns)
            size = result.image_size
            message = facial_landmarks_message(
                ros_message, result.faces[0].face, size, header_at(image)
            )
            detector.send('a0000', message)
            assert wait(lambda image=image: len(frames) == image + 1)  # type: ignore[misc]
            given = frames[-1]
            again = foreign.read(
                given.faces,
                frame.stamp_ns,
                image_size=given.image_size,
                tracked_ids=given.tracked_ids,
            )
            output.publish(again, given.header, None)
            here, there = result.faces[0].estimate, again.faces[0].estimate
            assert here is not None and there is not None and again.image_size == size
            assert there.probabilities == pytest.approx(here.probabilities, abs=2e-3)
            if there.state == ExpressionState.CONFIDENT:
                words.append(there.expression)
    assert set(words) == {'neutral', 'happiness'}
    assert wait(lambda: len(said) == len(words))
    assert {message.expression for message in said} == {'neutral', 'happy'}
    own.close()
    output.close()
    spinner.call(faces.close)
