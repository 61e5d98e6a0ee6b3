# SPDX-License-Identifier: Apache-2.0
"""Answers become arrays that hold what was answered; what is no answer is refused whole."""

from dataclasses import replace

import numpy as np
import pytest
from recordings_made import CLASSES, START_NS, record, showing

from fer_perception.evaluation.observations import ObservationCollector
from fer_perception.uncertainty.estimate import ExpressionState

SECOND = 1_000_000_000
good = record(time_s=0, probabilities=showing('neutral'))


def test_arrays_hold_what_was_answered() -> None:
    collector = ObservationCollector()
    first = record(time_s=0, probabilities=showing('happiness', 0.8))
    collector.add(START_NS, [first])
    collector.add(START_NS + SECOND // 10, None)
    collector.add(START_NS + SECOND // 5, [])
    seen = collector.finish()
    assert seen.classes == CLASSES and seen.faces == ('a0000',)
    assert seen.image_s.tolist() == [0.0, 0.1, 0.2]
    assert seen.is_answered.tolist() == [True, False, True]
    assert seen.time_s.tolist() == [0.0]
    assert seen.probabilities.tolist() == [list(first.probabilities)]
    assert seen.standard_deviations.tolist() == [list(first.standard_deviations)]
    assert seen.predictive_entropy.tolist() == [first.predictive_entropy]
    assert seen.expected_entropy.tolist() == [first.expected_entropy]
    assert seen.mutual_information.tolist() == [first.mutual_information]
    assert seen.mc_samples.tolist() == [20]
    assert seen.duration_s == 0.2


def test_faces_are_numbered_as_they_appear_and_from_left_to_right() -> None:
    collector = ObservationCollector()
    neutral = showing('neutral')
    faces = [
        record(time_s=0, probabilities=neutral, face_id=name, left=left)
        for name, left in (('z', 300), ('a', 500), ('m', 100))
    ]
    collector.add(START_NS, [])
    collector.add(START_NS + 1, faces)
    newcomer = record(time_s=0, probabilities=neutral, face_id='b', left=0)
    collector.add(START_NS + 2, [*reversed(faces), newcomer])
    seen = collector.finish()
    assert seen.faces == ('m', 'z', 'a', 'b')
    assert seen.face.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert seen.image.tolist() == [1, 1, 1, 2, 2, 2, 2]


def test_stamps_since_1970_keep_their_nanoseconds() -> None:
    collector = ObservationCollector()
    collector.add(START_NS, [])
    collector.add(START_NS + 1, [])
    collector.add(START_NS - SECOND, [])
    seen = collector.finish()
    assert seen.image_s.tolist() == [0.0, 1e-9, -1.0]
    assert seen.steps_back == 1


def test_a_face_is_in_an_image_once() -> None:
    collector = ObservationCollector()
    with pytest.raises(ValueError, match='occurs twice in an image of 2 faces'):
        collector.add(START_NS, [good, replace(good, roi=(50, 0, 9, 9))])
    assert len(collector.finish().image_s) == 0


def test_a_recording_without_a_face_has_empty_arrays() -> None:
    collector = ObservationCollector()
    collector.add(START_NS, [])
    seen = collector.finish()
    assert seen.classes == seen.faces == ()
    assert seen.time_s.shape == seen.is_warm.shape == (0,)
    assert ObservationCollector().finish().duration_s == 0.0


def test_only_confident_and_uncertain_answers_are_warm() -> None:
    collector = ObservationCollector()
    collector.add(
        START_NS,
        [
            record(time_s=0, probabilities=showing('sadness'), state=state, left=int(state),
                   face_id=state.name)
            for state in ExpressionState
        ],
    )
    seen = collector.finish()
    assert [seen.faces[face] for face in seen.face[seen.is_warm]] == ['CONFIDENT', 'UNCERTAIN']


def test_an_unknown_face_needs_no_probabilities() -> None:
    collector = ObservationCollector()
    unknown = record(time_s=0, probabilities=[], classes=(), state=ExpressionState.UNKNOWN)
    collector.add(START_NS, [unknown])
    collector.add(START_NS + 1, [record(time_s=0, probabilities=showing('neutral'))])
    seen = collector.finish()
    assert seen.classes == CLASSES
    assert np.isnan(seen.probabilities[0]).all() and np.isfinite(seen.probabilities[1]).all()


@pytest.mark.parametrize(
    'bad',
    [
        replace(good, probabilities=(0.9, 0.9, 0.9)),
        replace(good, probabilities=(float('nan'), 0.5, 0.5)),
        replace(good, probabilities=(1.5, -0.5, 0.0)),
        replace(good, probabilities=(0.5, 0.5)),
        replace(good, probabilities=()),
        replace(good, standard_deviations=(0.1,)),
        replace(good, mutual_information=float('inf')),
        replace(good, labels=(), probabilities=(), standard_deviations=()),
        replace(good, labels=('other', 'labels', 'here')),
    ],
)
def test_what_is_no_answer_is_refused_and_leaves_nothing(bad: object) -> None:
    collector = ObservationCollector()
    collector.add(START_NS, [good])
    with pytest.raises(ValueError, match='a0000'):
        collector.add(START_NS + 1, [replace(good, face_id='a0001'), bad])  # type: ignore[list-item]
    collector.add(START_NS + 2, [good])
    seen = collector.finish()
    assert len(seen.image_s) == 2 and seen.faces == ('a0000',)
