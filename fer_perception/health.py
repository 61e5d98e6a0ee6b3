# SPDX-License-Identifier: Apache-2.0
"""How a node is, in one line and in figures, for /diagnostics. Free of ROS."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from fer_perception.image_statistics import ImageReport

SILENCE_S = 5.0  # without an image, after which something is wrong
MOST_DROPPED = 0.5  # share of the images, above which the machine is too slow for the camera


class HealthLevel(IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True, kw_only=True)
class Health:
    """Hold what a status of /diagnostics holds."""

    level: HealthLevel
    summary: str
    values: dict[str, str]


def assess(
    *,
    state: str,
    is_reading: bool,
    fault: str,
    report: ImageReport,
    setting: Mapping[str, str],
) -> Health:
    """Judge a node.

    state: label of its lifecycle state; is_reading: whether it waits for images; fault: why it
    could not be configured, or empty; setting: what it runs (model, device and the like).
    """
    level, summary = _judge(state, is_reading, fault, report)
    values = {'state': state, **setting}
    values |= {
        'images received': str(report.received),
        'images processed': str(report.processed),
        'images dropped for newer ones': str(report.dropped),
        'received (Hz)': f'{report.received_hz:.1f}',
        'processed (Hz)': f'{report.processed_hz:.1f}',
        'seconds since the last image': f'{report.silence_s:.1f}',
        'faces': str(report.faces),
        'Monte Carlo samples': str(report.samples),
    }
    for name, figures in (('processing', report.processing_ms), ('age', report.age_ms)):
        for percentile, milliseconds in figures.items():
            values[f'{name} p{percentile} (ms)'] = f'{milliseconds:.1f}'
    for kind, count in sorted(report.faults.items()):
        values[f'errors: {kind}'] = str(count)
    if report.last_fault:
        values['last error'] = report.last_fault
    return Health(level=level, summary=summary, values=values)


def _judge(
    state: str, is_reading: bool, fault: str, report: ImageReport
) -> tuple[HealthLevel, str]:
    if fault:
        return HealthLevel.ERROR, f'{state}: {fault}'
    if not is_reading:
        return HealthLevel.OK, f'{state}: reads no images'
    if report.silence_s > SILENCE_S:
        return HealthLevel.ERROR, f'no image for {report.silence_s:.0f} s'
    if report.recent_faults:
        return HealthLevel.WARN, f'{report.recent_faults} bad images in 5 s: {report.last_fault}'
    if report.processed_hz < (1.0 - MOST_DROPPED) * report.received_hz:
        return HealthLevel.WARN, (
            f'too slow: {report.processed_hz:.0f} of {report.received_hz:.0f} images a second'
        )
    return HealthLevel.OK, (
        f'{report.processed_hz:.0f} images a second, {report.faces} '
        + ('face' if report.faces == 1 else 'faces')
    )
