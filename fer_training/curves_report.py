# SPDX-License-Identifier: Apache-2.0
"""The picture and the table of curves: what a model answers under each condition."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from fer_perception.evaluation.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    new_figure,
    save_figure,
    share_legend,
)
from fer_training.curves import FACTORS, Curves, Factor
from fer_training.frame_calibration import CalibrationRule

PICTURE_FILE, TABLE_FILE = 'curves.png', 'curves.md'
COLUMNS = 3

# Score, name, colour and marker of each line: told apart by more than their colour.
LINES = (
    ('macro_f1', 'macro F1', BLUE, 'o', '-'),
    ('coverage', 'coverage: frames CONFIDENT', GREEN, 's', '--'),
    ('risk', 'risk: CONFIDENT frames wrong', ORANGE, '^', '-.'),
)

EXPLANATION = """# {model} under other conditions

`{command}`

![F1, coverage and risk against each condition]({picture})

Each point is {tracks} synthetic tracks of {duration:g} s, the classes in turn, of people and
recipes that are never drawn for training (seed {seed}). The same people do the same at every level
before the same detector: differences along a curve are the condition's, its height is that of
{tracks} people. Counted are the frames after the warm-up with a target. Answers are means of
{samples} Monte Carlo dropout samples at the model's own temperature, CONFIDENT by its own
threshold.

One factor at a time leaves the reference: a head that keeps still, seen from the front at
{distance:g} cm and {rate:g} frames per second, a face in every frame, the measured landmark noise
once and {pixels:g} pixels more in every frame, a face size of {size:g} pixels (root mean square
distance of nose and eye corners to their centre). What faces do varies as in training.

Yaw turns every head so far, left or right, pitch up or down, as drawn for each person. Distance
changes perspective only, the face size stays. Of the noise only the {pixels:g} pixels weigh more
on a smaller face; no image is drawn and no detector runs, so that this does not say how small or
how far turned a face is still found.

| condition | level | frames | macro F1 | coverage | risk | predictive entropy (nats) |
|---|---|---|---|---|---|---|
"""


def write_curves_report(
    folder: Path, curves: Curves, *, factors: Sequence[Factor] = FACTORS
) -> tuple[Path, Path]:
    """Write the picture and the table; return their paths."""
    picture, table = folder / PICTURE_FILE, folder / TABLE_FILE
    draw_curves(picture, curves, factors=factors)
    reference, settings = curves.reference, curves.settings
    synthesis = reference.synthesis
    text = EXPLANATION.format(
        model=settings.model,
        command=curves.command,
        picture=picture.name,
        tracks=settings.tracks_per_point,
        duration=synthesis.duration_s,
        seed=settings.seed,
        samples=settings.samples,
        distance=synthesis.distance_cm[0],
        rate=reference.frame_rate,
        pixels=synthesis.pixel_noise[0],
        size=synthesis.face_size_pixels[0],
    )
    rows = [
        _row(factor, point.level, [
            str(point.scores.frames),
            f'{point.scores.macro_f1:.3f}',
            f'{point.scores.coverage:.3f}',
            '-' if point.scores.risk is None else f'{point.scores.risk:.3f}',
            f'{point.scores.predictive_entropy:.3f}',
        ])
        for factor in factors
        for point in curves.of(factor)
    ]
    table.write_text(text + '\n'.join(rows) + '\n', 'utf-8')
    return picture, table


def draw_curves(path: Path, curves: Curves, *, factors: Sequence[Factor] = FACTORS) -> None:
    """Draw a panel for each factor."""
    columns = min(COLUMNS, len(factors))
    rows = -(-len(factors) // columns)
    figure = new_figure(
        width=3.6 * columns + 0.4, height=2.9 * rows + 0.5, rows=rows, columns=columns
    )
    for axes, factor in zip(figure.axes, factors, strict=False):
        plot_factor(axes, curves, factor)
    for axes in figure.axes[len(factors):]:
        axes.set_visible(False)
    for axes in figure.axes[::columns]:
        axes.set_ylabel('share, or F1')
    share_legend(figure, columns=len(LINES) + 2)
    save_figure(figure, path)


def plot_factor(axes: Axes, curves: Curves, factor: Factor) -> None:
    """Draw F1, coverage and risk against one factor."""
    points = curves.of(factor)
    levels = [point.level for point in points]
    axes.axvline(factor.reference, color=GREY, linewidth=6, alpha=0.25, label='reference')
    axes.axhline(
        CalibrationRule().max_risk, color=ORANGE, linewidth=0.8, linestyle=':',
        label=f'risk of {CalibrationRule().max_risk:.0%}',
    )
    for name, label, colour, marker, style in LINES:
        values = np.array([getattr(point.scores, name) for point in points], float)  # None: NaN
        axes.plot(levels, values, style, color=colour, marker=marker, markersize=5,
                  linewidth=1.8, label=label, clip_on=False, zorder=3)
    if factor.is_logarithmic:
        axes.set_xscale('log')
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(factor.levels, [f'{level:g}' for level in factor.levels])
    axes.set_yticks(np.linspace(0.0, 1.0, 6))
    axes.set(ylim=(0.0, 1.0), title=factor.title, xlabel=factor.unit)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)


def _row(factor: Factor, level: float, cells: Sequence[str]) -> str:
    mark = ', reference' if level == factor.reference else ''
    condition = f'{factor.title} ({factor.unit})'
    return f'| {" | ".join([condition, f"{level:g}{mark}", *cells])} |'
