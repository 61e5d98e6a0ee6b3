# SPDX-License-Identifier: Apache-2.0
"""A picture of how a network grew."""

from collections.abc import Sequence
from pathlib import Path

from fer_perception.evaluation.figures import new_figure, save_figure, share_legend
from fer_training.growth import GrowthStep

KEPT, REMOVED = '#1f77b4', '#d62728'


def plot_growth(steps: Sequence[GrowthStep], path: Path) -> None:
    """Draw the loss of every candidate with its topology, and what became of it.

    Raises ValueError without steps.
    """
    if not steps:
        raise ValueError('there are no steps of growth to draw')
    figure = new_figure(width=max(6.0, 0.55 * len(steps) + 2.0), height=4.8)
    axes = figure.axes[0]
    numbers = [step.step for step in steps]
    axes.plot(numbers, [step.loss for step in steps], color='0.75', zorder=1)
    for kept, colour, label in ((True, KEPT, 'kept'), (False, REMOVED, 'removed')):
        chosen = [step for step in steps if step.kept == kept]
        if chosen:
            axes.scatter(
                [step.step for step in chosen], [step.loss for step in chosen],
                color=colour, marker='o' if kept else 'x', label=f'block {label}', zorder=2,
            )
    for step in steps:
        if step.kind == 'layer' and step.step > 1:
            axes.axvline(step.step - 0.5, color='0.85', linewidth=1, zorder=0)
        if step.layer_kept is False:
            axes.annotate(
                'layer removed', (step.step, step.loss), xytext=(0, 12), ha='right',
                textcoords='offset points', color=REMOVED, fontsize=8,
            )
    axes.set_yscale('log')
    axes.set_xticks(numbers, [_topology(step) for step in steps], rotation=60, ha='right',
                    fontsize=8)
    axes.set_xlabel('candidate: channels of its layers')
    axes.set_ylabel('cross entropy (nats)')
    if any('accuracy' in step.validation for step in steps):
        scored = [step for step in steps if 'accuracy' in step.validation]
        right = axes.twinx()
        right.plot(
            [step.step for step in scored], [step.validation['accuracy'] for step in scored],
            color='#2ca02c', marker='.', label='validation accuracy',
        )
        right.set_ylabel('validation accuracy', color='#2ca02c')
    axes.set_title(f'growth to {_topology(steps[-1], accepted=True)}')
    share_legend(figure)
    save_figure(figure, path)


def _topology(step: GrowthStep, *, accepted: bool = False) -> str:
    return '-'.join(str(width) for width in (step.accepted if accepted else step.channels))
