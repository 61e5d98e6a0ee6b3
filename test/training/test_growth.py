# SPDX-License-Identifier: Apache-2.0
"""Growth: stops by its thresholds, goes on after a kill, never returns the rejected net."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clips_made import CLIP_CLASSES, easy_clips

from fer_perception.graph.edges import load_edge_list
from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_training import growth
from fer_training.carry_over import carry_over
from fer_training.dataset import TrainingSet
from fer_training.fitting import EpochRecord, FitConfig, fit, measure_loss
from fer_training.growth import (
    CHECKPOINT_FILE,
    HISTORY_FILE,
    GrowthConfig,
    GrowthFolderError,
    GrowthResult,
    GrowthStep,
    grow,
)
from fer_training.growth_plot import plot_growth
from fer_training.inputs import NetworkInput
from fer_training.topology_search import GrowthLimits

TEMPLATE = PstBlnConfig(
    channels=(2,), classes=len(CLIP_CLASSES), edges=181, kernel_size=3, padding='same',
    input_norm=True,
)
INPUT = NetworkInput(edges=torch.from_numpy(load_edge_list()))
CONFIG = GrowthConfig(
    limits=GrowthLimits(
        block_size=2, block_threshold=0.2, layer_threshold=0.2, max_blocks=3, max_layers=3
    ),
    step=FitConfig(epochs=6, batch_size=4),
    final=FitConfig(epochs=2, batch_size=4),
)


class Killed(Exception):
    """Stands for the end of the process at some moment."""


def silent(_: str) -> None:
    """Take a log line and say nothing."""


def data() -> TrainingSet:
    return TrainingSet.of_clips(easy_clips())


def grown(
    folder: Path,
    *,
    config: GrowthConfig = CONFIG,
    on_epoch: Callable[[int, EpochRecord], None] | None = None,
    on_step: Callable[[GrowthStep], None] | None = None,
    judging_data: TrainingSet | None = None,
    evaluate: Callable[[PstBln], dict[str, float]] | None = None,
) -> GrowthResult:
    return grow(
        TEMPLATE, data(), network_input=INPUT, config=config, folder=folder, on_epoch=on_epoch,
        on_step=on_step, judging_data=judging_data, evaluate=evaluate, progress=False, log=silent,
    )


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GrowthResult]:
    folder = tmp_path_factory.mktemp('growth')
    return folder, grown(folder)


def test_growth_learns_and_every_step_obeys_the_rule(
    unbroken: tuple[Path, GrowthResult],
) -> None:
    _, result = unbroken
    assert result.loss < 0.2
    assert len(result.steps) >= 3
    for before, step in zip(result.steps, result.steps[1:], strict=False):
        if step.kind == 'block':
            assert step.improvement is not None
            assert step.kept == (step.improvement >= CONFIG.limits.block_threshold)
        assert sum(step.channels) == sum(before.accepted) + CONFIG.limits.block_size
    if result.steps[-1].layer_kept is False:
        improvement = result.steps[-1].layer_improvement
        assert improvement is not None and improvement < CONFIG.limits.layer_threshold


def test_the_accepted_network_is_returned_never_the_rejected_one(
    unbroken: tuple[Path, GrowthResult],
) -> None:
    _, result = unbroken
    accepted = result.steps[-1].accepted
    assert result.network.config.channels == accepted
    assert not result.network.training
    assert accepted not in [step.channels for step in result.steps if not step.kept]
    loss = measure_loss(result.network, data(), network_input=INPUT, config=CONFIG.step)
    assert loss == pytest.approx(result.loss)


def test_only_the_weights_that_are_needed_stay_on_the_disk(
    unbroken: tuple[Path, GrowthResult],
) -> None:
    folder, result = unbroken
    kept = [step for step in result.steps if step.kept and step.channels == step.accepted]
    files = {path.name for path in folder.glob('*.safetensors')}
    assert f'step_{kept[-1].step:03d}.safetensors' in files or len(files) == 1
    assert 1 <= len(files) <= 2
    history = json.loads((folder / HISTORY_FILE).read_text())
    assert [step['channels'] for step in history['steps']] == [
        list(step.channels) for step in result.steps
    ]


def test_a_candidate_inherits_the_accepted_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inherited: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    def watched(smaller: PstBln, larger: PstBln) -> None:
        inherited.append((smaller.config.channels, larger.config.channels))
        carry_over(smaller, larger)

    monkeypatch.setattr(growth, 'carry_over', watched)
    result = grown(tmp_path)
    before = [step.accepted for step in result.steps[:-1]]
    assert inherited == list(zip(before, [s.channels for s in result.steps[1:]], strict=True))


@pytest.mark.parametrize('moment', ['epoch 2 of step 1', 'after step 2', 'epoch 1 of step 3',
                                    'after the last step', 'final epoch'])
def test_growth_goes_on_after_a_kill_and_ends_the_same(
    unbroken: tuple[Path, GrowthResult], tmp_path: Path, moment: str
) -> None:
    _, expected = unbroken
    last = len(expected.steps)

    def on_epoch(step: int, record: EpochRecord) -> None:
        if (moment == 'epoch 2 of step 1' and (step, record.epoch) == (1, 2)) or (
            moment == 'epoch 1 of step 3' and (step, record.epoch) == (3, 1)
        ) or (moment == 'final epoch' and step > last):
            raise Killed

    def on_step(step: GrowthStep) -> None:
        if (moment == 'after step 2' and step.step == 2) or (
            moment == 'after the last step' and step.step == last
        ):
            raise Killed

    with pytest.raises(Killed):
        grown(tmp_path, on_epoch=on_epoch, on_step=on_step)
    resumed = grown(tmp_path)
    assert [step.channels for step in resumed.steps] == [s.channels for s in expected.steps]
    assert resumed.network.config == expected.network.config
    for name, tensor in expected.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[name], tensor)


def test_growth_can_be_judged_by_validation_and_evaluates_kept_steps(tmp_path: Path) -> None:
    others = TrainingSet.of_clips(easy_clips(12, seed=500))
    result = grown(
        tmp_path, judging_data=others, evaluate=lambda network: {'accuracy': 0.5}
    )
    loss = measure_loss(result.network, others, network_input=INPUT, config=CONFIG.step)
    assert loss == pytest.approx(result.loss)
    assert all(
        step.validation == ({'accuracy': 0.5} if step.kept else {}) for step in result.steps
    )
    plot_growth(result.steps, tmp_path / 'growth.png')
    assert (tmp_path / 'growth.png').read_bytes().startswith(b'\x89PNG')


def test_strided_layers_and_an_initial_topology_are_built(tmp_path: Path) -> None:
    config = replace(
        CONFIG, final=None, strided_layers=(1,), initial_channels=(2, 2),
        limits=GrowthLimits(block_size=2, block_threshold=0.99, layer_threshold=0.99),
    )
    result = grown(tmp_path, config=config)
    assert result.steps[0].channels == (2, 2)
    assert result.network.config.strides == (1, 2)


def test_the_final_epochs_may_begin_with_fresh_weights_in_the_grown_topology(
    unbroken: tuple[Path, GrowthResult], tmp_path: Path
) -> None:
    folder, expected = unbroken
    shutil.copytree(folder, tmp_path / 'again')
    fresh = grown(tmp_path / 'again', config=replace(CONFIG, final_start='fresh'))
    assert fresh.steps == expected.steps  # none was made anew
    assert fresh.network.config == expected.network.config
    assert not torch.equal(fresh.network.head.weight, expected.network.head.weight)
    assert CONFIG.final is not None
    torch.manual_seed(CONFIG.final.seed)
    alone = PstBln(fresh.network.config, quiet=True)
    fit(alone, data(), network_input=INPUT, config=CONFIG.final, progress=False, log=silent)
    assert torch.equal(fresh.network.head.weight, alone.head.weight)
    with pytest.raises(ValueError, match='final_start'):
        replace(CONFIG, final_start='stale')


def test_a_folder_of_another_growth_is_left_alone(tmp_path: Path) -> None:
    short = replace(CONFIG, final=None, limits=GrowthLimits(block_size=2, max_blocks=1,
                                                            max_layers=1))
    grown(tmp_path, config=short)
    before = (tmp_path / HISTORY_FILE).read_text()
    with pytest.raises(GrowthFolderError, match='another growth'):
        grown(tmp_path)
    assert (tmp_path / HISTORY_FILE).read_text() == before
    (tmp_path / HISTORY_FILE).write_text('[]')
    with pytest.raises(GrowthFolderError, match='no history'):
        grown(tmp_path, config=short)
    (tmp_path / HISTORY_FILE).write_text(before)
    next(tmp_path.glob('step_*.safetensors')).write_bytes(b'broken')
    with pytest.raises(GrowthFolderError, match='step_001'):
        grown(tmp_path, config=short)


def test_a_finished_growth_leaves_no_checkpoint(unbroken: tuple[Path, GrowthResult]) -> None:
    assert not (unbroken[0] / CHECKPOINT_FILE).exists()
