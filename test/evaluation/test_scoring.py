# SPDX-License-Identifier: Apache-2.0
"""Scores follow the labels: what counts, what does not, alone and pooled."""

import numpy as np
import pytest
from recordings_made import answers, record, recording

from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.labels import LabelError
from fer_perception.evaluation.metrics import measure_recognition
from fer_perception.evaluation.played_images import PlayedImages, measure_live
from fer_perception.evaluation.scoring import detections, score
from fer_perception.uncertainty.estimate import ExpressionState

WARMING_UP, CONFIDENT, UNCERTAIN = (
    ExpressionState.WARMING_UP, ExpressionState.CONFIDENT, ExpressionState.UNCERTAIN
)
HEADER = 'start_s,end_s,label,face\n'


def smile(*, name: str = 'bag') -> LabelledRecording:
    """Make 2 s at 10 Hz: neutral, happiness from 1 s on, seen 0.2 s too late."""
    shown = ['neutral'] * 12 + ['happiness'] * 8
    states = [WARMING_UP] * 3 + [CONFIDENT] * 8 + [UNCERTAIN] * 2 + [CONFIDENT] * 7
    return recording(
        answers(shown, states=states), f'{HEADER}0,1,neutral,\n1,1.95,happiness,\n', name=name
    )


def test_a_recording_is_scored_by_its_labels() -> None:
    scores = score([smile()])
    assert scores.scored == 17  # 20 answers, three of them warming up
    assert scores.recognition is not None and scores.selective is not None
    assert scores.recognition.confusion_matrix == ((7, 0, 0), (2, 8, 0), (0, 0, 0))
    assert scores.recognition.accuracy == pytest.approx(15 / 17)
    assert scores.selective.coverage == pytest.approx(15 / 17)
    assert scores.selective.risk == pytest.approx(1 / 15)  # at 1.0 s still CONFIDENT neutral
    assert scores.abstention_rate == pytest.approx(2 / 17)
    assert scores.false_alarms is not None
    assert scores.false_alarms.share == pytest.approx(1 / 17)
    assert scores.false_alarms.classes == {'neutral': pytest.approx(1 / 17)}
    assert {name: item.count for name, item in scores.states.items()} == {
        'UNKNOWN': 0, 'WARMING_UP': 3, 'CONFIDENT': 15, 'UNCERTAIN': 2
    }
    assert scores.states['WARMING_UP'].share == pytest.approx(3 / 20)
    assert (scores.flips.answers, scores.flips.labels) == (1, 1)
    assert scores.flips.minutes == pytest.approx(1.6 / 60)
    assert [item.time_to_detect_s for item in detections(smile())] == [
        pytest.approx(0.3), pytest.approx(0.3)
    ]
    assert scores.live is None


def test_recognition_is_that_of_the_training_metrics() -> None:
    made = smile()
    scored = made.is_scored
    measured = measure_recognition(
        made.observations.probabilities[scored], made.target[scored],
        classes=made.observations.classes,
    )
    found = score([made]).recognition
    assert found is not None
    assert found.as_dict() | {'error_detection_auroc': None} == (
        measured.as_dict() | {'error_detection_auroc': None}
    )
    assert found.error_detection_auroc.mutual_information is not None


def test_what_is_not_labelled_is_not_scored() -> None:
    made = recording(answers(['neutral'] * 20), f'{HEADER}0.5,1,happiness,\n')
    scores = score([made])
    assert scores.scored == 5 and scores.recognition is not None
    assert scores.recognition.accuracy == 0.0
    assert scores.faces.labelled == 5


def test_a_label_of_one_face_is_not_that_of_another() -> None:
    images = [
        a + b
        for a, b in zip(
            answers(['neutral'] * 10),
            answers(['happiness'] * 10, face_id='b0000', left=300), strict=True,
        )
    ]
    one_each = recording(images, f'{HEADER}0,1,neutral,0\n0,1,happiness,1\n')
    assert score([one_each]).scored == 20
    recognition = score([one_each]).recognition
    assert recognition is not None and recognition.accuracy == 1.0
    every = recording(images, f'{HEADER}0,1,neutral,\n')
    recognition = score([every]).recognition
    assert recognition is not None and recognition.accuracy == 0.5
    assert [(item.face, item.time_to_detect_s) for item in detections(every)] == [
        (0, 0.0), (1, None)
    ]


@pytest.mark.parametrize(
    ('label', 'labelled', 'without'),
    [('0,1,neutral,', 10, 4), ('0,1,neutral,0', 10, 4), ('0,1,neutral,5', 10, 10)],
)
def test_labelled_images_without_the_face_are_counted(
    label: str, labelled: int, without: int
) -> None:
    shown = ['neutral'] * 3 + [None] * 4 + ['neutral'] * 3
    faces = score([recording(answers(shown), HEADER + label)]).faces
    assert (faces.labelled, faces.without_face) == (labelled, without)
    assert faces.coverage == pytest.approx(1 - without / labelled)


