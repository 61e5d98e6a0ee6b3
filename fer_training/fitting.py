# SPDX-License-Identifier: Apache-2.0
"""Fitting of a network to clips, or to tracks with a target for every frame."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader
from tqdm import tqdm

from fer_perception.models.pst_bln import PstBln
from fer_training.dataset import IGNORED, TrainingSet, class_shares
from fer_training.inputs import NetworkInput

OPTIMIZERS = ('adamw', 'sgd', 'adam')
SCHEDULES = ('one_cycle', 'step')


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Set how a network is fitted."""

    epochs: int = 20
    batch_size: int = 64
    optimizer: str = 'adamw'  # 'adamw', 'adam', or 'sgd' (the paper)
    learning_rate: float = 0.01  # the highest of a one-cycle schedule, the first of steps
    momentum: float = 0.9  # of sgd
    nesterov: bool = True  # of sgd
    weight_decay: float = 5e-4
    schedule: str = 'one_cycle'  # 'one_cycle', or 'step': times 0.1 after `drop_after_epochs`
    drop_after_epochs: tuple[int, ...] = ()
    max_gradient_norm: float = 1.0  # gradients are clipped to it; 0 leaves them
    label_smoothing: float = 0.0
    # Targets weigh by the share of their class to the power of -class_balance: at 0 all the same,
    # at 1 all classes together the same
    class_balance: float = 0.0
    patience: int = 0  # end after this many epochs without a lower loss; 0: never early
    patience_threshold: float = 1e-3  # relative drop that counts as lower
    warm_up_frames: int = 5  # frames from the reset on that teach nothing (frame targets)
    seed: int = 1
    workers: int = 0  # processes that read batches
    mixed_precision: bool = False  # bfloat16 where it is safe
    precise_norms: bool = False  # after the last epoch measure batch norm's statistics anew
    device: str = 'cpu'

    def __post_init__(self) -> None:
        """Refuse values outside of their ranges, naming the field."""
        for name, allowed in (('optimizer', OPTIMIZERS), ('schedule', SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f'{name} must be {" or ".join(allowed)}, not {getattr(self, name)!r}'
                )
        for name in ('epochs', 'batch_size'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, not {getattr(self, name)}')
        if not self.learning_rate > 0:
            raise ValueError(f'learning_rate must be positive, not {self.learning_rate}')
        if not 0 <= self.class_balance <= 1:
            raise ValueError(f'class_balance must be from 0 to 1, not {self.class_balance}')


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """Say how one epoch went."""

    epoch: int  # counted from 1
    loss: float  # mean cross entropy of the batches, with dropout and augmentation
    accuracy: float  # share of the targets that were right, likewise
    learning_rate: float  # of the last batch
    seconds: float


# Called after every epoch with its record; the network is in training mode.
EpochCallback: TypeAlias = Callable[[EpochRecord], None]


def fit(
    network: nn.Module,
    data: TrainingSet,
    *,
    network_input: NetworkInput,
    config: FitConfig,
    checkpoint: Path | None = None,
    start: Path | None = None,
    origin: str = '',
    on_epoch: EpochCallback | None = None,
    progress: bool = True,
    log: Callable[[str], None] = print,
) -> tuple[EpochRecord, ...]:
    """Fit a network in place; the same seed and first weights give the same network.

    With a `checkpoint` path the state is kept there after every epoch, and an interrupted fit
    with the same settings goes on from it; it is the caller's to remove. With a `start` the fit
    goes on from that checkpoint instead; of a schedule by steps the epochs may be more than they
    were. `origin` names first weights that are not the seed's own: a checkpoint of another origin
    is of other settings. Leaves the network in evaluation mode on the device of the configuration.
    Returns the records of all epochs. Raises ValueError if `start` is no checkpoint of the same
    settings.
    """
    if data.has_frame_targets and network_input.augmentation.time_crop:
        raise ValueError('time_crop moves the frames of clips: frames with own targets cannot be')
    device = torch.device(config.device)
    network.to(device)
    optimizer = _optimizer(network, config)
    steps = -(-data.epoch_length // config.batch_size)
    schedule = _schedule(optimizer, config, steps)
    recipe = asdict(config)
    if config.schedule == 'step':
        del recipe['epochs']  # those to come change nothing of those that were
    settings = {
        'fit': recipe,
        'network': {name: list(value.shape) for name, value in network.state_dict().items()},
        'sequences': len(data),
    }
    if data.chances is not None:
        settings['draws'] = data.draws
    if origin:
        settings['origin'] = origin
    records = _resume(checkpoint, start, settings, network, optimizer, schedule, log)
    weights = _class_weights(data, config).to(device)

    while len(records) < config.epochs and not _converged(records, config):
        epoch = len(records)
        # Every epoch has its own seed, so that a resumed fit draws what an unbroken one draws.
        torch.manual_seed(config.seed * 100_003 + epoch)
        generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        loader = DataLoader(
            data,
            config.batch_size,
            sampler=data.sampler(generator),
            generator=generator,
            num_workers=config.workers,
            collate_fn=_as_it_is,
        )
        network.train()
        started = time.monotonic()
        total = _Sums()
        bar = tqdm(
            loader, desc=f'epoch {epoch + 1}/{config.epochs}', unit='batch', leave=False,
            disable=not progress,
        )
        for features, targets in bar:
            inputs = network_input(features, generator).to(device)
            targets = targets.to(device)
            if data.has_frame_targets:
                targets = targets.clone()
                targets[:, : config.warm_up_frames] = IGNORED
            with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision):
                logits, targets = _answers(network, inputs, targets)
            loss = _weighted_cross_entropy(logits, targets, weights, config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            if config.max_gradient_norm:
                nn.utils.clip_grad_norm_(network.parameters(), config.max_gradient_norm)
            optimizer.step()
            if config.schedule == 'one_cycle':
                schedule.step()
            total.add(loss.detach(), logits.detach(), targets, len(features))
        rate = float(optimizer.param_groups[0]['lr'])
        if config.schedule == 'step':
            schedule.step()
        record = EpochRecord(
            epoch=epoch + 1,
            loss=total.loss,
            accuracy=total.accuracy,
            learning_rate=rate,
            seconds=time.monotonic() - started,
        )
        records.append(record)
        log(
            f'epoch {record.epoch}/{config.epochs}: loss {record.loss:.4f}, '
            f'accuracy {record.accuracy:.3f}'
        )
        if checkpoint is not None:
            write_checkpoint(
                checkpoint,
                {
                    'settings': settings,
                    'network': network.state_dict(),
                    'optimizer': optimizer.state_dict(),
                    'schedule': schedule.state_dict(),
                    'records': [asdict(item) for item in records],
                },
            )
        if on_epoch is not None:
            on_epoch(record)
    if config.precise_norms:
        _measure_norms(network, data, network_input, config)
    network.eval()
    return tuple(records)


@torch.inference_mode()
def measure_loss(
    network: nn.Module, data: TrainingSet, *, network_input: NetworkInput, config: FitConfig
) -> float:
    """Measure the mean cross entropy in nats, without dropout and augmentation."""
    device = torch.device(config.device)
    network.to(device).eval()
    total = _Sums()
    for start in range(0, len(data), config.batch_size):
        chosen = range(start, min(start + config.batch_size, len(data)))
        features, targets = data.__getitems__(chosen)
        logits, targets = _answers(network, network_input(features).to(device), targets.to(device))
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORED)
        total.add(loss, logits, targets, int((targets != IGNORED).sum()))
    return total.loss


def _measure_norms(
    network: nn.Module, data: TrainingSet, network_input: NetworkInput, config: FitConfig
) -> None:
    """Replace the running statistics of batch norm by those over all training data.

    Dropout is on, as for Monte Carlo samples, and augmentation off. The running ones are of the
    last few augmented batches only (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, 3).
    """
    torch.manual_seed(config.seed)
    device = torch.device(config.device)
    size = config.batch_size
    if data.chances is None:
        order = list(range(len(data)))
    else:
        order = list(data.sampler(torch.Generator().manual_seed(config.seed)))
    batches = (
        network_input(data.__getitems__(order[start : start + size])[0]).to(device)
        for start in range(0, len(order), size)
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision):
        update_bn(batches, network)


class _Sums:
    """Running sums over the batches of an epoch."""

    def __init__(self) -> None:
        self._loss = self._weight = self._right = self._known = 0.0

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor, weight: int) -> None:
        known = targets != IGNORED
        if weight:
            self._loss += float(loss) * weight
        self._weight += weight
        self._right += float((logits.argmax(-1) == targets)[known].sum())
        self._known += float(known.sum())

    @property
    def loss(self) -> float:
        return self._loss / max(self._weight, 1.0)

    @property
    def accuracy(self) -> float:
        return self._right / max(self._known, 1.0)


def _answers(network: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (M, C) float32 and targets (M,): of clips, or of all frames."""
    if targets.ndim == 1:
        return network(inputs).float(), targets
    if not isinstance(network, PstBln):
        raise ValueError('only a PST-BLN can be fitted to targets of single frames')
    logits = network.logits_over_time(inputs).float()  # (N, T', C)
    stride = network.config.total_stride
    return logits.flatten(0, 1), targets[:, ::stride].flatten()


def _class_weights(data: TrainingSet, config: FitConfig) -> Tensor:
    """Return what a target of each class weighs, (C,), 1 on average; 0 for classes without any."""
    targets = data.targets[:, config.warm_up_frames :] if data.has_frame_targets else data.targets
    shares = class_shares(targets, data.chances)
    weights = torch.where(shares > 0, shares.clamp(min=1e-12) ** -config.class_balance, 0.0)
    return (weights / (weights * shares).sum()).float()


def _weighted_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor, label_smoothing: float
) -> Tensor:
    """Average the cross entropy of targets (M,), each times the weight (C,) of its class.

    Over their number, not their weight: a batch without a rare class would else push against it.
    """
    known = targets != IGNORED
    losses = F.cross_entropy(
        logits, targets, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction='none'
    )
    return (losses * weights[targets.clamp(min=0)]).sum() / known.sum().clamp(min=1)


def _optimizer(network: nn.Module, config: FitConfig) -> Optimizer:
    parameters = network.parameters()
    if config.optimizer == 'sgd':
        return torch.optim.SGD(
            parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
    kind = torch.optim.AdamW if config.optimizer == 'adamw' else torch.optim.Adam
    return kind(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def _schedule(optimizer: Optimizer, config: FitConfig, steps: int) -> LRScheduler:
    if config.schedule == 'one_cycle':
        # Momentum stays as it is set: cycling it is another recipe.
        return OneCycleLR(
            optimizer, max_lr=config.learning_rate, total_steps=config.epochs * steps,
            cycle_momentum=config.optimizer != 'sgd',
        )
    return MultiStepLR(optimizer, milestones=list(config.drop_after_epochs), gamma=0.1)


def _converged(records: Sequence[EpochRecord], config: FitConfig) -> bool:
    """Tell whether the last `patience` epochs brought no lower loss."""
    if not config.patience or len(records) <= config.patience:
        return False
    best_before = min(record.loss for record in records[: -config.patience])
    lately = min(record.loss for record in records[-config.patience :])
    return lately > best_before * (1.0 - config.patience_threshold)


def _resume(
    checkpoint: Path | None,
    start: Path | None,
    settings: dict[str, Any],
    network: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    log: Callable[[str], None],
) -> list[EpochRecord]:
    """Restore what a checkpoint of the same settings holds; return the records so far."""
    checkpoint = start or checkpoint
    if start is None and (checkpoint is None or not checkpoint.is_file()):
        return []
    assert checkpoint is not None
    state = read_checkpoint(checkpoint)
    found = state['settings']
    if found != settings:
        if start is not None:
            raise ValueError(f'{start} is of a fit of another {_differences(found, settings)}')
        log(f'{checkpoint} is of other settings, starting anew')
        return []
    network.load_state_dict(state['network'])
    optimizer.load_state_dict(state['optimizer'])
    schedule.load_state_dict(state['schedule'])
    records = [EpochRecord(**record) for record in state['records']]
    log(f'going on after epoch {len(records)} from {checkpoint}')
    return records


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Name what differs between two settings."""
    names = [name for name in wanted if name != 'fit' and found.get(name) != wanted[name]]
    names += [name for name in found if name not in wanted]
    recipe = found.get('fit', {})
    names += [name for name, value in wanted['fit'].items() if recipe.get(name) != value]
    return ', '.join(names)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state of a fit with its settings. Raises ValueError if the file holds none."""
    try:
        state: dict[str, Any] = torch.load(path, map_location='cpu', weights_only=True)
        state['settings'] = dict(state['settings'])
    except Exception as error:  # damaged files raise errors of almost every kind
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f'{path} is no checkpoint of a fit: {reason}') from error
    return state


def write_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Keep the state of a fit, in the place of the one before only once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.part')
    torch.save(state, temporary)
    temporary.replace(path)


def _as_it_is(batch: Any) -> Any:
    """Pass on what `TrainingSet.__getitems__` gave, a batch already."""
    return batch
