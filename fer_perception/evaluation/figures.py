# SPDX-License-Identifier: Apache-2.0
"""Pictures of the metrics. Each `plot_` function draws into given axes, so that panels combine.

Needs matplotlib; draws without a screen and without its global state.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fer_perception.evaluation.metrics import (
    RecognitionMetrics,
    ReliabilityBin,
    SampleMetrics,
    SelectiveScores,
)
from fer_perception.graph.landmarks import INNER_LANDMARKS, LANDMARK_COUNT

# Colours that people with a colour vision deficiency can tell apart (Okabe and Ito).
BLUE, ORANGE, GREEN, PINK, GREY = '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#8a8a8a'
COLOURS = (BLUE, ORANGE, GREEN, PINK)

RESOLUTION = 110  # dots per inch

# Lines through the landmarks, (first, last, closed), dlib's numbering.
FACE_LINES = (
    (0, 16, False),  # jaw
    (17, 21, False),  # brows
    (22, 26, False),
    (27, 30, False),  # nose
    (31, 35, False),
    (36, 41, True),  # eyes
    (42, 47, True),
    (48, 59, True),  # lips
    (60, 67, True),
)


def new_figure(*, width: float, height: float, rows: int = 1, columns: int = 1) -> Figure:
    """Make a figure with rows x columns axes; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=RESOLUTION, layout='constrained')
    FigureCanvasAgg(figure)
    figure.subplots(rows, columns)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(figure_png(figure))


def figure_png(figure: Figure) -> bytes:
    """Return a figure as PNG; nothing in it tells when it was made."""
    file = io.BytesIO()
    figure.savefig(file, format='png', metadata={'Software': None})
    return file.getvalue()


