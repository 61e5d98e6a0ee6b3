# SPDX-License-Identifier: Apache-2.0
"""Fitting of image recognisers, stage by stage; see image_stages.py for what the stages are."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from fer_perception.models.image_network import ImageNetwork
from fer_training.fitting import read_checkpoint, write_checkpoint
from fer_training.image_dataset import FaceImages, ImageAugmentation, ImageItems
from fer_training.image_recipes import ImageFitConfig
from fer_training.image_stages import ImageStage, StageLoss, stages_of


class ImageData(NamedTuple):
    """Join a reader of images with some of its items."""

    images: FaceImages
    items: ImageItems


@dataclass(frozen=True, kw_only=True)
class StageEpoch:
    """Say how one epoch of a stage went."""

    stage: str
    epoch: int  # of the stage, counted from 1
    loss: float  # mean of the training items, with dropout and augmentation
    accuracy: float | None  # share of the targets that were right; None of landmarks
    validation_loss: float | None  # without either; None without validation data
    learning_rate: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ImageFit:
    """Hold how a fit went."""

    epochs: tuple[StageEpoch, ...]  # of all stages, in their order
    # Mean absolute difference between landmarks and where they were located, in sides of the
    # crop, by sub-network and when: after the stage that learns to, and after fine-tuning with
    # the same localisation head (part-based ensemble, IV-B). Of the validation items if there
    # are any.
    localization: dict[str, dict[str, float]]


def fit_images(
    network: ImageNetwork,
    training: ImageData,
    *,
    config: ImageFitConfig,
    augmentation: ImageAugmentation,
    validation: ImageData | None = None,
    checkpoint: Path | None = None,
    origin: str = '',
    progress: bool = True,
    log: Callable[[str], None] = print,
) -> ImageFit:
    """Fit a network in place; the same seed and first weights give the same network.

    With a `checkpoint` path the state is kept there after every epoch, and an interrupted fit
    with the same settings goes on from it; it is the caller's to remove. `origin` names first
    weights that are not the seed's own. A stage with patience ends when the validation loss has
    been saturated for so long, and its best weights are kept. Leaves the network in evaluation
    mode on the device of the configuration. Raises ValueError for patience without validation.
    """
    if config.patience and validation is None:
        raise ValueError(
            'a stage that ends when the validation loss is saturated needs validation data; or '
            'set patience to 0'
        )
    device = torch.device(config.device)
    network.to(device)
    stages = stages_of(network, config)
    settings = {
        'fit': asdict(config),
        'augmentation': asdict(augmentation),
        'normalization': asdict(training.images.normalization),
        'share': training.images.share,
        'network': {name: list(value.shape) for name, value in network.state_dict().items()},
        'items': len(training.items),
        'origin': origin,
    }
    run = _Run(network, training, validation, config, augmentation, progress, log)
    state = _resume(checkpoint, settings, log)
    records = [StageEpoch(**item) for item in state['records']] if state else []
    localization: dict[str, dict[str, float]] = state['localization'] if state else {}
    if state:
        network.load_state_dict(state['network'])
    first = state['stage'] if state else 0
    for number in range(first, len(stages)):
        stage = stages[number]
        optimizer = _optimizer(stage, config)
        best: dict[str, Tensor] | None = None
        if state and number == first:
            optimizer.load_state_dict(state['optimizer'])
            best = state['best']
        own = [record for record in records if record.stage == stage.name]
        while len(own) < stage.epochs and not _is_saturated(own, config):
            record = run.epoch(stage, number, len(own) + 1, optimizer)
            if config.patience and record.validation_loss is not None and all(
                record.validation_loss < (earlier.validation_loss or 0.0) for earlier in own
            ):
                best = copy.deepcopy(stage.module.state_dict())
            own.append(record)
            records.append(record)
            log(_describe(record, stage.epochs))
            if checkpoint is not None:
                write_checkpoint(
                    checkpoint,
                    {
                        'settings': settings,
                        'stage': number,
                        'network': network.state_dict(),
                        'optimizer': optimizer.state_dict(),
                        'best': best,
                        'records': [asdict(item) for item in records],
                        'localization': localization,
                    },
                )
        if best is not None:
            stage.module.load_state_dict(best)
        if stage.localization is not None:
            error = run.measure(stage.module, stage.localization)
            localization.setdefault(stage.part, {})[stage.moment] = error
            log(f'{stage.part}: landmarks located to {error:.4f} of the crop {stage.moment}')
    network.eval()
    return ImageFit(epochs=tuple(records), localization=localization)


class _Run:
    """What all epochs of a fit share."""

    def __init__(
        self,
        network: ImageNetwork,
        training: ImageData,
        validation: ImageData | None,
        config: ImageFitConfig,
        augmentation: ImageAugmentation,
        progress: bool,
        log: Callable[[str], None],
    ) -> None:
        self._network = network
        self._training = training
        self._validation = validation
        self._config = config
        self._augmentation = augmentation
        self._progress = progress
        self._device = torch.device(config.device)

    def epoch(
        self, stage: ImageStage, number: int, epoch: int, optimizer: Optimizer
    ) -> StageEpoch:
        """Train one epoch of a stage, counted from 1."""
        config = self._config
        # Every epoch has its own seed, so that a resumed fit draws what an unbroken one draws.
        seed = (config.seed, number, epoch)
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        rate = learning_rate(config, stage, epoch)
        for group in optimizer.param_groups:
            group['lr'] = rate
        self._network.eval()
        stage.module.train()
        for module in stage.frozen:
            module.eval()
        batches = _Batches(self._training, config.batch_size, self._augmentation, seed)
        total = _Means()
        started = time.monotonic()
        bar = tqdm(
            DataLoader(batches, batch_size=None, num_workers=config.workers),
            desc=f'{stage.name} {epoch}/{stage.epochs}', unit='batch', leave=False,
            disable=not self._progress,
        )
        for batch in bar:
            found = self._loss(stage.loss, batch)
            optimizer.zero_grad()
            found.loss.backward()
            optimizer.step()
            total.add(found)
        return StageEpoch(
            stage=stage.name,
            epoch=epoch,
            loss=total.loss,
            accuracy=total.accuracy,
            validation_loss=self._validation_loss(stage),
            learning_rate=rate,
            seconds=time.monotonic() - started,
        )

    def measure(self, module: nn.Module, loss: Callable[..., StageLoss]) -> float:
        """Measure a loss without dropout and augmentation: on validation items, else training."""
        return self._measure(module, loss, self._validation or self._training)

    def _validation_loss(self, stage: ImageStage) -> float | None:
        if self._validation is None:
            return None
        return self._measure(stage.module, stage.loss, self._validation)

    @torch.no_grad()
    def _measure(
        self, module: nn.Module, loss: Callable[..., StageLoss], data: ImageData
    ) -> float:
        module.eval()
        batches = _Batches(data, self._config.batch_size, None, None)
        total = _Means()
        for batch in DataLoader(batches, batch_size=None, num_workers=self._config.workers):
            total.add(self._loss(loss, batch))
        return total.loss

    def _loss(
        self, loss: Callable[..., StageLoss], batch: tuple[Tensor, Tensor, Tensor]
    ) -> StageLoss:
        images, landmarks, targets = (item.to(self._device) for item in batch)
        precision = self._config.mixed_precision
        with torch.autocast(self._device.type, torch.bfloat16, enabled=precision):
            return loss(images, landmarks, targets)


class _Batches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches of items (images, landmarks, targets); with a seed shuffled and augmented.

    Every batch has draws of its own, so that it does not matter which process reads it.
    """

    def __init__(
        self,
        data: ImageData,
        size: int,
        augmentation: ImageAugmentation | None,
        seed: tuple[int, ...] | None,
    ) -> None:
        self._data = data
        self._augmentation = augmentation
        self._seed = seed
        order = np.arange(len(data.items))
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        # As even as can be: batch norm learns little from a last batch of one.
        self._chosen = np.array_split(order, -(-len(order) // size))

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if index >= len(self._chosen):
            raise IndexError(index)
        chosen = self._chosen[index]
        generator = None if self._seed is None else np.random.default_rng((*self._seed, index))
        batch = self._data.images.read(
            self._data.items.frames[chosen], augmentation=self._augmentation, generator=generator
        )
        targets = torch.from_numpy(self._data.items.targets[chosen])
        return batch.images, batch.landmarks, targets


class _Means:
    """Running means over the batches of an epoch."""

    def __init__(self) -> None:
        self._loss = self._right = 0.0
        self._weight = self._known = 0

    def add(self, found: StageLoss) -> None:
        self._loss += float(found.mean) * found.weight
        self._weight += found.weight
        self._right += found.right
        self._known += found.known

    @property
    def loss(self) -> float:
        return self._loss / max(self._weight, 1)

    @property
    def accuracy(self) -> float | None:
        return self._right / self._known if self._known else None


def learning_rate(config: ImageFitConfig, stage: ImageStage, epoch: int) -> float:
    """Return the rate of an epoch of a stage, counted from 1: lower after each of the steps."""
    drops = sum(epoch > after for after in config.drop_after_epochs)
    return stage.learning_rate * config.drop_factor**drops


def _optimizer(stage: ImageStage, config: ImageFitConfig) -> Optimizer:
    if config.optimizer == 'sgd':
        return torch.optim.SGD(
            stage.parameters,
            lr=stage.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
    return torch.optim.Adam(
        stage.parameters,
        lr=stage.learning_rate,
        betas=(0.9, 0.999),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


def _is_saturated(records: Sequence[StageEpoch], config: ImageFitConfig) -> bool:
    """Tell whether the last `patience` epochs of a stage brought no lower validation loss."""
    losses = [record.validation_loss for record in records]
    known = [loss for loss in losses if loss is not None]
    if not config.patience or len(known) <= config.patience:
        return False
    best_before = min(known[: -config.patience])
    return min(known[-config.patience :]) > best_before * (1.0 - config.patience_threshold)


def _describe(record: StageEpoch, epochs: int) -> str:
    parts = [f'{record.stage} {record.epoch}/{epochs}: loss {record.loss:.4f}']
    if record.accuracy is not None:
        parts.append(f'accuracy {record.accuracy:.3f}')
    if record.validation_loss is not None:
        parts.append(f'validation loss {record.validation_loss:.4f}')
    return ', '.join(parts)


def _resume(
    checkpoint: Path | None, settings: dict[str, Any], log: Callable[[str], None]
) -> dict[str, Any] | None:
    """Read a checkpoint of the same settings; None if there is none."""
    if checkpoint is None or not checkpoint.is_file():
        return None
    state = read_checkpoint(checkpoint)
    if state['settings'] != settings:
        log(f'{checkpoint} is of other settings, starting anew')
        return None
    log(f'going on after epoch {len(state["records"])} from {checkpoint}')
    return state
