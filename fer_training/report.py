# SPDX-License-Identifier: Apache-2.0
"""The report of cross-validations: a table for each data set, its pictures and commands."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from fer_perception.evaluation.figures import (
    new_figure,
    plot_accuracies,
    plot_reliability,
    plot_runs,
    save_figure,
    share_legend,
)
from fer_perception.evaluation.metrics import expected_calibration_error, pool_reliability
from fer_training.image_predictions import abaw_score
from fer_training.results import CrossvalResult

HEADER = (
    '| network | accuracy, all samples (%) | accuracy, single pass (%) | parameters without U '
    '| with U | macro F1 | 0.67 F1 + 0.33 accuracy | ECE | NLL | AURC | error AUROC | samples '
    '| seeds |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n'
)
EXPLANATION = """Mean ± standard deviation over the seeds; each run's clips of all folds are pooled
before anything is computed. Accuracy and the scores after it are of the mean probabilities of all
samples (Monte Carlo dropout masks, times the members of an ensemble), "single pass" is the same
network without dropout. 0.67 F1 + 0.33 accuracy is the score of ABAW's challenge. ECE: expected
calibration error, 15 bins. NLL: negative log-likelihood in nats. AURC: area under the
risk-coverage curve. Error AUROC: how well the predictive entropy tells wrong from right answers.
For ECE, NLL and AURC lower is better.
"""


@dataclass(frozen=True, kw_only=True)
class NetworkRuns:
    """Hold the runs of one network on one data set, one for each seed, in their order."""

    name: str
    runs: tuple[CrossvalResult, ...]


@dataclass(frozen=True, kw_only=True)
class DataRuns:
    """Hold the networks that were compared on one data set with the same folds."""

    data: str
    folds: str
    networks: tuple[NetworkRuns, ...]


def group_results(results: Sequence[CrossvalResult]) -> tuple[DataRuns, ...]:
    """Group results by data set and folds, then by network, in the order of appearance.

    Raises ValueError if a network has the same seed twice, or results that are compared differ
    in their classes or number of clips.
    """
    grouped: dict[tuple[str, str], dict[str, list[CrossvalResult]]] = {}
    for result in results:
        networks = grouped.setdefault((result.data, result.folds), {})
        networks.setdefault(result.name, []).append(result)
    groups = []
    for (data, folds), networks in grouped.items():
        every = [result for runs in networks.values() for result in runs]
        if len({(run.classes, run.monte_carlo.count) for run in every}) > 1:
            raise ValueError(
                f'results on {data} (folds: {folds}) cannot be compared: their classes or clips '
                'differ'
            )
        for name, runs in networks.items():
            seeds = Counter(run.seed for run in runs)
            if twice := [str(seed) for seed, count in seeds.items() if count > 1]:
                raise ValueError(
                    f'several results of {name} on {data} have the seed {", ".join(twice)}; '
                    'give each result once, and another name to another network'
                )
        groups.append(
            DataRuns(
                data=data,
                folds=folds,
                networks=tuple(
                    NetworkRuns(name=name, runs=tuple(sorted(runs, key=lambda run: run.seed)))
                    for name, runs in networks.items()
                ),
            )
        )
    return tuple(groups)


def write_report(path: Path, results: Sequence[CrossvalResult]) -> tuple[Path, ...]:
    """Write a Markdown file with its pictures beside it; return the paths of all files.

    Raises ValueError for an empty list or results that cannot be compared.
    """
    groups = group_results(results)
    if not groups:
        raise ValueError('there are no results to report')
    path.parent.mkdir(parents=True, exist_ok=True)
    text = ['# Results\n']
    pictures: list[Path] = []
    for number, group in enumerate(groups, start=1):
        prefix = f'{path.stem}_{number}_{Path(group.data).stem}'
        own = _draw_group(path.parent, prefix, group)
        pictures.extend(own)
        text.append(_section(group, own))
    path.write_text('\n'.join(text))
    return (path, *pictures)


def _section(group: DataRuns, pictures: Sequence[Path]) -> str:
    first = group.networks[0].runs[0]
    lines = [
        f'## {group.data}, folds: {group.folds}\n',
        f'{first.monte_carlo.count} clips, {len(first.classes)} classes '
        f'({", ".join(first.classes)}), {len(first.per_fold)} folds.\n',
        HEADER + '\n'.join(_row(network) for network in group.networks) + '\n',
        EXPLANATION,
    ]
    titles = ('Accuracy', 'Accuracies of single samples and their ensembles', 'Reliability')
    lines += [
        f'![{title} on {group.data}]({picture.name})\n'
        for title, picture in zip(titles, pictures, strict=True)
    ]
    if grown := [line for network in group.networks if (line := _topologies(network))]:
        lines.append('Channels of the layers, where they are not the same in every fold:\n')
        lines.append('\n'.join(grown) + '\n')
    commands = dict.fromkeys(run.command for network in group.networks for run in network.runs)
    lines.append('Made by:\n\n```sh\n' + '\n'.join(commands) + '\n```\n')
    return '\n'.join(lines)


def _row(network: NetworkRuns) -> str:
    def column(value: Callable[[CrossvalResult], float | None], form: str) -> str:
        return _spread([value(run) for run in network.runs], form)

    cells = (
        network.name.replace('|', '\\|'),
        column(lambda run: 100 * run.monte_carlo.accuracy, '.2f'),
        column(lambda run: 100 * run.single_pass.accuracy, '.2f'),
        f'{mean(run.parameters_without_topology for run in network.runs):,.0f}',
        f'{mean(run.parameters_with_topology for run in network.runs):,.0f}',
        column(lambda run: run.monte_carlo.macro_f1, '.3f'),
        column(lambda run: abaw_score(run.monte_carlo), '.3f'),
        column(lambda run: run.monte_carlo.expected_calibration_error, '.3f'),
        column(lambda run: run.monte_carlo.negative_log_likelihood, '.3f'),
        column(lambda run: run.monte_carlo.area_under_risk_coverage, '.4f'),
        column(lambda run: run.monte_carlo.error_detection_auroc.predictive_entropy, '.3f'),
        ' or '.join(map(str, sorted({_sample_count(run) for run in network.runs}))),
        str(len(network.runs)),
    )
    return f'| {" | ".join(cells)} |'


def _spread(values: Sequence[float | None], form: str) -> str:
    """Write mean ± standard deviation (divisor n - 1) of the values that are defined."""
    known = [value for value in values if value is not None]
    if not known:
        return 'none wrong'
    spread = f' ± {stdev(known):{form}}' if len(known) > 1 else ''
    return f'{mean(known):{form}}{spread}'


def _topologies(network: NetworkRuns) -> str:
    counts = Counter(fold.topology for run in network.runs for fold in run.per_fold)
    if len(counts) < 2:
        return ''
    listed = ', '.join(
        f'{"-".join(map(str, topology))}' + (f' ({count} times)' if count > 1 else '')
        for topology, count in counts.most_common()
    )
    return f'- {network.name}: {listed}'


def _draw_group(folder: Path, prefix: str, group: DataRuns) -> tuple[Path, ...]:
    names = [network.name for network in group.networks]
    single_pass = [
        [run.single_pass.accuracy for run in network.runs] for network in group.networks
    ]
    paths = tuple(
        folder / f'{prefix}_{what}.png' for what in ('accuracy', 'samples', 'reliability')
    )
    figure = new_figure(width=max(5.0, 2.0 + 1.4 * len(names)), height=4.8)
    plot_accuracies(
        figure.axes[0],
        names=names,
        monte_carlo=[[run.monte_carlo.accuracy for run in net.runs] for net in group.networks],
        single_pass=single_pass,
        title=f'Accuracy on {group.data}',
    )
    share_legend(figure)
    save_figure(figure, paths[0])

    rows = sum(len(network.runs) + 1 for network in group.networks)
    figure = new_figure(width=8.0, height=1.8 + 0.28 * rows)
    plot_runs(
        figure.axes[0],
        names=names,
        samples=[
            [run.monte_carlo.samples for run in net.runs if run.monte_carlo.samples is not None]
            for net in group.networks
        ],
        single_pass=single_pass,
        title=f'Accuracy of single Monte Carlo samples on {group.data}',
    )
    share_legend(figure)
    save_figure(figure, paths[1])

    columns = min(3, len(names))
    figure_rows = -(-len(names) // columns)
    figure = new_figure(
        width=max(6.0, 3.8 * columns), height=0.5 + 4.0 * figure_rows, rows=figure_rows,
        columns=columns,
    )
    for axes, network in zip(figure.axes, group.networks, strict=False):
        bins = pool_reliability([run.monte_carlo.reliability for run in network.runs])
        plot_reliability(
            axes, bins, error=expected_calibration_error(bins), title=network.name
        )
    for axes in figure.axes[len(names) :]:
        axes.set_axis_off()
    share_legend(figure)
    save_figure(figure, paths[2])
    return paths


def _sample_count(result: CrossvalResult) -> int:
    samples = result.monte_carlo.samples
    return 0 if samples is None else len(samples.accuracies)