def share_legend(figure: Figure, *, columns: int = 4) -> None:
    """Put the legend of the first axes below all of them."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc='outside lower center', ncols=columns, frameon=False,
        fontsize='small',
    )


def plot_reliability(
    axes: Axes, bins: Sequence[ReliabilityBin], *, error: float, title: str = ''
) -> None:
    """Draw accuracy against confidence, and how many answers each bin holds.

    error: the expected calibration error, shown in the corner. `share_legend` explains the parts.
    """
    filled = [item for item in bins if item.count]
    left = np.array([item.lower for item in filled])
    right = np.array([item.upper for item in filled])
    width = right - left
    accuracy = np.array([item.accuracy for item in filled], np.float64)
    confidence = np.array([item.confidence for item in filled], np.float64)
    counts = np.array([item.count for item in filled])
    low, high = np.minimum(accuracy, confidence), np.maximum(accuracy, confidence)
    axes.bar(left, low, width, align='edge', color=(*_rgb(BLUE), 0.45), edgecolor='white')
    axes.bar(left, high - low, width, bottom=low, align='edge', facecolor='none',
             edgecolor=ORANGE, hatch='////', linewidth=0.0, label='gap to the confidence')
    axes.hlines(accuracy, left, right, color=BLUE, linewidth=3, label='accuracy of the bin')
    axes.plot([0, 1], [0, 1], '--', color='black', linewidth=1, label='perfectly calibrated')
    axes.bar(left, -0.16 * counts / counts.max(), width, align='edge', color=GREY,
             edgecolor='white', label='number of answers')
    axes.axhline(0, color='black', linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(-0.18, 1.03), xlabel='confidence', ylabel='accuracy')
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_title(title or 'Reliability')
    axes.text(0.03, 0.96, f'ECE {error:.3f}', ha='left', va='top', transform=axes.transAxes,
              bbox={'facecolor': 'white', 'edgecolor': GREY, 'boxstyle': 'round'})


def plot_risk_coverage(
    axes: Axes,
    metrics: Mapping[str, RecognitionMetrics],
    *,
    confident: SelectiveScores | None = None,
) -> None:
    """Draw the share of wrong answers if only the most confident are given.

    metrics: one curve for each name, such as 'Monte Carlo dropout' and 'single pass'; confident:
    what the CONFIDENT answers are worth, a dot.
    """
    highest = 0.02
    for (name, item), colour in zip(metrics.items(), _colours(len(metrics)), strict=True):
        coverage = [point.coverage for point in item.risk_coverage]
        risk = [point.risk for point in item.risk_coverage]
        highest = max(highest, *risk)
        label = f'{name}, AURC {item.area_under_risk_coverage:.4f}'
        axes.plot(coverage, risk, color=colour, linewidth=2, label=label)
    if confident is not None and confident.risk is not None:
        highest = max(highest, confident.risk)
        axes.plot(confident.coverage, confident.risk, 'o', color='black', clip_on=False,
                  label='the CONFIDENT answers')
    axes.set(xlim=(0, 1), ylim=(0, min(1.0, 1.15 * highest)), title='Risk and coverage')
    axes.set(xlabel='coverage: share of answers given', ylabel='risk: share of them wrong')
    axes.xaxis.set_major_formatter(_percent_axis())
    axes.yaxis.set_major_formatter(_percent_axis(1))
    axes.grid(alpha=0.3)
    axes.legend(loc='upper left', fontsize='small')


def plot_confusion(axes: Axes, metrics: RecognitionMetrics, *, title: str = '') -> None:
    """Draw the confusion matrix: colours are shares of a row, numbers are counts."""
    counts = np.array(metrics.confusion_matrix)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(shares, cmap='Blues', vmin=0.0, vmax=1.0)
    size = 'medium' if len(counts) <= 10 else 'x-small'
    for row, column in np.argwhere(counts > 0):
        axes.text(column, row, str(counts[row, column]), ha='center', va='center',
                  fontsize=size, color='white' if shares[row, column] > 0.55 else 'black')
    places = range(len(counts))
    axes.set_xticks(places, metrics.classes, rotation=45, ha='right', rotation_mode='anchor')
    axes.set_yticks(places, metrics.classes)
    axes.set_xticks(np.arange(1, len(counts)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(counts)) - 0.5, minor=True)
    axes.grid(which='minor', color='white', linewidth=1.5)
    axes.tick_params(which='both', length=0)
    axes.set(xlabel='answer', ylabel='label')
    axes.set_title(title or f'Confusion matrix, accuracy {_percent(metrics.accuracy)}')


def plot_sample_accuracies(
    axes: Axes, samples: SampleMetrics, *, single_pass: float, title: str = ''
) -> None:
    """Draw the accuracies of single samples with the ensemble's line (PST-BLN, figure 2).

    single_pass: accuracy of the pass without dropout, the dotted line.
    """
    accuracies = np.array(samples.accuracies)
    edges = _histogram_edges(accuracies)
    axes.hist(
        samples.accuracies, edges, color=(*_rgb(BLUE), 0.35), edgecolor=BLUE,
        histtype='stepfilled', linewidth=1.2,
        label=f'single samples: {_percent(samples.mean)} ± '
              f'{100 * samples.standard_deviation:.1f}',
    )
    axes.axvline(samples.ensemble_accuracy, color='black', linewidth=2,
                 label=f'ensemble of {len(accuracies)}: {_percent(samples.ensemble_accuracy)}')
    axes.axvline(single_pass, color=ORANGE, linewidth=2, linestyle=':',
                 label=f'without dropout: {_percent(single_pass)}')
    axes.set(xlabel='accuracy', ylabel='number of samples')
    axes.set_title(title or 'Accuracy of single Monte Carlo samples')
    axes.xaxis.set_major_formatter(_percent_axis(1))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def plot_runs(
    axes: Axes,
    *,
    names: Sequence[str],
    samples: Sequence[Sequence[SampleMetrics]],
    single_pass: Sequence[Sequence[float]],
    title: str = '',
) -> None:
    """Draw the accuracies of single samples of many runs, a group of rows for each network.

    samples and single_pass: of each name's runs (seeds), a row each. Dots are single samples, the
    line is their ensemble, the diamond the pass without dropout.
    """
    random = np.random.default_rng(0)
    row, ticks = 0.0, []
    for index, (runs, passes) in enumerate(zip(samples, single_pass, strict=True)):
        start = row
        for run, accuracy in zip(runs, passes, strict=True):
            first = row == 0.0
            jitter = random.uniform(-0.3, 0.3, len(run.accuracies))
            axes.plot(run.accuracies, row + jitter, '.', color=BLUE, alpha=0.35, markersize=5,
                      markeredgewidth=0, label='single samples' if first else None)
            axes.plot([run.ensemble_accuracy] * 2, [row - 0.42, row + 0.42], color='black',
                      linewidth=2.2, label='their ensemble' if first else None)
            axes.plot(accuracy, row, 'D', color=ORANGE, markersize=5, markeredgecolor='white',
                      label='without dropout' if first else None)
            row += 1.0
        ticks.append((start + row - 1.0) / 2)
        if index + 1 < len(samples):
            axes.axhline(row, color=GREY, linewidth=0.6)
        row += 1.0
    axes.set_yticks(ticks, ['\n'.join(textwrap.wrap(name, 14)) for name in names])
    axes.set_ylim(row - 1.2, -0.8)
    axes.tick_params(axis='y', length=0)
    axes.xaxis.set_major_formatter(_percent_axis())
    axes.grid(axis='x', alpha=0.3)
    axes.set_xlabel('accuracy; a row is a run')
    axes.set_title(title or 'Accuracy of single Monte Carlo samples')


def plot_accuracies(
    axes: Axes,
    *,
    names: Sequence[str],
    monte_carlo: Sequence[Sequence[float]],
    single_pass: Sequence[Sequence[float]],
    title: str = '',
) -> None:
    """Draw a pair of bars for each network: mean over its seeds, whiskers of one deviation.

    The deviation's divisor is the number of seeds less one. Dots are the seeds themselves.
    monte_carlo and single_pass: accuracies of each name's seeds.
    """
    places = np.arange(len(names))
    width = 0.38
    lowest = 1.0
    for values, shift, colour, label in (
        (monte_carlo, -width / 2, BLUE, 'Monte Carlo dropout'),
        (single_pass, width / 2, ORANGE, 'single pass'),
    ):
        means = np.array([np.mean(item) for item in values])
        deviations = np.array([np.std(item, ddof=min(1, len(item) - 1)) for item in values])
        lowest = min(lowest, *(min(item) for item in values), *(means - deviations))
        axes.bar(places + shift, means, width * 0.95, color=(*_rgb(colour), 0.75), label=label)
        axes.errorbar(places + shift, means, deviations, fmt='none', ecolor='black', capsize=4,
                      linewidth=1.2)
        for place, item, mean, deviation in zip(
            places + shift, values, means, deviations, strict=True
        ):
            axes.plot(np.full(len(item), place), item, 'o', color='black', markersize=3,
                      alpha=0.6)
            top = max(mean + deviation, *item, mean)
            axes.annotate(_percent(mean), (place, top), (0, 5), ha='center',
                          textcoords='offset points', fontsize='small')
    floor = max(0.0, np.floor((lowest - 0.05) * 20) / 20)
    step = next(size for size in (0.02, 0.05, 0.1, 0.2) if (1.0 - floor) / size <= 10)
    axes.set_yticks(np.arange(round((1.0 - floor) / step) + 1) * -step + 1.0)
    axes.set_ylim(floor, 1.0 + 0.1 * (1.0 - floor))  # room for the numbers above 100 %
    axes.set_xticks(places, ['\n'.join(textwrap.wrap(name, 14)) for name in names])
    axes.yaxis.set_major_formatter(_percent_axis(0))
    start = f' (axis from {floor:.0%})' if floor else ''
    axes.set_ylabel(f'accuracy{start}')
    axes.set_title(title or 'Accuracy')
    axes.grid(axis='y', alpha=0.3)
    axes.set_axisbelow(True)


def plot_subjects(
    axes: Axes,
    *,
    names: Sequence[str],
    accuracy: Sequence[float],
    coverage: Sequence[float],
    risk: Sequence[float],
    title: str = '',
) -> None:
    """Draw a row for each person: accuracy, coverage, and the share of CONFIDENT answers wrong.

    `share_legend` explains the marks.
    """
    places = np.arange(len(names))
    for values, marker, colour, label in (
        (accuracy, 'o', BLUE, 'accuracy'),
        (coverage, 's', GREEN, 'CONFIDENT'),
        (risk, 'X', ORANGE, 'CONFIDENT and wrong, of the CONFIDENT'),
    ):
        axes.plot(values, places, marker, color=colour, label=label, linestyle='none')
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(xlim=(-0.02, 1.02), xlabel='share of the frames')
    axes.xaxis.set_major_formatter(_percent_axis())
    axes.grid(alpha=0.3)
    axes.set_title(title or 'Each person')


def plot_false_alarms(
    axes: Axes,
    *,
    names: Sequence[str],
    shares: Sequence[Mapping[str, float]],
    classes: Sequence[str],
    most: float,
    title: str = '',
) -> None:
    """Draw how much of the time material without expressions is CONFIDENT in one.

    shares: of the time in each class, a mapping for each name; most: the line to stay below.
    """
    places = np.arange(len(names))
    left = np.zeros(len(names))
    palette = (*COLOURS, '#e69f00', '#56b4e9', '#f0e442', GREY)
    shown = [name for name in classes if any(name in item for item in shares)]
    for index, name in enumerate(shown):
        values = np.array([item.get(name, 0.0) for item in shares])
        axes.barh(places, values, 0.7, left=left, color=palette[index % len(palette)], label=name)
        left += values
    axes.axvline(most, color='black', linestyle='--', linewidth=1, label=f'{most:.0%}')
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(xlim=(0, max(1.2 * most, 1.05 * float(left.max()))))
    axes.set_xlabel('share of the time CONFIDENT in a wrong class')
    axes.xaxis.set_major_formatter(_percent_axis())
    axes.legend(fontsize='small')
    axes.set_title(title or 'What shows no expression')


def plot_face(axes: Axes, landmarks: np.ndarray, *, title: str = '') -> None:
    """Draw the landmarks of a face, y downwards as in the image.

    landmarks: (68, 2), or (51, 2) without the jaw.
    """
    first = LANDMARK_COUNT - len(landmarks)
    if first not in (0, int(INNER_LANDMARKS[0])):
        raise ValueError(f'landmarks must be 68 or 51, not {len(landmarks)}')
    for start, end, closed in FACE_LINES:
        if start >= first:
            order = [*range(start - first, end - first + 1), *([start - first] * closed)]
            axes.plot(*landmarks[order].T, color=BLUE, linewidth=1.2)
    axes.plot(*landmarks.T, 'o', color=BLUE, markersize=2.2)
    axes.set_aspect('equal')
    axes.set_axis_off()
    axes.set_title(title, fontsize='medium')


def plot_class_distributions(
    axes: Axes, samples: np.ndarray, *, classes: Sequence[str], label: str, title: str = ''
) -> None:
    """Draw how the samples' probabilities of each class spread (PST-BLN, figure 3).

    samples: (S, C) of one sequence. Each dot is a sample, the bar their mean; the row of the
    true class is marked with an arrow.
    """
    mean = samples.mean(0)
    jitter = np.random.default_rng(0).uniform(-0.28, 0.28, samples.shape)
    answer = int(mean.argmax())
    colours = [BLUE if index == answer else GREY for index in range(len(classes))]
    places = np.arange(len(classes))
    axes.barh(places, mean, 0.75, color=colours, alpha=0.35)
    for index, place in enumerate(places):
        axes.plot(samples[:, index], place + jitter[:, index], '.', color=colours[index],
                  markersize=4, alpha=0.55, markeredgewidth=0)
        axes.plot([mean[index]] * 2, [place - 0.375, place + 0.375], color='black', linewidth=1.6)
    names = [f'▶ {name}' if name == label else name for name in classes]
    axes.set_yticks(places, names)
    for text, name in zip(axes.get_yticklabels(), classes, strict=True):
        text.set_fontweight('bold' if name == label else 'normal')
    axes.invert_yaxis()
    axes.set(xlim=(-0.01, 1.01), xlabel=f'probability: {len(samples)} samples and their mean')
    axes.grid(axis='x', alpha=0.3)
    axes.set_title(title, fontsize='medium')


def draw_metrics(
    folder: Path, *, monte_carlo: RecognitionMetrics, single_pass: RecognitionMetrics
) -> tuple[Path, ...]:
    """Draw all pictures of an evaluation into a folder and return their paths."""
    figures: dict[str, Figure] = {}
    figure = figures['reliability.png'] = new_figure(width=9.6, height=5.2, columns=2)
    for axes, metrics, name in zip(
        figure.axes,
        (monte_carlo, single_pass),
        ('Monte Carlo dropout', 'Single pass'),
        strict=True,
    ):
        plot_reliability(
            axes, metrics.reliability, error=metrics.expected_calibration_error, title=name
        )
    share_legend(figure)
    figure = figures['risk_coverage.png'] = new_figure(width=6.4, height=4.6)
    plot_risk_coverage(
        figure.axes[0], {'Monte Carlo dropout': monte_carlo, 'single pass': single_pass}
    )
    size = 2.2 + 0.52 * len(monte_carlo.classes)
    figure = figures['confusion_matrix.png'] = new_figure(width=size + 0.6, height=size)
    plot_confusion(figure.axes[0], monte_carlo)
    if monte_carlo.samples is not None:
        figure = figures['sample_accuracies.png'] = new_figure(width=6.4, height=4.8)
        plot_sample_accuracies(
            figure.axes[0], monte_carlo.samples, single_pass=single_pass.accuracy
        )
        share_legend(figure)
    for file_name, figure in figures.items():
        save_figure(figure, folder / file_name)
    return tuple(folder / file_name for file_name in figures)


def draw_sequence(
    path: Path,
    *,
    landmarks: np.ndarray,
    frames: Sequence[str],
    samples: np.ndarray,
    classes: Sequence[str],
    label: str,
) -> None:
    """Draw one sequence's class distributions beside its landmarks (PST-BLN, figure 3).

    landmarks: (n, 68, 2) or (n, 51, 2) at a few frames, named by `frames`; samples: (S, C).
    """
    figure = Figure(figsize=(12, 0.9 + 0.42 * max(6, len(classes))), dpi=RESOLUTION,
                    layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, len(landmarks) + 1, width_ratios=[1.0] * len(landmarks) + [2.2])
    low, high = landmarks.min((0, 1)), landmarks.max((0, 1))
    for index, (points, name) in enumerate(zip(landmarks, frames, strict=True)):
        axes = figure.add_subplot(grid[0, index])
        plot_face(axes, points, title=name)
        margin = 0.05 * (high - low).max()
        axes.set_xlim(low[0] - margin, high[0] + margin)
        axes.set_ylim(high[1] + margin, low[1] - margin)  # y downwards
    mean = samples.mean(0)
    answer = classes[int(mean.argmax())]
    plot_class_distributions(
        figure.add_subplot(grid[0, -1]), samples, classes=classes, label=label,
        title=f'label ▶ {label}, answer {answer} ({_percent(mean.max())})',
    )
    save_figure(figure, path)


def _histogram_edges(accuracies: np.ndarray) -> list[float]:
    """Put edges between the values that occur: of M answers, accuracies are multiples of 1 / M."""
    values = np.unique(np.round(accuracies, 9))
    step = float(np.diff(values).min()) if len(values) > 1 else 0.01
    steps = round((values[-1] - values[0]) / step) + 1
    width = step * -(-steps // 20)  # at most 20 bins
    count = -(-steps * step // width)
    return (values[0] - step / 2 + width * np.arange(round(count) + 1)).tolist()


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def _percent_axis(decimals: int | None = None) -> PercentFormatter:
    return PercentFormatter(1.0, decimals=decimals, symbol=' %')


def _percent(share: float) -> str:
    return f'{100 * share:.1f} %'
