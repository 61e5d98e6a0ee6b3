# SPDX-License-Identifier: Apache-2.0
"""fer_replay reads every kind of source, writes what it is asked for and nothing else."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from fer_perception.records import ExpressionRecord
from fer_perception.replay import main
from fer_perception.sources import open_source


@pytest.fixture(scope='module', autouse=True)
def few_samples(landmark_model_path: Path) -> Path:
    return landmark_model_path  # without the model these tests skip


def replayed(source: Path, out: Path, *options: str) -> list[ExpressionRecord]:
    arguments = [str(source), '--out', str(out), '--mc-samples', '5', *options]
    assert main(arguments) == 0
    return [ExpressionRecord.from_json(line) for line in out.read_text('utf-8').splitlines()]


@pytest.fixture(scope='module')
def short_folder(sample_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('frames')
    with open_source(str(sample_clip)) as source:
        for index, frame in zip(range(12), source, strict=False):
            cv2.imwrite(str(folder / f'frame{index}.png'), frame.image)
    return folder


def without_latency(records: list[ExpressionRecord]) -> list[dict[str, object]]:
    return [{**vars(record), 'latency_ms': 0.0} for record in records]


def test_a_folder_gives_the_clips_first_records(
    short_folder: Path, sample_clip: Path, tmp_path: Path
) -> None:
    folder = replayed(short_folder, tmp_path / 'folder.jsonl')
    clip = replayed(sample_clip, tmp_path / 'clip.jsonl')
    assert len(folder) == 12 and len(clip) == 72
    for here, there in zip(folder, clip, strict=False):
        assert here.probabilities == pytest.approx(there.probabilities, abs=1e-3)


def test_the_same_source_gives_the_same_lines(short_folder: Path, tmp_path: Path) -> None:
    first = replayed(short_folder, tmp_path / 'first.jsonl')
    second = replayed(short_folder, tmp_path / 'second.jsonl')
    assert without_latency(first) == without_latency(second)


def test_record_writes_a_bag_with_images_and_results(short_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip('fer_msgs', reason='recording needs fer_msgs to be built and sourced')
    records = replayed(short_folder, tmp_path / 'a.jsonl', '--record', str(tmp_path / 'bag'))
    with AnyReader([tmp_path / 'bag']) as reader:  # types come out of the bag itself
        counts = {c.topic: c.msgcount for c in reader.connections}
        assert counts == {
            '/image_raw': 12,
            '/fer/expression': 12,
            '/fer/expressions': 12,
            '/fer/landmarks': 12,
        }
        for connection, time_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            stamp = message.header.stamp  # type: ignore[attr-defined]
            assert stamp.sec * 1_000_000_000 + stamp.nanosec == time_ns
            if connection.topic == '/fer/expression':
                record = next(r for r in records if r.stamp_ns == time_ns)
                assert message.expression == record.expression  # type: ignore[attr-defined]
                assert message.probabilities.tolist() == pytest.approx(  # type: ignore[attr-defined]
                    record.probabilities, abs=1e-6
                )
    # And the bag is a source again, with the same answers.
    again = replayed(tmp_path / 'bag', tmp_path / 'b.jsonl')
    for here, there in zip(records, again, strict=True):
        assert here.probabilities == there.probabilities and here.stamp_ns == there.stamp_ns


def test_a_sqlite3_bag_is_replayed_too(short_folder: Path, tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        kind = 'sensor_msgs/msg/CompressedImage'
        connection = writer.add_connection('/camera/compressed', kind, typestore=store)
        with open_source(str(short_folder)) as source:
            for frame in source:
                stamp = types['builtin_interfaces/msg/Time'](
                    sec=100, nanosec=frame.stamp_ns
                )
                message = types[kind](
                    header=types['std_msgs/msg/Header'](stamp=stamp, frame_id='eye'),
                    format='png',
                    data=cv2.imencode('.png', frame.image)[1].reshape(-1),
                )
                data = store.serialize_cdr(message, kind)
                writer.write(connection, 7 + frame.stamp_ns, data)
    records = replayed(tmp_path / 'bag', tmp_path / 'out.jsonl')
    assert len(records) == 12
    assert {record.frame_id for record in records} == {'eye'}
    assert records[0].stamp_ns == 100_000_000_000


def test_annotated_video_and_timeline(short_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip('matplotlib', reason='the timeline needs the extra [plots]')
    video, timeline = tmp_path / 'a.mp4', tmp_path / 'a.png'
    replayed(
        short_folder, tmp_path / 'a.jsonl', '--annotated', str(video), '--timeline', str(timeline)
    )
    with open_source(str(video)) as source:
        assert sum(1 for _ in source) == 12
    assert cv2.imread(str(timeline)) is not None


def test_nothing_is_written_that_was_not_asked_for(
    short_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(short_folder), '--mc-samples', '2']) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert list(tmp_path.iterdir()) == []


def test_no_face_gives_no_line_and_says_so(
    no_face_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replayed(no_face_clip, tmp_path / 'none.jsonl') == []
    assert 'no face' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.mp4'], 'nowhere.mp4'),
        (['.', '--model', 'nothing.safetensors'], 'nothing.safetensors'),
        (['.', '--landmark-model', 'nothing.dat'], 'nothing.dat'),
        (['.', '--mc-samples', '-1'], 'samples'),
    ],
)
def test_bad_input_ends_with_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_an_existing_bag_is_not_overwritten(
    short_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('fer_msgs', reason='recording needs fer_msgs to be built and sourced')
    (tmp_path / 'bag').mkdir()
    out = str(tmp_path / 'a.jsonl')
    assert main([str(short_folder), '--out', out, '--record', str(tmp_path / 'bag')]) == 1
    assert 'exists' in capsys.readouterr().err


def test_recording_without_fer_msgs_says_what_to_do(
    short_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    bag = tmp_path / 'bag'
    assert main([str(short_folder), '--record', str(bag)]) == 1
    assert 'source' in capsys.readouterr().err
    shutil.rmtree(bag, ignore_errors=True)


@pytest.mark.parametrize(
    ('option', 'name'),
    [('--record', 'bag'), ('--annotated', 'a.mp4'), ('--out', 'o.jsonl'), ('--timeline', 't.png')],
)
def test_a_full_disk_ends_it_with_one_line(
    sample_clip: Path, landmark_model_path: Path, tmp_path: Path, option: str, name: str
) -> None:
    """A file may have 10,000 bytes: to write more fails as on a full disk."""
    if option == '--record':
        pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')
    if option == '--timeline':
        pytest.importorskip('matplotlib', reason='the timeline needs the extra [plots]')
    ended = subprocess.run(
        [
            *(sys.executable, '-m', 'fer_perception.replay', str(sample_clip)),
            *('--mc-samples', '5', option, str(tmp_path / name)),
            *([] if option == '--out' else ['--out', '/dev/null']),
        ],
        env={**os.environ, 'FER_LANDMARK_MODEL': str(landmark_model_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith('fer_replay:')]
    assert len(lines) == 1 and 'Traceback' not in ended.stderr
    assert 'incomplete' in lines[0] or 'is the disk full?' in lines[0]
