# SPDX-License-Identifier: Apache-2.0
"""The timeline: every face's probabilities with their spread over time, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_perception.records import ExpressionRecord
from fer_perception.uncertainty.estimate import ExpressionState

STATE_COLOURS = {
    ExpressionState.UNKNOWN: '#a0a0a0',
    ExpressionState.WARMING_UP: '#9db4c8',
    ExpressionState.CONFIDENT: '#5fbf60',
    ExpressionState.UNCERTAIN: '#f0a040',
}


def draw_timeline(records: Sequence[ExpressionRecord], path: Path, *, title: str = '') -> None:
    """Draw one panel for each face: mean probability of each class, one deviation about it.

    The strip below a panel is the state, the dotted line the mutual information. Raises
    ValueError without records, ImportError where matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    if not records:
        raise ValueError('there are no expressions to draw')
    faces = sorted({record.face_id for record in records})
    start_ns = min(record.stamp_ns for record in records)
    figure, axes = plt.subplots(
        len(faces), 1, figsize=(10, 3.4 * len(faces) + 0.6), sharex=True, squeeze=False
    )
    for axis, face_id in zip(axes[:, 0], faces, strict=True):
        own = [record for record in records if record.face_id == face_id]
        times = [(record.stamp_ns - start_ns) * 1e-9 for record in own]
        for index, label in enumerate(own[0].labels):
            mean = [record.probabilities[index] for record in own]
            deviation = [record.standard_deviations[index] for record in own]
            (line,) = axis.plot(times, mean, label=label, linewidth=1.6)
            axis.fill_between(
                times,
                [max(0.0, m - d) for m, d in zip(mean, deviation, strict=True)],
                [min(1.0, m + d) for m, d in zip(mean, deviation, strict=True)],
                color=line.get_color(),
                alpha=0.25,
                linewidth=0,
            )
        information = [record.mutual_information for record in own]
        axis.plot(times, information, ':', color='black', label='mutual information (nats)')
        period = (times[-1] - times[0]) / max(1, len(times) - 1)
        ends = [*times[1:], times[-1] + period]
        for state, colour in STATE_COLOURS.items():
            spans = [
                (start, end - start)
                for start, end, record in zip(times, ends, own, strict=True)
                if record.state == state
            ]
            if spans:
                label = state.name.lower().replace('_', ' ')
                axis.broken_barh(spans, (-0.08, 0.05), color=colour, label=label)
        axis.set_ylim(-0.09, 1.02)
        axis.set_ylabel(f'face {face_id}\nprobability')
        axis.grid(alpha=0.25)
    axes[-1, 0].set_xlabel('time (s)')
    handles: dict[str, Any] = {}
    for axis in axes[:, 0]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.suptitle(title or 'Expressions over time: mean of the samples, one deviation about it')
    figure.tight_layout(rect=(0, 0, 0.77, 1))
    figure.legend(list(handles.values()), list(handles), loc='center right', frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
