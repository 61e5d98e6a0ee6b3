# SPDX-License-Identifier: Apache-2.0
"""Temperature and abstention threshold from predictions of frames of people not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_training.calibration import fit_temperature, threshold_for_risk
from fer_training.frame_predictions import FramePredictions, scored_frames

ROUNDING = 1e-6  # of confidences that are computed in another order
EVERY = 5  # of the scored frames: neighbours say the same, and a fifth fits a temperature as well


@dataclass(frozen=True, kw_only=True)
class CalibrationRule:
    """Set what calibration asks for."""

    max_risk: float = 0.05  # share of the CONFIDENT frames of expressions that may be wrong
    # Share of the frames of not-an-expression material, of each source, that may be CONFIDENT in
    # another class than their own.
    max_false_alarms: float = 0.05
    lowest_threshold: float = 0.5
    enough_people: int = 5  # who show expressions; fewer say too little of others: see below


@dataclass(frozen=True, kw_only=True)
class FrameCalibration:
    """Hold temperatures and the threshold that were chosen."""

    temperature: float  # of the Monte Carlo ensemble
    single_pass_temperature: float
    abstention_threshold: float  # on the ensemble's confidence
    is_cautious: bool = False  # bounded, for too few people show expressions


def calibrate_frames(
    frames: FramePredictions,
    *,
    classes: Sequence[str],
    rule: CalibrationRule = CalibrationRule(),  # noqa: B008
) -> FrameCalibration:
    """Choose temperatures and the threshold on scored frames.

    Temperatures minimise the negative log-likelihood; the frames that show expressions, and those
    of the not-an-expression material of each source, weigh the same in total. The threshold is
    the lowest that keeps all of these: at most `max_risk` of the CONFIDENT frames of expressions
    are wrong; of all not-an-expression frames of each source at most `max_false_alarms` are
    CONFIDENT in a wrong class; it is not below `lowest_threshold`.

    Where fewer than `enough_people` subjects have scored frames of expressions (neutral is one),
    their frames, however many, say little of the next person. No temperature is then taken below
    1, so that nothing is made more confident than the network is, and the threshold not below
    1 - `max_risk`: every CONFIDENT frame must itself claim no more risk than is allowed, not only
    all of them on average. Raises ValueError for predictions of other classes, or if no frame is
    scored.
    """
    if (count := frames.single_pass.shape[1]) != len(classes):
        raise ValueError(
            f'the predictions are of {count} classes, the model of {len(classes)}: '
            f'{", ".join(classes)}'
        )
    frames = frames.subset(scored_frames(frames))
    if not len(frames):
        raise ValueError('no frame after the warm-up has a target to calibrate with')
    groups = material_groups(frames, classes)
    every = np.arange(0, len(frames), EVERY)
    names, index, counts = np.unique(groups[every], return_inverse=True, return_counts=True)
    weights = 1.0 / counts[index] / len(names)
    targets = frames.targets[every]
    shows = groups == ''
    is_cautious = len(set(frames.subjects[shows].tolist())) < rule.enough_people
    temperature = fit_temperature(frames.monte_carlo[:, every], targets, weights)
    single_pass_temperature = fit_temperature(frames.single_pass[None, every], targets, weights)
    lowest = rule.lowest_threshold
    if is_cautious:
        temperature = max(1.0, temperature)
        single_pass_temperature = max(1.0, single_pass_temperature)
        lowest = max(lowest, 1.0 - rule.max_risk)
    mean = frames.answers(temperature).ensemble  # (M, C)
    confidence, right = mean.max(-1), mean.argmax(-1) == frames.targets
    for group in np.unique(groups[groups != '']):
        alarms = confidence[(groups == group) & ~right]
        allowed = int(rule.max_false_alarms * (groups == group).sum())
        lowest = max(lowest, _threshold_for_alarms(alarms, allowed))
    threshold = (
        threshold_for_risk(confidence[shows], right[shows], rule.max_risk, lowest=lowest)
        if shows.any()
        else lowest
    )
    return FrameCalibration(
        temperature=temperature,
        single_pass_temperature=single_pass_temperature,
        abstention_threshold=threshold,
        is_cautious=is_cautious,
    )


def cross_fit(
    frames: FramePredictions,
    *,
    classes: Sequence[str],
    rule: CalibrationRule = CalibrationRule(),  # noqa: B008
) -> dict[str, FrameCalibration]:
    """Calibrate for each subject on the frames of all other subjects only.

    frames: predictions of each subject by a network that was not fitted to it (the folds of a
    cross-validation, joined). Nothing that was predicted for a subject takes part in the choice
    of its temperatures and threshold, as of a stranger's; the networks that predicted the others
    were, though, fitted to this subject among others, as those of a cross-validation are. Returns
    the calibration of every subject. Raises ValueError if there is one subject only.
    """
    subjects = sorted(set(frames.subjects.tolist()))
    if len(subjects) < 2:
        raise ValueError(f'calibration on other people needs 2 subjects, not only {subjects}')
    return {
        subject: calibrate_frames(
            frames.subset(frames.subjects != subject), classes=classes, rule=rule
        )
        for subject in subjects
    }


def describe_caution(rule: CalibrationRule = CalibrationRule()) -> str:  # noqa: B008
    """Say in one line what it means that a calibration is cautious."""
    return (
        f'fewer than {rule.enough_people} people with expressions to calibrate on: the '
        f'temperature is not taken below 1, the threshold not below {1 - rule.max_risk:.2f}; more '
        'people would show what strangers allow'
    )


def material_groups(frames: FramePredictions, classes: Sequence[str]) -> np.ndarray:
    """Return (M,) '' for frames of tracks that show expressions, else the name of their source."""
    shows = frames.tracks.show_expression(classes)
    names = np.where(shows, '', np.array(frames.tracks.sources))
    return names[frames.track]


def _threshold_for_alarms(confidence: np.ndarray, allowed: int) -> float:
    """Return the lowest threshold that at most `allowed` of these confidences reach."""
    if len(confidence) <= allowed:
        return 0.0
    return min(1.0, float(np.sort(confidence)[::-1][allowed]) + ROUNDING)
