# SPDX-License-Identifier: Apache-2.0
"""fer_evaluate --live over real ROS traffic: against the real node, and against made-up ones."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings_made import CLASSES, START_NS, showing, write_bag

rclpy = pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')

from builtin_interfaces.msg import Time  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from fer_msgs.msg import Expression, ExpressionArray  # noqa: E402
from fer_perception.evaluate import main  # noqa: E402
from fer_perception.evaluation import live  # noqa: E402
from fer_perception.evaluation.live import FIRST_STAMP_NS, _latest_ms, _playable  # noqa: E402
from fer_perception.images import compressed_to_bgr, to_bgr  # noqa: E402
from fer_perception.messages import stamp_ns  # noqa: E402
from fer_perception.sources import SourceError, SourceFrame, open_source  # noqa: E402

LIMIT_S = 60.0
HEADER = 'start_s,end_s,label,face\n'
PERIOD_NS = 40_000_000
NODE = [sys.executable, '-m', 'fer_perception.node']
COMMAND = [sys.executable, '-m', 'fer_perception.evaluate']


class MadeUpNode:
    """Answers images as it is told: `answer` makes the faces of each, None for no answer."""

    def __init__(
        self, answer: Callable[[int], list[Expression] | None], *, kind: type = Image,
        name: str = 'made_up', image_topic: str = '/eye', output: str = '/fer/expressions',
    ) -> None:
        self.images: list[Any] = []
        self.resets = 0
        self._answer = answer
        self._context = rclpy.Context()
        self._context.init(args=[])
        self._node = rclpy.create_node(name, context=self._context)
        self._node.create_subscription(kind, image_topic, self._on_image, 100)
        self.output = self._node.create_publisher(ExpressionArray, output, 10)
        self._node.create_service(Trigger, f'{name}/reset', self._on_reset)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _on_image(self, message: Any) -> None:
        self.images.append(message)
        faces = self._answer(len(self.images) - 1)
        if faces is not None:
            for face in faces:
                face.header = message.header
            self.output.publish(ExpressionArray(header=message.header, faces=faces))

    def _on_reset(self, _: Any, response: Any) -> Any:
        self.resets += 1
        response.success = True
        return response

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def made_up() -> Iterator[Callable[..., MadeUpNode]]:
    started: list[MadeUpNode] = []

    def start(*arguments: Any, **options: Any) -> MadeUpNode:
        started.append(MadeUpNode(*arguments, **options))
        return started[-1]

    yield start
    for node in started:
        node.close()


def face(label: str = 'neutral', *, state: int = Expression.STATE_CONFIDENT) -> Expression:
    probabilities = showing(label)
    return Expression(
        face_id='xk3f9', state=state, expression=label, confidence=max(probabilities),
        labels=list(CLASSES), probabilities=probabilities, standard_deviations=[0.01] * 3,
        mc_samples=10, window_s=1.0,
    )


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 20 small images at 25 Hz, each of another grey, with labels inside."""
    path = tmp_path_factory.mktemp('bags') / 'greys'
    frames = [
        SourceFrame(np.full((48, 64, 3), 10 * index, np.uint8), index * PERIOD_NS)
        for index in range(20)
    ]
    write_bag(path, frames)
    (path / 'labels.csv').write_text(f'{HEADER}0,0.4,neutral,\n0.4,0.8,happiness,\n')
    return path


def played(bag: Path, out: Path, *options: str, code: int = 0) -> dict[str, Any]:
    arguments = [str(bag), '--live', '--image-topic', '/eye', '--out', str(out), '--wait', '20']
    assert main([*arguments, *options]) == code
    content: dict[str, Any] = json.loads((out / 'evaluation.json').read_text('utf-8'))
    return content


