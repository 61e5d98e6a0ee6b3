# SPDX-License-Identifier: Apache-2.0
"""A thresholds file is understood whole or refused; what is not measured has failed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings_made import CLASSES, answers, recording

from fer_perception import evaluate
from fer_perception.evaluation.named_metrics import (
    METRICS,
    class_metrics,
    find_metric,
    metrics_of,
)
from fer_perception.evaluation.played_images import PlayedImages
from fer_perception.evaluation.scoring import score
from fer_perception.evaluation.thresholds import (
    ThresholdError,
    apply_thresholds,
    check_thresholds,
    parse_thresholds,
    read_thresholds,
)

MADE = recording(
    answers(['neutral'] * 6 + ['sadness'] * 4), 'start_s,end_s,label\n0,1,neutral\n',
    played=PlayedImages(sent=10, latencies_ms=(5.0,) * 10, malformed=0, latest_ms=1.0),
)


def passed(thresholds: dict[str, Any]) -> list[bool]:
    parsed = parse_thresholds(json.dumps(thresholds).encode(), name='t.json')
    return [item.is_passed for item in apply_thresholds(parsed, score([MADE]))]


def test_bounds_are_kept_or_missed() -> None:
    assert passed({'accuracy': {'min': 0.6}}) == [True]  # a bound itself is kept
    assert passed({'accuracy': {'min': 0.61}}) == [False]
    assert passed({'accuracy': {'max': 0.6}, 'risk': {'max': 0.3}}) == [True, False]
    assert passed({'risk': {'min': 0.1, 'max': 0.5}}) == [True]
    assert passed({'recall.neutral': {'min': 0.5}, 'scored': {'min': 10}}) == [True, True]
    assert passed({'latency_p95_ms': {'max': 5}, 'drop_rate': {'max': 0}}) == [True, True]


def test_what_is_not_measured_has_failed() -> None:
    parsed = parse_thresholds(b'{"recall.happiness": {"min": 0}}', name='t.json')
    (result,) = apply_thresholds(parsed, score([MADE]))
    assert (result.measured, result.is_passed) == (None, False)
    assert str(result) == 'failed: recall.happiness not measured, wanted at least 0'


def test_results_say_what_was_measured_and_wanted() -> None:
    parsed = parse_thresholds(b'{"accuracy": {"min": 0.5, "max": 0.9}}', name='t.json')
    (result,) = apply_thresholds(parsed, score([MADE]))
    assert str(result) == 'passed: accuracy 0.6, wanted at least 0.5 and at most 0.9'


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'holds no thresholds'),
        (b'{', 'holds no thresholds'),
        (b'\xff', 'holds no thresholds'),
        (b'[' * 100_000, 'holds no thresholds'),
        (b'[]', 'must hold an object'),
        (b'{}', 'must hold an object'),
        (b'{"accuracy": 0.9}', "'accuracy': give"),
        (b'{"accuracy": {}}', "'accuracy': give"),
        (b'{"accuracy": {"least": 0.9}}', "'accuracy': give"),
        (b'{"accuracy": {"min": "0.9"}}', "finite number, not '0.9'"),
        (b'{"accuracy": {"min": true}}', "finite number, not 'True'"),
        (b'{"accuracy": {"min": null}}', 'finite number'),
        (b'{"accuracy": {"min": NaN}}', 'finite number'),
        (b'{"accuracy": {"min": 1e999}}', 'finite number'),
        (b'{"accuracy": {"max": ' + b'9' * 5000 + b'}}', 'finite number'),
        (b'{"accuracy": {"min": 0.9, "max": 0.5}}', 'min 0.9 is above max 0.5'),
        (b'{"accuracy": {"min": 1}, "accuracy": {"min": 0}}', "'accuracy' occurs twice"),
        (b'{"accuracy": {"min": 1, "min": 0}}', "'min' occurs twice"),
    ],
)
def test_what_is_no_threshold_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ThresholdError, match=message) as caught:
        parse_thresholds(content, name='t.json')
    assert 't.json' in str(caught.value) and len(str(caught.value)) < 300


def test_files_are_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / 't.json'
    path.write_bytes(b'\xef\xbb\xbf{"accuracy": {"min": 0.9}}')
    assert read_thresholds(path)[0].min == 0.9
    with path.open('ab') as file:
        file.truncate(10**12)
    with pytest.raises(ThresholdError, match='more than'):
        read_thresholds(path)
    with pytest.raises(ThresholdError, match='cannot be read'):
        read_thresholds(tmp_path / 'none.json')


@pytest.mark.parametrize('live', [False, True])
def test_unknown_names_are_refused_with_the_known_ones(live: bool) -> None:
    def check(name: str, classes: tuple[str, ...] | None = CLASSES) -> None:
        content = json.dumps({name: {'min': 0}}).encode()
        check_thresholds(parse_thresholds(content, name='t.json'), classes=classes, live=live)

    for metric in metrics_of(classes=CLASSES, live=live):
        check(metric.name)
    for name in ('Accuracy', 'recall', 'recall.', 'support.neutral', '', '.', 'recall.joy'):
        with pytest.raises(ThresholdError, match='unknown metric.*accuracy'):
            check(name)
    check('recall.joy', None)  # of a model whose classes are not known yet
    with pytest.raises(ThresholdError, match='unknown metric'):
        check('recall', None)


def test_latencies_are_for_live_evaluation() -> None:
    parsed = parse_thresholds(b'{"latency_p95_ms": {"max": 50}}', name='t.json')
    check_thresholds(parsed, classes=CLASSES, live=True)
    with pytest.raises(ThresholdError, match='latency_p95_ms.*--live'):
        check_thresholds(parsed, classes=CLASSES, live=False)


def test_names_are_different_and_found() -> None:
    every = metrics_of(classes=CLASSES, live=True)
    assert len({item.name for item in every}) == len(every) == len(METRICS) + 9
    for item in every:
        found = find_metric(item.name)
        assert found is not None
        assert found.value(score([MADE])) == item.value(score([MADE]))
    assert find_metric('nothing') is None


def documented(heading: str) -> list[str]:
    """Return the code words in the first cells of the table with a heading."""
    text = (Path(__file__).parents[2] / 'docs' / 'evaluation.md').read_text('utf-8')
    table = text.partition(f'\n| {heading} |')[2].partition('\n\n')[0]
    rows = [line.split(' | ')[0] for line in table.splitlines() if line.startswith('| ')]
    return [word for row in rows for word in re.findall('`([^`]+)`', row) or [row[2:]]]


def test_the_documentation_lists_every_metric_in_this_order() -> None:
    of_a_class = [item.name for item in class_metrics('LABEL')]
    names = documented('metric')
    assert sorted(names) == sorted([item.name for item in METRICS] + of_a_class)
    assert [name for name in names if name not in of_a_class] == [item.name for item in METRICS]


def test_the_documentation_lists_every_exit_code() -> None:
    assert documented('exit code') == re.findall(r'^  (\d+) ', evaluate.EXIT_CODES, re.MULTILINE)


@given(st.one_of(st.binary(max_size=100), st.text(max_size=100).map(str.encode)))
def test_any_bytes_are_thresholds_or_an_error(content: bytes) -> None:
    try:
        parse_thresholds(content, name='t.json')
    except ThresholdError as error:
        assert 't.json' in str(error)
