# SPDX-License-Identifier: Apache-2.0
"""Every score of the report is what a slow, direct computation finds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from predictions_made import CLASSES, people
from scipy.special import softmax
from sklearn.metrics import f1_score, roc_auc_score

from fer_perception.evaluation.figures import plot_subjects
from fer_training.dataset import IGNORED
from fer_training.frame_calibration import FrameCalibration, cross_fit
from fer_training.frame_predictions import (
    FramePredictions,
    join_frames,
    read_frame_predictions,
    write_frame_predictions,
)
from fer_training.results import ResultFileError
from fer_training.streaming_comparison import compare_streaming
from fer_training.streaming_report import write_streaming_report
from fer_training.streaming_requirements import lines_of
from fer_training.streaming_scores import StreamingScores, measure_streaming


def measured() -> tuple[FramePredictions, dict[str, FrameCalibration], StreamingScores]:
    frames = join_frames(people())
    calibrations = cross_fit(frames, classes=CLASSES)
    scores = measure_streaming(frames, calibrations, classes=CLASSES, frame_rate=30.0)
    return frames, calibrations, scores


def test_scores_are_those_of_a_slow_direct_computation() -> None:
    frames, calibrations, scores = measured()
    right, confident, labels, answers, entropies, nats = [], [], [], [], [], []
    one_pass_right = []
    everything: list[list[float]] = []  # nats of samples and one pass, at temperature 1 and own
    alarms = {'talkers': [0, 0]}
    by_subject: dict[str, list[bool]] = {}
    for index in range(len(frames)):
        track = frames.track[index]
        subject = frames.tracks.subjects[track]
        own = calibrations[subject]
        if not frames.is_warm[index] or frames.targets[index] == IGNORED:
            continue
        mean = np.mean(
            [softmax(sample / own.temperature) for sample in frames.monte_carlo[:, index]], axis=0
        )
        answer, target = int(mean.argmax()), int(frames.targets[index])
        is_confident = bool(mean.max() >= own.abstention_threshold)
        one_pass_right.append(frames.single_pass[index].argmax() == target)
        everything.append([
            -np.log(softmax(frames.monte_carlo[:, index], axis=-1)[:, target].mean()),
            -np.log(softmax(frames.single_pass[index])[target]),
            -np.log(mean[target]),
            -np.log(softmax(frames.single_pass[index] / own.single_pass_temperature)[target]),
        ])
        if frames.tracks.sources[track] == 'talkers':
            alarms['talkers'][0] += is_confident and answer != 0
            alarms['talkers'][1] += 1
            continue
        right.append(answer == target)
        confident.append(is_confident)
        labels.append(target)
        answers.append(answer)
        entropies.append(-(mean * np.log(mean)).sum())
        nats.append(-np.log(mean[target]))
        by_subject.setdefault(subject, []).append(answer == target)
    of_right, of_confident = np.array(right), np.array(confident)
    assert scores.frames.count == len(right)
    assert scores.frames.accuracy == pytest.approx(of_right.mean())
    assert scores.frames.macro_f1 == pytest.approx(f1_score(labels, answers, average='macro'))
    assert scores.selective_frames.coverage == pytest.approx(of_confident.mean())
    assert scores.selective_frames.risk == pytest.approx((~of_right[of_confident]).mean())
    assert scores.frames.error_detection_auroc.predictive_entropy == pytest.approx(
        roc_auc_score(~of_right, entropies)
    )
    assert scores.likelihoods.calibrated_monte_carlo == pytest.approx(np.mean(nats), rel=1e-5)
    of_everything = scores.likelihoods_of_everything
    assert [
        of_everything.monte_carlo, of_everything.single_pass,
        of_everything.calibrated_monte_carlo, of_everything.calibrated_single_pass,
    ] == pytest.approx(np.mean(everything, 0).tolist(), rel=1e-5)
    assert scores.everything.count == len(everything) > len(nats)
    assert scores.everything_single_pass.accuracy == pytest.approx(np.mean(one_pass_right))
    talkers = next(item for item in scores.false_alarms if item.kind == 'all')
    assert talkers.wrong == pytest.approx(alarms['talkers'][0] / alarms['talkers'][1])
    assert talkers.seconds == pytest.approx(alarms['talkers'][1] / 30.0)
    assert sum(talkers.classes.values()) == pytest.approx(talkers.wrong)
    for item in scores.subjects:
        if item.subject in by_subject:
            assert item.accuracy == pytest.approx(np.mean(by_subject[item.subject]))
        else:
            assert item.accuracy is None and item.false_alarms is not None


def test_clips_are_mean_probabilities_of_the_frames_that_show_the_expression() -> None:
    frames, calibrations, scores = measured()
    right = []
    for track in range(6):
        own = frames.track == track
        label = frames.tracks.labels[track]
        chosen = own & frames.is_warm & (frames.targets == label)
        temperature = calibrations[frames.tracks.subjects[track]].temperature
        mean = softmax(frames.monte_carlo[:, chosen] / temperature, axis=-1).mean((0, 1))
        right.append(mean.argmax() == label)
    assert scores.clips.count == 6
    assert scores.clips.accuracy == pytest.approx(np.mean(right))


def test_the_report_and_its_pictures_are_written(tmp_path: Path) -> None:
    _, _, scores = measured()
    written = write_streaming_report(tmp_path, scores, title='made people', command='fer_train x')
    assert all(path.stat().st_size > 0 for path in written)
    content = json.loads((tmp_path / 'report.json').read_text())
    assert content['scores']['frames']['accuracy'] == scores.frames.accuracy
    assert len(content['lines']) == len(lines_of(scores))
    text = (tmp_path / 'report.md').read_text()
    for needed in ('# made people\n', 'recall of sadness, clips', 'talkers', 'gestures:a',
                   '(false_alarms.png)', '## What confidences are worth'):
        assert needed in text
    table = compare_streaming([('one', scores), ('one', scores), ('two', scores)])
    assert '± 0.000' in table and '| two |' in table and 'false alarms, talkers' in table
    with pytest.raises(ValueError, match='no runs'):
        compare_streaming([])


def test_of_many_people_those_read_worst_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}

    def plot(axes: Axes, **options: Any) -> None:
        drawn.update(options)
        plot_subjects(axes, **options)

    monkeypatch.setattr('fer_training.streaming_report.plot_subjects', plot)
    _, _, scores = measured()
    known = next(item for item in scores.subjects if item.selective is not None)
    many = tuple(
        replace(known, subject=f'people:{number}', accuracy=(number * 37 % 100) / 100)
        for number in range(100)
    )
    write_streaming_report(
        tmp_path, replace(scores, subjects=many), title='many people', command='fer_train x'
    )
    assert drawn['accuracy'] == [number / 100 for number in range(40)]
    assert drawn['title'] == 'The 40 of 100 people read worst'
    text = (tmp_path / 'report.md').read_text()
    assert text.startswith('# many people\n')
    assert all(f'| {item.subject} |' in text for item in many)  # the table has them all


def test_a_line_says_whether_it_is_reached() -> None:
    _, _, scores = measured()
    reached = {line.what: line.is_reached for line in lines_of(scores)}
    accuracy = {item.label: item.recall for item in scores.frames.per_class}
    for name, recall in accuracy.items():
        assert recall is not None
        assert reached[f'recall of {name}, frames'] == (recall >= 0.9)
    assert reached['errors found by mutual information, AUROC'] is None
    nats = scores.likelihoods_of_everything
    assert reached['NLL, samples, calibrated, all frames'] == (
        nats.calibrated_monte_carlo <= nats.calibrated_single_pass
    )


def test_without_other_material_all_frames_have_no_lines_of_their_own() -> None:
    frames, calibrations, _ = measured()
    shown = frames.subset(frames.tracks.show_expression(CLASSES)[frames.track])
    scores = measure_streaming(shown, calibrations, classes=CLASSES, frame_rate=30.0)
    assert scores.likelihoods == scores.likelihoods_of_everything
    assert not any('all frames' in line.what for line in lines_of(scores))


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    frames = join_frames(people())
    path = tmp_path / 'frames.npz'
    write_frame_predictions(path, frames)
    again = read_frame_predictions(path)
    assert again.tracks == frames.tracks
    for name in ('track', 'frame', 'targets', 'is_warm', 'single_pass'):
        np.testing.assert_array_equal(getattr(again, name), getattr(frames, name))
    np.testing.assert_allclose(again.monte_carlo, frames.monte_carlo, rtol=1e-3, atol=1e-6)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ResultFileError, match='holds no predictions'):
        read_frame_predictions(path)


def test_what_cannot_be_scored_is_refused() -> None:
    frames = join_frames(people())
    calibrations = cross_fit(frames, classes=CLASSES)
    with pytest.raises(ValueError, match='no frame of a track that shows'):
        measure_streaming(
            replace(frames, is_warm=np.zeros(len(frames), bool)), calibrations, classes=CLASSES,
            frame_rate=30.0,
        )
    with pytest.raises(ValueError, match='do not belong together'):
        replace(frames, monte_carlo=frames.monte_carlo[..., :2])