def test_the_real_node_is_scored(
    sample_clip: Path, landmark_model_path: Path, tmp_path: Path
) -> None:
    with open_source(str(sample_clip)) as source:
        write_bag(tmp_path / 'bag', list(source))
    labels = f'{HEADER}0,0.56,neutral,\n0.6,2.35,happiness,\n'
    (tmp_path / 'bag' / 'labels.csv').write_text(labels)
    node = subprocess.Popen(
        [*NODE, '--ros-args', '-r', 'image:=/eye', '-p', 'mc_samples:=20',
         '-p', 'image_reliability:=reliable', '-p', f'landmark_model:={landmark_model_path}'],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        contents = [
            played(tmp_path / 'bag', tmp_path / 'out', '--wait', str(LIMIT_S)) for _ in range(2)
        ]
    finally:
        node.send_signal(signal.SIGINT)
        assert node.wait(LIMIT_S) == 0
    for content in contents:  # the second time the clock goes back, and the node follows
        metrics, counts = content['metrics'], content['scores']['live']
        assert content['mode'] == 'live' and counts['sent'] == 72
        assert counts['answered'] + counts['dropped'] == 72 and counts['answered'] > 36
        assert 0 < metrics['latency_p50_ms'] <= metrics['latency_p99_ms']
        assert metrics['accuracy'] > 0.8 and metrics['missed_segments'] == 0
        assert content['recordings'][0]['most_samples'] == 20


def test_what_was_not_answered_is_dropped(
    bag: Path, tmp_path: Path, made_up: Callable[..., MadeUpNode]
) -> None:
    made_up(lambda index: [face('neutral' if index < 10 else 'happiness')] if index % 4 else None)
    content = played(bag, tmp_path)
    counts = content['scores']['live']
    assert (counts['sent'], counts['answered'], counts['dropped']) == (20, 15, 5)
    assert content['metrics']['drop_rate'] == 0.25
    assert content['metrics']['accuracy'] == 1.0
    # Images without an answer are not images without a face.
    assert content['metrics']['face_coverage'] == 1.0
    # The first image was not answered, the first one of happiness was.
    assert content['scores']['detection']['longest_s'] == pytest.approx(0.04)
    assert content['scores']['detection']['median_s'] == pytest.approx(0.02)


def test_the_node_sees_the_images_and_headers_of_the_bag(
    bag: Path, tmp_path: Path, made_up: Callable[..., MadeUpNode]
) -> None:
    node = made_up(lambda _: [])
    played(bag, tmp_path)
    assert [stamp_ns(message.header) for message in node.images] == [
        START_NS + index * PERIOD_NS for index in range(20)
    ]
    assert {message.header.frame_id for message in node.images} == {'eye'}
    assert [int(to_bgr(message)[0, 0, 0]) for message in node.images] == list(range(0, 200, 10))
    assert node.resets == 1


def test_compressed_images_are_sent_where_compressed_ones_are_read(
    bag: Path, tmp_path: Path, made_up: Callable[..., MadeUpNode]
) -> None:
    node = made_up(lambda _: [face()], kind=CompressedImage, image_topic='/eye/compressed')
    content = played(bag, tmp_path, '--compressed')
    assert abs(int(compressed_to_bgr(node.images[5])[0, 0, 0]) - 50) < 3
    assert content['metrics']['drop_rate'] == 0.0


def test_a_folder_is_played_one_after_the_other(
    bag: Path, tmp_path: Path, made_up: Callable[..., MadeUpNode]
) -> None:
    node = made_up(lambda _: [face()])
    folder = tmp_path / 'bags'
    folder.mkdir()
    for name in 'ab':
        os.symlink(bag, folder / name)
    (folder / 'broken.mcap').write_bytes(b'')
    content = played(folder, tmp_path / 'out', code=1)
    assert [item['name'] for item in content['recordings']] == ['a', 'b']
    assert [item['name'] for item in content['failures']] == ['broken.mcap']
    assert content['scores']['live']['sent'] == 40 and node.resets == 2


def test_answers_that_are_none_are_counted_and_lose_nothing(
    bag: Path, tmp_path: Path, made_up: Callable[..., MadeUpNode]
) -> None:
    def answer(index: int) -> list[Expression]:
        if index == 5:
            return [face(state=77)]
        if index == 6:
            return [Expression(face_id='b', state=2, labels=['x'], probabilities=[0.5])]
        return [face()] * {7: 2, 8: 257}.get(index, 1)  # one face twice, and far too many

    made_up(answer)
    counts = played(bag, tmp_path)['scores']['live']
    assert (counts['answered'], counts['malformed'], counts['dropped']) == (16, 4, 4)


def test_thresholds_of_latency_apply(
    bag: Path, tmp_path: Path, made_up: Callable[..., MadeUpNode]
) -> None:
    made_up(lambda _: [face()])
    thresholds = tmp_path / 't.json'
    thresholds.write_text('{"latency_p50_ms": {"min": 0}, "drop_rate": {"max": 0}}')
    assert played(bag, tmp_path, '--thresholds', str(thresholds))['thresholds'][1]['is_passed']
    thresholds.write_text('{"latency_p99_ms": {"max": 0}}')
    played(bag, tmp_path, '--thresholds', str(thresholds), code=3)


def test_without_a_node_one_line_says_so(
    bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(bag), '--live', '--wait', '0.3', '--namespace', 'robot/head/']) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert '/image_raw' in error and '/robot/head/expressions within 0.3 s' in error


