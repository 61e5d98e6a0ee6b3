# SPDX-License-Identifier: Apache-2.0
"""Progressive growth of a PST-BLN (III-C): candidates are fitted one after the other.

In the folder of a growth lie history.json (settings and every step), the weights that the next
step needs (step_NNN.safetensors), and while a step runs its checkpoint. An interrupted growth
goes on at the epoch it was in, and ends with the same topology as an unbroken one.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_training.carry_over import carry_over
from fer_training.dataset import TrainingSet
from fer_training.fitting import EpochRecord, FitConfig, fit, measure_loss
from fer_training.inputs import NetworkInput
from fer_training.topology_search import GrowthLimits, TopologySearch

HISTORY_FILE = 'history.json'
CHECKPOINT_FILE = 'step.checkpoint'
FINAL_STARTS = ('grown', 'fresh')


class GrowthFolderError(ValueError):
    """Say why a growth cannot go on in a folder."""


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """Set how a network grows."""

    limits: GrowthLimits = GrowthLimits()
    step: FitConfig = FitConfig(epochs=400)  # of each candidate
    final: FitConfig | None = None  # of all parameters at the end; None: no further epochs
    final_start: str = FINAL_STARTS[0]  # 'grown' weights (the paper), or 'fresh' random ones
    strided_layers: tuple[int, ...] = ()  # layers, from 0, of stride 2; the reference: 4 and 7
    initial_channels: tuple[int, ...] = ()  # where growth begins; empty: with one block

    def __post_init__(self) -> None:
        """Refuse an unknown start."""
        if self.final_start not in FINAL_STARTS:
            raise ValueError(
                f'final_start must be {" or ".join(FINAL_STARTS)}, not {self.final_start!r}'
            )


@dataclass(frozen=True, kw_only=True)
class GrowthStep:
    """Record one step of growth."""

    step: int  # counted from 1
    kind: str  # 'layer' or 'block': what the candidate added
    channels: tuple[int, ...]  # of the candidate
    loss: float  # that it was judged by, nats
    improvement: float | None  # relative drop by a block
    kept: bool
    layer_improvement: float | None  # relative drop by the layer, when it is complete
    layer_kept: bool | None
    accepted: tuple[int, ...]  # the topology after the step
    epochs: int
    seconds: float
    validation: Mapping[str, float] = field(default_factory=dict)  # of a kept candidate


@dataclass(frozen=True, kw_only=True)
class GrowthResult:
    """Hold the network that growth arrived at, and how."""

    network: PstBln  # in evaluation mode, of the accepted topology
    steps: tuple[GrowthStep, ...]
    loss: float  # of the network on the judging data, nats


def grow(
    template: PstBlnConfig,
    data: TrainingSet,
    *,
    network_input: NetworkInput,
    config: GrowthConfig,
    folder: Path,
    judging_data: TrainingSet | None = None,
    evaluate: Callable[[PstBln], Mapping[str, float]] | None = None,
    on_epoch: Callable[[int, EpochRecord], None] | None = None,
    on_step: Callable[[GrowthStep], None] | None = None,
    progress: bool = True,
    log: Callable[[str], None] = print,
) -> GrowthResult:
    """Grow a network by the paper's rule; the same seed gives the same network.

    `template` sets all but the channels and strides. A candidate inherits every tensor of the
    accepted network and is fitted as `config.step` says; its cross entropy on the training data,
    or on `judging_data` if given, is what the rule judges. `evaluate` runs once for every kept
    candidate. Raises GrowthFolderError if the folder holds a growth of other settings, and
    ValueError if the first candidate has no finite loss.
    """
    folder.mkdir(parents=True, exist_ok=True)
    history = _History(folder, _settings(template, data, config))
    search = TopologySearch(config.limits, initial=config.initial_channels)
    networks = _Networks(folder, lambda channels: _build(template, channels, config))
    if history.steps:
        log(f'going on after step {len(history.steps)} from {folder}')
    for step in history.steps:
        search.judge(step.loss)
        networks.record(step)
    networks.restore()
    judge_with = data if judging_data is None else judging_data

    while (candidate := search.candidate) is not None:
        number = len(history.steps) + 1
        fit_config = replace(config.step, seed=config.step.seed * 1_009 + number)
        network = networks.candidate(candidate, seed=fit_config.seed)
        started = time.monotonic()
        records = fit(
            network,
            data,
            network_input=network_input,
            config=fit_config,
            checkpoint=folder / CHECKPOINT_FILE,
            on_epoch=None if on_epoch is None else _numbered(on_epoch, number),
            progress=progress,
            log=_prefixed(log, f'step {number}'),
        )
        loss = measure_loss(network, judge_with, network_input=network_input, config=fit_config)
        if number == 1 and not math.isfinite(loss):
            raise ValueError(f'the first candidate {list(candidate)} has no finite loss: {loss}')
        verdict = search.judge(loss)
        step = GrowthStep(
            step=number,
            **asdict(verdict),
            accepted=search.accepted,
            epochs=len(records),
            seconds=time.monotonic() - started,
            validation=evaluate(network) if evaluate is not None and verdict.kept else {},
        )
        if verdict.kept:
            networks.keep(number, network)
        history.append(step)
        networks.record(step)
        networks.forget_rejected()
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
        log(describe_step(step))
        if on_step is not None:
            on_step(step)

    network = networks.accepted
    if config.final is not None:
        if config.final_start == 'fresh':
            torch.manual_seed(config.final.seed)
            network = _build(template, network.config.channels, config)
        fit(
            network,
            data,
            network_input=network_input,
            config=config.final,
            checkpoint=folder / f'final_{config.final_start}.checkpoint',
            on_epoch=None if on_epoch is None else _numbered(on_epoch, len(history.steps) + 1),
            progress=progress,
            log=_prefixed(log, 'final'),
        )
    loss = measure_loss(network, judge_with, network_input=network_input, config=config.step)
    return GrowthResult(network=network.eval(), steps=tuple(history.steps), loss=loss)


def describe_step(step: GrowthStep) -> str:
    """Say in one line what a step tried and what became of it."""
    text = f'step {step.step}: {list(step.channels)} loss {step.loss:.5f}'
    if step.improvement is not None:
        text += f', {step.improvement:+.2%} by the block: {"kept" if step.kept else "removed"}'
    if step.layer_improvement is not None:
        text += f'; {step.layer_improvement:+.2%} by the layer: ' + (
            'kept' if step.layer_kept else 'removed, growth ends'
        )
    return text + ''.join(f', {name} {value:.4f}' for name, value in step.validation.items())


class _Networks:
    """The accepted network and the one without the layer that is growing, in memory and on disk.

    Both are known by the number of the step that made them; a rejected network is known to
    neither and is gone with its step.
    """

    def __init__(self, folder: Path, build: Callable[[tuple[int, ...]], PstBln]) -> None:
        self._folder = folder
        self._build = build
        self._accepted_step = self._below_step = 0
        self._channels: dict[int, tuple[int, ...]] = {}
        self._loaded: dict[int, PstBln] = {}

    @property
    def accepted(self) -> PstBln:
        return self._loaded[self._accepted_step]

    def candidate(self, channels: tuple[int, ...], *, seed: int) -> PstBln:
        """Build a candidate that inherits all from the accepted network."""
        torch.manual_seed(seed)
        network = self._build(channels)
        if self._accepted_step:
            carry_over(self.accepted.cpu(), network)
        return network

    def keep(self, number: int, network: PstBln) -> None:
        """Write the weights of a step, before the history speaks of them."""
        self._loaded[number] = network
        path = self._path(number)
        temporary = path.with_suffix('.part')
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()},
            temporary,
        )
        temporary.replace(path)

    def record(self, step: GrowthStep) -> None:
        """Follow the verdict of a step."""
        if step.kept:
            self._accepted_step = step.step
            self._channels[step.step] = step.channels
        if step.layer_kept:
            self._below_step = self._accepted_step
        elif step.layer_kept is False:
            self._accepted_step = self._below_step

    def restore(self) -> None:
        """Read the weights that an interrupted growth goes on from."""
        for number in {self._accepted_step, self._below_step} - {0}:
            network = self._build(self._channels[number])
            try:
                network.load_state_dict(load_file(self._path(number)))
            except (OSError, RuntimeError, SafetensorError) as error:
                raise GrowthFolderError(
                    f'{self._path(number)} does not hold the weights of step {number}: {error}'
                ) from error
            self._loaded[number] = network

    def forget_rejected(self) -> None:
        """Remove the weights that no later step can need."""
        needed = {self._accepted_step, self._below_step}
        self._loaded = {n: network for n, network in self._loaded.items() if n in needed}
        for path in self._folder.glob('step_*.safetensors'):
            if path not in {self._path(number) for number in needed}:
                path.unlink()

    def _path(self, number: int) -> Path:
        return self._folder / f'step_{number:03d}.safetensors'


class _History:
    """The steps so far, in history.json."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._path = folder / HISTORY_FILE
        self._settings = json.loads(json.dumps(settings))
        self.steps: list[GrowthStep] = []
        if self._path.is_file():
            self._read()

    def append(self, step: GrowthStep) -> None:
        self.steps.append(step)
        temporary = self._path.with_suffix('.part')
        content = {'settings': self._settings, 'steps': [asdict(item) for item in self.steps]}
        temporary.write_text(json.dumps(content, indent=1) + '\n', 'utf-8')
        temporary.replace(self._path)

    def _read(self) -> None:
        try:
            content = json.loads(self._path.read_text('utf-8'))
            settings, steps = content['settings'], content['steps']
        except (ValueError, KeyError, TypeError) as error:
            raise GrowthFolderError(f'{self._path} is no history of a growth: {error}') from error
        if settings != self._settings:
            changed = [
                name for name in self._settings if settings.get(name) != self._settings[name]
            ]
            raise GrowthFolderError(
                f'{self._path} is of a growth with another {", ".join(changed)}: '
                'choose another folder, or remove this one to grow anew'
            )
        self.steps = [read_step(step) for step in steps]


def read_step(values: dict[str, Any]) -> GrowthStep:
    """Read a step as history.json holds it."""
    tuples = {name: tuple(values[name]) for name in ('channels', 'accepted')}
    return GrowthStep(**{**values, **tuples})


def _build(template: PstBlnConfig, channels: tuple[int, ...], config: GrowthConfig) -> PstBln:
    strides = tuple(2 if layer in config.strided_layers else 1 for layer in range(len(channels)))
    return PstBln(replace(template, channels=channels, strides=strides), quiet=True)


def _settings(
    template: PstBlnConfig, data: TrainingSet, config: GrowthConfig
) -> dict[str, Any]:
    network = {
        name: value
        for name, value in asdict(template).items()
        if name not in ('channels', 'strides')
    }
    # What comes after the last step changes no step.
    growth = {
        name: value
        for name, value in asdict(config).items()
        if name not in ('final', 'final_start')
    }
    return {'network': network, 'growth': growth, 'features': list(data.features.shape)}


def _numbered(
    on_epoch: Callable[[int, EpochRecord], None], number: int
) -> Callable[[EpochRecord], None]:
    return lambda record: on_epoch(number, record)


def _prefixed(log: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda line: log(f'{prefix}: {line}')
