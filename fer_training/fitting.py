# SPDX-License-Identifier: Apache-2.0
"""Fitting of a PST-BLN to landmark tracks, with a target for every frame."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_training.dataset import IGNORED, TrackTensors, batch_edge_vectors, mirror_some


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Set how a network is fitted."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.01  # highest rate of the one-cycle schedule
    weight_decay: float = 5e-4
    seed: int = 1
    warm_up_frames: int = 5  # frames from the reset on that teach nothing
    mirror: bool = True  # flip about half of the faces left to right


def fit(
    network_config: PstBlnConfig,
    data: TrackTensors,
    *,
    edges: torch.Tensor,
    config: FitConfig,
    checkpoint: Path | None = None,
    log: Callable[[str], None] = print,
) -> PstBln:
    """Fit a network from random weights; the same seed gives the same network.

    data: tracks at the network's rate; edges: (E, 2) int64. With a `checkpoint` path the state is
    kept there after every epoch, and an interrupted fit with the same settings goes on from it;
    it is the caller's to remove. Returns the network in evaluation mode.
    """
    torch.manual_seed(config.seed)
    network = PstBln(network_config)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    steps = -(-len(data) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.learning_rate, total_steps=config.epochs * steps
    )
    settings = {'fit': asdict(config), 'network': asdict(network_config), 'tracks': len(data)}
    first_epoch = 0
    if checkpoint is not None and checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        if state['settings'] == settings:
            network.load_state_dict(state['network'])
            optimizer.load_state_dict(state['optimizer'])
            schedule.load_state_dict(state['schedule'])
            first_epoch = state['epoch']
            log(f'going on after epoch {first_epoch} from {checkpoint}')
        else:
            log(f'{checkpoint} is of other settings, starting anew')

    for epoch in range(first_epoch, config.epochs):
        # Every epoch has its own seed, so that a resumed fit draws what an unbroken one draws.
        torch.manual_seed(config.seed * 100_003 + epoch)
        generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        loader = DataLoader(data, config.batch_size, shuffle=True, generator=generator)
        network.train()
        loss_sum = correct = counted = 0.0
        bar = tqdm(loader, desc=f'epoch {epoch + 1}/{config.epochs}', unit='batch', leave=False)
        for landmarks, targets in bar:
            if config.mirror:
                landmarks = mirror_some(landmarks, generator)
            targets = targets.clone()
            targets[:, : config.warm_up_frames] = IGNORED
            logits = network.logits_over_time(batch_edge_vectors(landmarks, edges))  # (N, T', C)
            stride = network_config.total_stride
            targets = targets[:, ::stride]  # (N, T')
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            known = targets != IGNORED
            loss_sum += float(loss.detach()) * len(landmarks)
            correct += float((logits.argmax(-1) == targets)[known].sum())
            counted += float(known.sum())
        log(
            f'epoch {epoch + 1}/{config.epochs}: loss {loss_sum / len(data):.4f}, '
            f'accuracy of frames {correct / counted:.3f}'
        )
        if checkpoint is not None:
            _write_checkpoint(
                checkpoint,
                {
                    'settings': settings,
                    'network': network.state_dict(),
                    'optimizer': optimizer.state_dict(),
                    'schedule': schedule.state_dict(),
                    'epoch': epoch + 1,
                },
            )
    return network.eval()


def _write_checkpoint(path: Path, state: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.part')
    torch.save(state, temporary)
    temporary.replace(path)