@pytest.mark.parametrize(
    ('options', 'message'),
    [(['--image-topic', 'no topic'], 'no topic'), (['--namespace', '7/8'], '7/8')],
)
def test_what_is_no_topic_is_refused_in_one_line(
    options: list[str], message: str, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(bag), '--live', '--wait', '0.3', *options]) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and message in error


def test_a_node_that_answers_nothing_is_named(
    bag: Path, made_up: Callable[..., MadeUpNode], capsys: pytest.CaptureFixture[str]
) -> None:
    made_up(lambda _: None)
    assert main([str(bag), '--live', '--image-topic', '/eye', '--wait', '20']) == 1
    assert 'none of the 20 images was answered' in capsys.readouterr().err


def test_a_second_node_or_camera_is_refused(
    bag: Path, made_up: Callable[..., MadeUpNode], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, 'MATCH_S', 5.0)  # until DDS has surely discovered everybody
    node = made_up(lambda _: [face()])
    arguments = [str(bag), '--live', '--image-topic', '/eye', '--wait', '20']
    camera = node._node.create_publisher(Image, '/eye', 10)
    assert main(arguments) == 1
    assert 'somebody else publishes /eye' in capsys.readouterr().err
    node._node.destroy_publisher(camera)
    made_up(lambda _: [face()], name='other')
    assert main(arguments) == 1
    assert 'several nodes publish /fer/expressions' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        (lambda stamp: stamp, 'an image was answered twice: several nodes'),
        (lambda stamp: Time(sec=stamp.sec + 9), '1 answers are to images that were not played'),
    ],
)
def test_answers_to_no_image_of_the_bag_are_refused(
    extra: Callable[[Any], Any], message: str, bag: Path, made_up: Callable[..., MadeUpNode],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(index: int) -> list[Expression]:
        if index == 9:
            header = Header(stamp=extra(node.images[-1].header.stamp))
            node.output.publish(ExpressionArray(header=header))
        return [face()]

    node = made_up(answer)
    assert main([str(bag), '--live', '--image-topic', '/eye', '--wait', '20']) == 1
    assert message in capsys.readouterr().err


def test_ctrl_c_ends_with_130(bag: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(bag), '--live', '--wait', '600', '--out', str(tmp_path / 'out')],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )
    try:
        while not (tmp_path / 'out').exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130 and 'Traceback' not in output


def frames_at(*stamps_ns: int) -> list[SourceFrame]:
    return [SourceFrame(np.zeros((1, 1, 3), np.uint8), stamp) for stamp in stamps_ns]


def test_only_what_can_be_played_is_played() -> None:
    def stamps(*stamps_ns: int) -> list[int]:
        return [frame.stamp_ns for frame in _playable(frames_at(*stamps_ns))]

    second = 1_000_000_000
    assert stamps(START_NS, START_NS + 5, START_NS - second) == [
        START_NS, START_NS + 5, START_NS - second
    ]
    assert stamps(0, second) == [FIRST_STAMP_NS, FIRST_STAMP_NS + second]
    for bad in ((-5,), (2**31 * second,), (5, 0)):
        with pytest.raises(SourceError, match='cannot be played'):
            stamps(*bad)
    with pytest.raises(SourceError, match='gaps of more than 60 s'):
        stamps(START_NS, START_NS + 61 * second)


def test_lateness_is_that_of_the_worst_image() -> None:
    sent = [(0, 100), (1_000_000, 1_000_100), (2_000_000, 5_000_100), (0, 9_000_000)]
    assert _latest_ms(sent) == 3.0
    assert _latest_ms([]) == 0.0
