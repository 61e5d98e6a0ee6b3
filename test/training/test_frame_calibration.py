# SPDX-License-Identifier: Apache-2.0
"""Calibration by other people: nothing predicted for a person takes part in his own."""

from dataclasses import replace

import numpy as np
import pytest
from predictions_made import CLASSES, made_frames, people

from fer_training.dataset import IGNORED
from fer_training.frame_calibration import (
    CalibrationRule,
    FrameCalibration,
    calibrate_frames,
    cross_fit,
    describe_caution,
)
from fer_training.frame_predictions import join_frames


def test_the_predictions_of_a_person_do_not_change_his_own_calibration() -> None:
    parts = people()
    before = cross_fit(join_frames(parts), classes=CLASSES)
    changed = replace(parts[2], monte_carlo=-parts[2].monte_carlo[:, ::-1] - 3.0,
                      single_pass=-parts[2].single_pass - 3.0)
    after = cross_fit(join_frames([*parts[:2], changed, *parts[3:]]), classes=CLASSES)
    assert before['gestures:c'] == after['gestures:c']
    assert all(before[name] != after[name] for name in before if name != 'gestures:c')


def test_it_is_the_calibration_on_the_others() -> None:
    parts = people()
    fitted = cross_fit(join_frames(parts), classes=CLASSES)
    others = calibrate_frames(join_frames(parts[1:]), classes=CLASSES)
    assert fitted['gestures:a'] == others
    with pytest.raises(ValueError, match='2 subjects'):
        cross_fit(parts[0], classes=CLASSES)


def test_the_temperature_undoes_a_scale_of_the_logits() -> None:
    def temperature(sharpness: float) -> float:
        parts = [made_frames(n, seed=i, label=i % 3, sharpness=sharpness)
                 for i, n in enumerate('abcdef')]
        return calibrate_frames(join_frames(parts), classes=CLASSES).temperature

    assert temperature(4.0) == pytest.approx(2.0 * temperature(2.0), rel=0.01)


def test_the_threshold_keeps_risk_and_false_alarms() -> None:
    frames = join_frames(people())
    rule = CalibrationRule(max_risk=0.05, max_false_alarms=0.02)
    chosen = calibrate_frames(frames, classes=CLASSES, rule=rule)
    answers = frames.answers(chosen.temperature)
    mean = answers.ensemble
    confident = mean.max(-1) >= chosen.abstention_threshold
    wrong = mean.argmax(-1) != frames.targets
    scored = frames.is_warm & (frames.targets != IGNORED)
    talks = np.array(frames.tracks.sources)[frames.track] == 'talkers'
    expression = scored & ~talks
    assert wrong[expression & confident].mean() <= 0.05
    assert (wrong & confident)[scored & talks].mean() <= 0.02
    lower = calibrate_frames(
        frames, classes=CLASSES,
        rule=CalibrationRule(max_risk=1.0, max_false_alarms=1.0, lowest_threshold=0.4),
    )
    assert lower.abstention_threshold == 0.4
    talkers_matter = calibrate_frames(
        frames, classes=CLASSES, rule=CalibrationRule(max_risk=1.0, max_false_alarms=0.0)
    )
    assert talkers_matter.abstention_threshold > mean[scored & talks & wrong].max(-1).max() - 1e-5


def test_few_people_make_no_model_bolder_than_its_network() -> None:
    def calibrated(names: str, sharpness: float = 0.5, evidence: float = 5.0) -> FrameCalibration:
        parts = [
            made_frames(name, seed=index, label=index % 3, sharpness=sharpness, evidence=evidence)
            for index, name in enumerate(names)
        ]
        talkers = [
            made_frames(name, seed=20 + index, source='talkers', kind='talk', label=0,
                        sharpness=sharpness, evidence=evidence)
            for index, name in enumerate('ghij')
        ]
        return calibrate_frames(join_frames([*parts, *talkers]), classes=CLASSES)

    five, four = calibrated('abcde'), calibrated('abcd')
    assert not five.is_cautious and five.temperature < 1.0 and five.abstention_threshold < 0.95
    assert four.is_cautious and four.temperature == four.single_pass_temperature == 1.0
    assert four.abstention_threshold >= 0.95
    doubtful = calibrated('abcd', sharpness=3.0, evidence=1.5)  # its temperature is taken
    assert doubtful.temperature > 1.0 and doubtful.abstention_threshold >= 0.95
    assert '5 people' in describe_caution() and '0.95' in describe_caution()


def test_copies_of_a_person_under_few_names_are_not_trusted() -> None:
    copies = [made_frames(name, seed=1, evidence=9.0) for name in 'abc']
    fitted = cross_fit(join_frames(copies), classes=CLASSES)
    assert all(
        item.is_cautious and item.temperature >= 1.0 and item.abstention_threshold >= 0.95
        for item in fitted.values()
    )


def test_without_a_target_there_is_no_calibration() -> None:
    frames = made_frames('a', seed=1)
    with pytest.raises(ValueError, match='no frame'):
        calibrate_frames(replace(frames, targets=np.full(200, IGNORED)), classes=CLASSES)
