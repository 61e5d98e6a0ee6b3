# SPDX-License-Identifier: Apache-2.0
"""Timelines show labels, states and gaps where they are."""

import sys

import numpy as np
import pytest
from recordings_made import CLASSES

from fer_perception.timeline import FaceTimeline, timeline_figure
from fer_perception.uncertainty.estimate import ExpressionState

pytest.importorskip('matplotlib', reason='the timeline needs the extra [plots]')


def timeline(times_s: list[float], *, spans: tuple[tuple[float, float, str], ...] = ()) -> (
    FaceTimeline
):
    count = len(times_s)
    states = [ExpressionState.WARMING_UP, *[ExpressionState.CONFIDENT] * (count - 1)]
    return FaceTimeline(
        name='face 0',
        labels=CLASSES,
        times_s=np.array(times_s),
        states=np.array(states[:count]),
        probabilities=np.full((count, 3), 1 / 3),
        standard_deviations=np.full((count, 3), 0.1),
        mutual_information=np.zeros(count),
        spans=spans,
    )


def test_labels_stand_above_with_their_name_and_colour() -> None:
    made = timeline(
        [0.0, 1.0, 2.0, 3.0],
        spans=((0.0, 1.5, 'happiness'), (1.5, 1.51, 'neutral'), (2.0, 3.0, 'joy')),
    )
    axes = timeline_figure([made]).axes[0]
    # Too short a label has no room for its name; one that is no class is shown all the same.
    assert [text.get_text() for text in axes.texts] == ['happiness', 'joy']
    lines = {line.get_label(): line.get_color() for line in axes.lines}
    assert set(lines) == {*CLASSES, 'mutual information (nats)'}
    assert axes.get_ylim()[1] > 1.05


def test_a_face_that_was_away_has_a_gap() -> None:
    whole = timeline_figure([timeline([0.0, 0.1, 0.2, 0.3])]).axes[0]
    parted = timeline_figure([timeline([0.0, 0.1, 1.2, 1.3])]).axes[0]
    assert not np.isnan(np.asarray(whole.lines[0].get_ydata())).any()
    curve = parted.lines[0]
    assert np.isnan(np.asarray(curve.get_ydata())).tolist() == [False, False, True, False, False]
    confident = next(item for item in parted.collections if item.get_label() == 'confident')
    ends = [np.asarray(path.vertices)[:, 0].max() for path in confident.get_paths()]
    assert ends == pytest.approx([0.2, 1.3, 1.4])  # it does not reach through the gap


@pytest.mark.parametrize('times', [[0.0], [0.0, 0.0], [5.0, 5.1]])
def test_very_few_answers_can_be_drawn(times: list[float]) -> None:
    figure = timeline_figure([timeline(times), timeline(times)])
    figure.canvas.draw()
    assert len(figure.axes) == 2


def test_all_faces_share_the_given_span() -> None:
    figure = timeline_figure([timeline([1.0, 2.0]), timeline([3.0, 4.0])], span_s=(0.0, 10.0))
    low, high = figure.axes[1].get_xlim()
    assert -0.5 < low <= 0.0 and 10.0 <= high < 10.5
    assert figure.axes[0].get_xlim() == (low, high)


def test_the_global_state_of_matplotlib_is_not_used() -> None:
    module = vars(sys.modules['fer_perception.timeline'])
    assert 'plt' not in module and 'matplotlib' not in module
    assert type(timeline_figure([timeline([0.0])]).canvas).__name__ == 'FigureCanvasAgg'


def test_no_face_is_refused() -> None:
    with pytest.raises(ValueError, match='no expressions'):
        timeline_figure([])
