# SPDX-License-Identifier: Apache-2.0
"""Thresholds that an evaluation has to keep, read from a JSON file, and what became of them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_perception.evaluation.named_metrics import METRICS, find_metric, metrics_of
from fer_perception.evaluation.scoring import StreamScores
from fer_perception.evaluation.untrusted_text import quoted

MOST_BYTES = 1_000_000
BOUNDS = ('min', 'max')


class ThresholdError(ValueError):
    """Say what is wrong with a thresholds file, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Hold what one metric must keep; a bound of None is none."""

    metric: str
    min: float | None
    max: float | None

    @property
    def wanted(self) -> str:
        """The bounds in words."""
        words = (('at least', self.min), ('at most', self.max))
        return ' and '.join(f'{word} {bound:g}' for word, bound in words if bound is not None)


@dataclass(frozen=True, kw_only=True)
class ThresholdResult:
    """Hold what was measured beside what was wanted."""

    metric: str
    wanted: str
    measured: float | None
    is_passed: bool  # False also where nothing could be measured

    def __str__(self) -> str:
        """Say it in one line."""
        measured = 'not measured' if self.measured is None else f'{self.measured:.6g}'
        return f'{"passed" if self.is_passed else "failed"}: {self.metric} {measured}, ' + (
            f'wanted {self.wanted}'
        )


def read_thresholds(path: Path) -> tuple[Threshold, ...]:
    """Read a JSON object of metric names, each with {"min": x}, {"max": x} or both.

    Raises ThresholdError for anything else; the names themselves are checked by
    `check_thresholds`.
    """
    try:
        with path.open('rb') as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ThresholdError(f'the thresholds {str(path)!r} cannot be read: {reason}') from error
    return parse_thresholds(content, name=path.name)


def parse_thresholds(content: bytes, *, name: str) -> tuple[Threshold, ...]:
    """Read thresholds from the content of a file; see `read_thresholds`. `name` is for errors."""
    if len(content) > MOST_BYTES:
        raise ThresholdError(f'{quoted(name)} has more than {MOST_BYTES} bytes')
    try:
        values = json.loads(
            content.decode('utf-8-sig'), object_pairs_hook=_object, parse_int=float
        )
    except (ValueError, RecursionError) as error:
        detail = ' '.join(str(error).split())
        raise ThresholdError(f'{quoted(name)} holds no thresholds: {detail}') from error
    if not isinstance(values, dict) or not values:
        raise ThresholdError(
            f'{quoted(name)} must hold an object such as {{"accuracy": {{"min": 0.9}}}}'
        )
    return tuple(_threshold(name, metric, bounds) for metric, bounds in values.items())


def check_thresholds(
    thresholds: Sequence[Threshold], *, classes: Sequence[str] | None, live: bool
) -> None:
    """Raise ThresholdError naming the first threshold of no metric.

    classes: those of the model; None where they are not known yet: then any class will do.
    """
    known = {item.name for item in metrics_of(classes=classes or (), live=live)}
    for threshold in thresholds:
        metric = find_metric(threshold.metric)
        is_of_class = metric is not None and metric not in METRICS
        if metric is not None and metric.live_only and not live:
            raise ThresholdError(f'the metric {threshold.metric!r} is measured with --live only')
        if threshold.metric not in known and not (classes is None and is_of_class):
            raise ThresholdError(
                f'unknown metric {quoted(threshold.metric)} among the thresholds; known are '
                f'{", ".join(sorted(known))}'
            )


def apply_thresholds(
    thresholds: Sequence[Threshold], scores: StreamScores
) -> tuple[ThresholdResult, ...]:
    """Compare scores with thresholds; a metric that could not be measured has failed."""
    results = []
    for threshold in thresholds:
        metric = find_metric(threshold.metric)
        measured = None if metric is None else metric.value(scores)
        is_passed = measured is not None and (
            (threshold.min is None or measured >= threshold.min)
            and (threshold.max is None or measured <= threshold.max)
        )
        results.append(
            ThresholdResult(
                metric=threshold.metric,
                wanted=threshold.wanted,
                measured=measured,
                is_passed=is_passed,
            )
        )
    return tuple(results)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary of a JSON object, refusing names that occur twice."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f'{quoted(name)} occurs twice')
        values[name] = value
    return values


def _threshold(file: str, metric: str, bounds: Any) -> Threshold:
    where = f'{quoted(file)}, {quoted(metric)}'
    if not isinstance(bounds, dict) or not bounds or not bounds.keys() <= set(BOUNDS):
        raise ThresholdError(
            f'{where}: give {{"min": x}}, {{"max": x}} or both, not {quoted(bounds)}'
        )
    for bound in bounds.values():
        if not isinstance(bound, float) or not math.isfinite(bound):
            raise ThresholdError(f'{where}: a bound must be a finite number, not {quoted(bound)}')
    low, high = (bounds.get(name) for name in BOUNDS)
    if low is not None and high is not None and low > high:
        raise ThresholdError(f'{where}: min {low:g} is above max {high:g}')
    return Threshold(metric=metric, min=low, max=high)
