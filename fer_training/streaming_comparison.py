# SPDX-License-Identifier: Apache-2.0
"""Streaming models side by side, each over its seeds."""

from collections.abc import Sequence

import numpy as np

from fer_training.streaming_scores import StreamingScores

COMPARISON_COLUMNS = (
    'lowest clip recall', 'clip macro F1', 'frame macro F1', 'coverage', 'CONFIDENT wrong', 'ECE',
    'NLL samples', 'NLL one pass', 'NLL samples, all frames', 'NLL one pass, all frames', 'AURC',
    'AUROC entropy', 'AUROC mutual information',
)


def compare_streaming(runs: Sequence[tuple[str, StreamingScores]]) -> str:
    """Make a Markdown table with a row for each name: mean ± deviation over its runs (seeds).

    Of a single run there is no deviation. Raises ValueError if there is no run.
    """
    if not runs:
        raise ValueError('there are no runs to compare')
    names = list(dict.fromkeys(name for name, _ in runs))
    sources = list(
        dict.fromkeys(
            item.source for _, scores in runs for item in scores.false_alarms
            if item.kind == 'all'
        )
    )
    columns = (*COMPARISON_COLUMNS, *(f'false alarms, {source}' for source in sources), 'seeds')
    rows = []
    for name in names:
        own = [_comparison_row(scores, sources) for other, scores in runs if other == name]
        cells = [_mean_and_deviation(values) for values in zip(*own, strict=True)]
        rows.append(f'| {name} | ' + ' | '.join([*cells, str(len(own))]) + ' |')
    header = '| network | ' + ' | '.join(columns) + ' |\n|' + '---|' * (len(columns) + 1)
    return '\n'.join([header, *rows]) + '\n'


def _comparison_row(scores: StreamingScores, sources: Sequence[str]) -> list[float | None]:
    recalls = [item.recall for item in scores.clips.per_class if item.recall is not None]
    alarms = {item.source: item.wrong for item in scores.false_alarms if item.kind == 'all'}
    detection = scores.frames.error_detection_auroc
    return [
        min(recalls),
        scores.clips.macro_f1,
        scores.frames.macro_f1,
        scores.selective_frames.coverage,
        scores.selective_frames.risk,
        scores.frames.expected_calibration_error,
        scores.likelihoods.calibrated_monte_carlo,
        scores.likelihoods.calibrated_single_pass,
        scores.likelihoods_of_everything.calibrated_monte_carlo,
        scores.likelihoods_of_everything.calibrated_single_pass,
        scores.frames.area_under_risk_coverage,
        detection.predictive_entropy,
        detection.mutual_information,
        *(alarms.get(source) for source in sources),
    ]


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return '-'
    mean = f'{np.mean(known):.3f}'
    return mean if len(known) == 1 else f'{mean} ± {np.std(known, ddof=1):.3f}'
