# SPDX-License-Identifier: Apache-2.0
"""Pictures are written, show the numbers they stand for, and leave no global state."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from faces_made import face_landmarks

from fer_perception.evaluation.metrics import (
    RecognitionMetrics,
    SelectiveScores,
    measure_recognition,
)

pytest.importorskip('matplotlib', reason='the pictures need matplotlib')

from fer_perception.evaluation.figures import (  # noqa: E402
    draw_metrics,
    draw_sequence,
    new_figure,
    plot_accuracies,
    plot_class_distributions,
    plot_confusion,
    plot_face,
    plot_false_alarms,
    plot_reliability,
    plot_risk_coverage,
    plot_runs,
    plot_sample_accuracies,
    plot_subjects,
    save_figure,
)

CLASSES = ('neutral', 'happiness', 'sadness')


def measured(*, seed: int = 1, answers: int = 40) -> tuple[RecognitionMetrics, RecognitionMetrics]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, answers)
    weights = 1.0 + 4.0 * np.eye(3)[labels]  # (M, 3)
    drawn = random.gamma(np.broadcast_to(weights, (20, answers, 3)))
    samples = drawn / drawn.sum(-1, keepdims=True)
    return (
        measure_recognition(samples.mean(0), labels, classes=CLASSES, samples=samples),
        measure_recognition(samples[0], labels, classes=CLASSES),
    )


def is_picture(path: Path) -> bool:
    image = cv2.imread(str(path))
    return image is not None and min(image.shape[:2]) > 200 and float(image.std()) > 5


def test_all_pictures_of_an_evaluation_are_written_twice_the_same(tmp_path: Path) -> None:
    monte_carlo, single_pass = measured()
    first = draw_metrics(tmp_path / 'a', monte_carlo=monte_carlo, single_pass=single_pass)
    again = draw_metrics(tmp_path / 'b', monte_carlo=monte_carlo, single_pass=single_pass)
    assert {path.name for path in first} == {
        'reliability.png', 'risk_coverage.png', 'confusion_matrix.png', 'sample_accuracies.png'
    }
    for path, other in zip(first, again, strict=True):
        assert is_picture(path)
        assert path.read_bytes() == other.read_bytes()


def test_the_global_state_of_matplotlib_is_not_used() -> None:
    assert 'matplotlib.pyplot' not in vars(sys.modules['fer_perception.evaluation.figures'])
    figure = new_figure(width=3, height=3)
    assert type(figure.canvas).__name__ == 'FigureCanvasAgg'


def test_reliability_shows_the_accuracy_of_every_filled_bin() -> None:
    metrics, _ = measured()
    axes = new_figure(width=4, height=4).axes[0]
    plot_reliability(axes, metrics.reliability, error=metrics.expected_calibration_error)
    drawn = next(item for item in axes.collections if item.get_label() == 'accuracy of the bin')
    heights = [segment[0, 1] for segment in drawn.get_segments()]  # type: ignore[attr-defined]
    assert heights == [item.accuracy for item in metrics.reliability if item.count]
    assert any(f'{metrics.expected_calibration_error:.3f}' in t.get_text() for t in axes.texts)


def test_the_confusion_matrix_shows_its_counts() -> None:
    metrics, _ = measured()
    axes = new_figure(width=4, height=4).axes[0]
    plot_confusion(axes, metrics)
    shown = {
        (round(text.get_position()[1]), round(text.get_position()[0])): int(text.get_text())
        for text in axes.texts
    }
    counts = np.array(metrics.confusion_matrix)
    assert shown == {(row, column): counts[row, column] for row, column in np.argwhere(counts)}
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASSES)


def test_the_ensembles_line_stands_at_its_accuracy() -> None:
    metrics, single_pass = measured()
    assert metrics.samples is not None
    axes = new_figure(width=4, height=4).axes[0]
    plot_sample_accuracies(axes, metrics.samples, single_pass=single_pass.accuracy)
    ensemble, plain = axes.lines
    assert list(ensemble.get_xdata()) == [metrics.accuracy] * 2  # type: ignore[arg-type]
    assert list(plain.get_xdata()) == [single_pass.accuracy] * 2  # type: ignore[arg-type]


def test_the_confident_answers_are_a_dot_beside_the_curve() -> None:
    metrics, _ = measured()
    axes = new_figure(width=4, height=4).axes[0]
    plot_risk_coverage(
        axes, {'one': metrics}, confident=SelectiveScores(coverage=0.5, risk=0.9)
    )
    (dot,) = [line for line in axes.lines if line.get_label() == 'the CONFIDENT answers']
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([0.5], [0.9])  # type: ignore[arg-type]
    plot_risk_coverage(
        axes, {'one': metrics}, confident=SelectiveScores(coverage=0.0, risk=None)
    )
    assert len(axes.lines) == 3  # no dot without a risk


@pytest.mark.parametrize('answers', [1, 2])
def test_very_few_answers_can_be_drawn(tmp_path: Path, answers: int) -> None:
    monte_carlo, single_pass = measured(answers=answers)
    for path in draw_metrics(tmp_path, monte_carlo=monte_carlo, single_pass=single_pass):
        assert is_picture(path)


def test_networks_and_their_runs_are_compared(tmp_path: Path) -> None:
    runs = [measured(seed=seed) for seed in (1, 2, 3)]
    samples = [run.samples for run, _ in runs if run.samples is not None]
    plain = [single_pass.accuracy for _, single_pass in runs]
    figure = new_figure(width=8, height=4, columns=3)
    left, middle, right = figure.axes
    plot_accuracies(
        left, names=['PST-BLN', 'ST-GCN'], monte_carlo=[[0.9, 0.95, 1.0], [0.8]],
        single_pass=[[0.9, 0.9, 0.9], [0.7]],
    )
    means = [round(patch.get_height(), 6) for patch in left.patches]  # type: ignore[attr-defined]
    assert means == [0.95, 0.8, 0.9, 0.7]
    plot_runs(middle, names=['PST-BLN', 'ST-GCN'], samples=[samples, samples[:1]],
              single_pass=[plain, plain[:1]])
    assert [label.get_text() for label in middle.get_yticklabels()] == ['PST-BLN', 'ST-GCN']
    plot_risk_coverage(right, {'one': runs[0][0], 'other': runs[1][0]})
    assert len(right.lines) == 2
    save_figure(figure, tmp_path / 'new' / 'compared.png')
    assert is_picture(tmp_path / 'new' / 'compared.png')


@pytest.mark.parametrize('first', [0, 17])
def test_a_sequence_is_drawn_with_or_without_the_jaw(tmp_path: Path, first: int) -> None:
    samples = np.random.default_rng(1).dirichlet(np.ones(3), 30)
    draw_sequence(
        tmp_path / 'sequence.png', landmarks=face_landmarks(frames=3)[:, first:],
        frames=['start', 'middle', 'end'], samples=samples, classes=CLASSES, label='sadness',
    )
    assert is_picture(tmp_path / 'sequence.png')


def test_the_true_class_is_marked_and_every_sample_shown() -> None:
    samples = np.random.default_rng(1).dirichlet(np.ones(3), 30)
    axes = new_figure(width=4, height=4).axes[0]
    plot_class_distributions(axes, samples, classes=CLASSES, label='sadness')
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        'neutral', 'happiness', '▶ sadness'
    ]
    assert sum(len(line.get_xdata()) == 30 for line in axes.lines) == 3  # type: ignore[arg-type]


def test_other_numbers_of_landmarks_are_refused() -> None:
    with pytest.raises(ValueError, match='68 or 51, not 10'):
        plot_face(new_figure(width=3, height=3).axes[0], np.zeros((10, 2)))


def test_people_and_false_alarms_have_a_row_each() -> None:
    figure = new_figure(width=6.0, height=3.0, columns=2)
    plot_subjects(figure.axes[0], names=['a', 'b'], accuracy=[1.0, 0.5], coverage=[0.8, 0.2],
                  risk=[0.0, 0.1])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ['a', 'b']
    plot_false_alarms(
        figure.axes[1], names=['nods', 'talk'], shares=[{}, {'anger': 0.1, 'fear': 0.2}],
        classes=('neutral', 'anger', 'fear'), most=0.1,
    )
    ends = [bar.get_window_extent().x1 for bar in figure.axes[1].patches]
    at_least = figure.axes[1].transData.transform((0.3, 0.0))[0]
    assert max(ends) == pytest.approx(at_least, abs=1.0)
    assert figure.axes[1].get_xlim()[1] > 0.3