def test_images_without_an_answer_are_no_images_without_a_face() -> None:
    images = [None if index % 2 else answer
              for index, answer in enumerate(answers(['neutral'] * 10))]
    played = PlayedImages(sent=10, latencies_ms=(20.0,) * 5, malformed=0, latest_ms=1.0)
    scores = score([recording(images, f'{HEADER}0,1,neutral,\n', played=played)])
    assert (scores.faces.labelled, scores.faces.coverage) == (5, 1.0)
    assert scores.live is not None
    assert (scores.live.answered, scores.live.dropped, scores.live.drop_rate) == (5, 5, 0.5)


def test_without_a_face_nothing_is_measured_and_everything_missed() -> None:
    scores = score([recording([[]] * 10, f'{HEADER}0,1,neutral,\n')])
    assert scores.scored == 0
    assert scores.recognition is None and scores.selective is None
    assert scores.false_alarms is None
    assert scores.abstention_rate is None
    assert (scores.faces.coverage, scores.detection.missed) == (0.0, 1)
    assert scores.states['CONFIDENT'].share is None


def test_nothing_at_all_is_scored_too() -> None:
    scores = score([])
    assert scores.scored == 0 and scores.faces.coverage is None


def test_unknown_faces_are_counted_but_not_scored() -> None:
    images = answers(['neutral'] * 10)
    images[4] = [
        record(time_s=0.4, probabilities=[], classes=(), state=ExpressionState.UNKNOWN)
    ]
    scores = score([recording(images, f'{HEADER}0,1,neutral,\n')])
    assert scores.scored == 9 and scores.states['UNKNOWN'].count == 1


def test_pooled_scores_are_those_of_all_answers() -> None:
    wrong = recording(answers(['sadness'] * 10), f'{HEADER}0,1,neutral,\n')
    empty = recording([[]] * 10, f'{HEADER}0,1,neutral,\n')
    pooled = score([smile(), wrong, empty])
    assert pooled.scored == 27 and pooled.recognition is not None
    assert pooled.recognition.accuracy == pytest.approx(15 / 27)
    assert pooled.faces.labelled == 40
    assert (pooled.detection.segments, pooled.detection.missed) == (4, 2)
    twice = score([smile(), smile()])
    once = score([smile()])
    assert twice.recognition is not None and once.recognition is not None
    assert twice.recognition.accuracy == once.recognition.accuracy
    assert twice.flips.answers_per_minute == once.flips.answers_per_minute
    assert twice.faces.coverage == once.faces.coverage


def test_recordings_of_different_models_are_not_pooled() -> None:
    other = recording(
        [[record(time_s=0, probabilities=[0.5, 0.5], classes=('a', 'b'))]], f'{HEADER}0,1,a,\n'
    )
    with pytest.raises(ValueError, match='different classes'):
        score([smile(), other])


def test_labels_must_fit_classes_and_images() -> None:
    with pytest.raises(LabelError, match="unknown label 'joy'"):
        recording(answers(['neutral'] * 3), f'{HEADER}0,1,joy,\n')
    with pytest.raises(LabelError, match='no image between 7 and 8'):
        recording(answers(['neutral'] * 3), f'{HEADER}0,1,neutral,\n7,8,neutral,\n')


def test_the_order_of_the_label_file_is_of_no_account() -> None:
    rows = ['0,0.5,neutral,', '0.5,1,happiness,', '1,1.5,neutral,0', '1.5,2,sadness,']
    shown = ['neutral'] * 7 + ['happiness'] * 6 + ['sadness'] * 7
    first = score([recording(answers(shown), HEADER + '\n'.join(rows))])
    assert score([recording(answers(shown), HEADER + '\n'.join(rows[::-1]))]) == first


def test_latencies_are_those_of_the_answered_images() -> None:
    played = [
        PlayedImages(sent=sent, latencies_ms=tuple(times), malformed=malformed, latest_ms=late)
        for sent, times, malformed, late in (
            (60, np.arange(1.0, 51), 2, 3.0), (50, np.arange(51.0, 101), 0, 9.0)
        )
    ]
    live = measure_live(played)
    assert (live.sent, live.answered, live.dropped, live.malformed) == (110, 100, 10, 2)
    assert live.latency_p50_ms == 50.5
    assert live.latency_p99_ms == pytest.approx(99.01)
    assert (live.latency_longest_ms, live.sent_late_ms) == (100.0, 9.0)
    silent = measure_live([PlayedImages(sent=5, latencies_ms=(), malformed=0, latest_ms=0.0)])
    assert silent.drop_rate == 1.0 and silent.latency_p50_ms is None
