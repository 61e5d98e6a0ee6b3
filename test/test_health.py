# SPDX-License-Identifier: Apache-2.0
"""What a node says of itself: counts add up, and each trouble shows as what it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.health import Health, HealthLevel, assess
from fer_perception.image_statistics import ImageStatistics


def camera(
    *, seconds: int = 10, rate: int = 30, processed_share: float = 1.0, bad: int = 0
) -> tuple[ImageStatistics, float]:
    """Let a camera run; return the statistics and the time at the end."""
    statistics = ImageStatistics(now_s=100.0)
    now_s = 100.0
    for number in range(seconds * rate):
        now_s = 100.0 + number / rate
        is_processed = number % 100 < processed_share * 100
        statistics.receive(now_s, age_ms=3.0, has_replaced=not is_processed)
        if number < bad:
            statistics.fail(now_s, kind='image', text='image refused: it is empty')
        elif is_processed:
            statistics.process(now_s, processing_ms=5.0 + number % 2, faces=1, samples=100)
    return statistics, now_s


def health(statistics: ImageStatistics, now_s: float, **changes: object) -> Health:
    arguments: dict[str, object] = {
        'state': 'active', 'is_reading': True, 'fault': '', 'setting': {'model': 'own'},
        **changes,
    }
    return assess(report=statistics.report(now_s), **arguments)  # type: ignore[arg-type]


def test_a_good_camera_is_ok_with_its_figures() -> None:
    found = health(*camera())
    assert (found.level, found.summary) == (HealthLevel.OK, '30 images a second, 1 face')
    assert found.values['images received'] == found.values['images processed'] == '300'
    assert found.values['images dropped for newer ones'] == '0'
    assert found.values['model'] == 'own' and found.values['Monte Carlo samples'] == '100'
    assert found.values['processing p50 (ms)'] in ('5.0', '5.5', '6.0')
    assert found.values['age p99 (ms)'] == '3.0'


def test_silence_is_an_error_that_counts_up() -> None:
    statistics, now_s = camera()
    assert health(statistics, now_s + 4.0).level == HealthLevel.OK
    silent = health(statistics, now_s + 60.0)
    assert (silent.level, silent.summary) == (HealthLevel.ERROR, 'no image for 60 s')
    assert silent.values['received (Hz)'] == '0.0'


def test_bad_images_warn_with_the_reason_and_are_forgotten_later() -> None:
    statistics, now_s = camera(seconds=2, bad=5)
    found = health(statistics, now_s)
    assert found.level == HealthLevel.WARN and 'it is empty' in found.summary
    assert found.values['errors: image'] == '5'
    statistics.receive(now_s + 6.0, age_ms=None, has_replaced=False)
    statistics.process(now_s + 6.0, processing_ms=5.0, faces=0, samples=0)
    assert health(statistics, now_s + 6.0).level == HealthLevel.OK


def test_a_machine_that_is_too_slow_is_warned_of() -> None:
    assert health(*camera(processed_share=0.9)).level == HealthLevel.OK
    slow = health(*camera(processed_share=0.3))
    assert slow.level == HealthLevel.WARN and 'too slow' in slow.summary


def test_a_fault_or_a_pause_says_so() -> None:
    statistics, now_s = camera()
    fault = health(statistics, now_s, state='unconfigured', fault='no such file m.safetensors')
    assert fault.level == HealthLevel.ERROR and 'm.safetensors' in fault.summary
    paused = health(statistics, now_s + 60.0, is_reading=False)
    assert paused.level == HealthLevel.OK and 'reads no images' in paused.summary


@given(
    st.lists(
        st.tuples(
            st.sampled_from(['receive', 'replace', 'process', 'fail', 'wait']),
            st.floats(0.0, 3.0),
        ),
        max_size=50,
    )
)
def test_figures_are_in_their_bounds_whatever_happens(events: list[tuple[str, float]]) -> None:
    statistics = ImageStatistics(now_s=0.0)
    now_s = 0.0
    for kind, pause_s in events:
        now_s += pause_s
        if kind in ('receive', 'replace'):
            statistics.receive(now_s, age_ms=1.0, has_replaced=kind == 'replace')
        elif kind == 'process':
            statistics.process(now_s, processing_ms=2.0, faces=2, samples=7)
        elif kind == 'fail':
            statistics.fail(now_s, kind='stamp', text='no time')
        else:
            statistics.wait_from(now_s)
    report = statistics.report(now_s)
    kinds = [kind for kind, _ in events]
    assert report.received == kinds.count('receive') + kinds.count('replace')
    assert report.dropped == kinds.count('replace')
    assert report.processed == kinds.count('process')
    assert sum(report.faults.values()) == kinds.count('fail') >= report.recent_faults
    assert report.silence_s >= 0.0 and report.received_hz >= 0.0
    assert list(report.processing_ms) in ([], [50, 95, 99])


@pytest.mark.parametrize('name', ['process', 'receive'])
def test_memory_is_bounded(name: str) -> None:
    statistics = ImageStatistics(now_s=0.0)
    for _ in range(10_000):
        if name == 'process':
            statistics.process(0.0, processing_ms=1.0, faces=1, samples=1)
        else:
            statistics.receive(0.0, age_ms=1.0, has_replaced=False)
    report = statistics.report(0.0)
    assert (report.received_hz + report.processed_hz) * 1e-3 == 2048  # in the first millisecond
