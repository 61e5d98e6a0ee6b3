# SPDX-License-Identifier: Apache-2.0
"""What the papers of image recognisers report besides: members alone, equation 3, landmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_training.image_predictions import abaw_score
from fer_training.results import CrossvalResult


@dataclass(frozen=True, kw_only=True)
class ImageRun:
    """Hold one cross-validation with what only image recognisers have."""

    result: CrossvalResult
    member_accuracies: dict[str, float]
    localization: dict[str, dict[str, float]]  # see ImageFit; empty where there is none


def write_image_report(path: Path, runs: Sequence[ImageRun]) -> None:
    """Write the tables as Markdown."""
    lines = [
        '# Members of the networks\n',
        'Accuracy of all samples together, of one plain pass and of each member alone in it (of '
        'single images where the network reads such); macro F1; and 0.67 F1 + 0.33 accuracy, the '
        "metric of ABAW's challenge (equation 3 of the ensemble's paper).\n",
        '| network | data | seed | accuracy (%) | one pass (%) | macro F1 | 0.67 F1 + 0.33 '
        'accuracy | each member alone (%) |',
        '|---|---|---|---|---|---|---|---|',
        *(_row(run) for run in runs),
    ]
    located = [run for run in runs if run.localization]
    if located:
        lines += [
            '',
            '# Landmarks\n',
            "Mean absolute difference between dlib's landmarks and where a sub-network located "
            'them, in % of the side of the crop: after it learned to, and after it was fine-tuned '
            'to tell expressions, its localisation head left as it was.\n',
            '| network | seed | sub-network | before | after |',
            '|---|---|---|---|---|',
            *(line for run in located for line in _localization(run)),
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n', 'utf-8')


def _row(run: ImageRun) -> str:
    result = run.result
    members = ', '.join(
        f'{member} {100 * accuracy:.2f}' for member, accuracy in run.member_accuracies.items()
    )
    cells = (
        result.name.replace('|', '\\|'),
        result.data,
        str(result.seed),
        f'{100 * result.monte_carlo.accuracy:.2f}',
        f'{100 * result.single_pass.accuracy:.2f}',
        f'{result.monte_carlo.macro_f1:.4f}',
        f'{abaw_score(result.monte_carlo):.4f}',
        members,
    )
    return f'| {" | ".join(cells)} |'


def _localization(run: ImageRun) -> list[str]:
    return [
        f'| {run.result.name} | {run.result.seed} | {part} | '
        + ' | '.join(f'{100 * errors[moment]:.2f}' for moment in ('before', 'after'))
        + ' |'
        for part, errors in run.localization.items()
    ]
