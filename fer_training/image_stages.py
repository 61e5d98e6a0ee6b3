# SPDX-License-Identifier: Apache-2.0
"""The stages in which image recognisers are trained, and what each of them minimises.

FER-GCN and the ABAW ensemble have one stage. Every sub-network of the part-based ensemble has its
own (III-D): landmarks, then the classification head alone, then all of it; a baseline the last.

Shapes: N items, T frames of each, H x W pixels, M members, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_perception.models.abaw_ensemble import AbawEnsemble
from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.part_ensemble import PartEnsemble, SubNetwork
from fer_training.dataset import IGNORED
from fer_training.image_recipes import EXPRESSION, HEAD, LANDMARKS, ImageFitConfig


class StageLoss(NamedTuple):
    """Hold the loss of a batch and how much of it was right."""

    loss: Tensor  # what is minimised
    mean: Tensor  # what is told: the mean over the members
    weight: int  # targets, or faces, that it is a mean of
    right: int = 0  # targets that the vote got right
    known: int = 0  # of so many


# Takes images (N, T, 3, H, W), landmarks (N, T, 68, 2) and targets (N,) or (N, T).
LossFunction = Callable[[Tensor, Tensor, Tensor], StageLoss]


@dataclass(frozen=True, kw_only=True)
class ImageStage:
    """Describe one stage of training."""

    name: str
    module: nn.Module  # what is trained, and whose best weights are kept
    parameters: list[nn.Parameter]  # those that change
    frozen: tuple[nn.Module, ...] = ()  # parts of it that stay as they are, statistics included
    loss: LossFunction
    epochs: int
    learning_rate: float
    part: str = ''  # sub-network whose localisation of landmarks is measured afterwards
    moment: str = ''  # when that is
    localization: LossFunction | None = None  # that measures it


def stages_of(network: ImageNetwork, config: ImageFitConfig) -> list[ImageStage]:
    """List the stages of a network in their order."""
    if isinstance(network, PartEnsemble):
        return [
            stage
            for member, part in zip(network.members, network.sub_networks, strict=True)
            for stage in _part_stages(member, part, config)
        ]
    if config.landmark_epochs or config.head_epochs:
        raise ValueError(
            'landmark_epochs and head_epochs are of part_ensemble only: set them to 0'
        )
    return [
        ImageStage(
            name=EXPRESSION,
            module=network,
            parameters=list(network.parameters()),
            loss=lambda images, _, targets: vote_loss(network, images, targets),
            epochs=config.epochs,
            learning_rate=config.learning_rate,
        )
    ]


def vote_loss(network: ImageNetwork, images: Tensor, targets: Tensor) -> StageLoss:
    """Return the sum of the members' cross entropies, each a loss of its own.

    images: (N, T, 3, H, W); targets: (N,), or (N, T) of every frame, IGNORED where unknown.
    """
    features = network.deterministic_part(images)  # (N, T, F)
    if targets.ndim == 1:
        logits = network.random_part(features)  # (N, M, C)
    elif isinstance(network, AbawEnsemble):
        logits = network.logits_over_time(features).flatten(0, 1)  # (N * T, M, C)
        targets = targets.flatten()
    else:
        raise ValueError(f'{type(network).__name__} has no answer for every frame of a sequence')
    return cross_entropies(logits.float(), targets, network.probabilities)


def cross_entropies(
    logits: Tensor, targets: Tensor, vote: Callable[[Tensor], Tensor]
) -> StageLoss:
    """Sum the cross entropies (equation 2 of the part-based ensemble) of M members.

    logits: (N, M, C); targets: (N,); vote: turns the former into probabilities (N, C).
    """
    members = logits.shape[1]
    losses = [
        F.cross_entropy(logits[:, member], targets, ignore_index=IGNORED)
        for member in range(members)
    ]
    loss = torch.stack(losses).sum()
    known = targets != IGNORED
    answers = vote(logits.detach()).argmax(-1)
    count = int(known.sum())
    return StageLoss(
        loss=loss,
        mean=loss.detach() / members,
        weight=count,
        right=int((answers == targets)[known].sum()),
        known=count,
    )


def landmark_loss(located: Tensor, landmarks: Tensor) -> StageLoss:
    """Return the mean absolute difference of coordinates (part-based ensemble, equation 1).

    Both (N, points, 2), 0 to 1 from one side of the image to the other.
    """
    loss = (located.float() - landmarks).abs().mean()
    return StageLoss(loss=loss, mean=loss.detach(), weight=len(landmarks))


def _part_stages(member: str, part: SubNetwork, config: ImageFitConfig) -> list[ImageStage]:
    """List the stages of one sub-network; without landmarks to learn only the last one."""
    points = list(part.landmarks)

    def locate(images: Tensor, landmarks: Tensor, _: Tensor) -> StageLoss:
        return landmark_loss(part.localize(images[:, 0]), landmarks[:, 0, points])

    def classify(images: Tensor, _: Tensor, targets: Tensor) -> StageLoss:
        return cross_entropies(part(images[:, 0]).float()[:, None], targets, _one_vote)

    def classify_frozen(images: Tensor, _: Tensor, targets: Tensor) -> StageLoss:
        with torch.no_grad():
            features = part.extractor(images[:, 0])  # (N, F)
        logits = part.classification_head(features).float()
        return cross_entropies(logits[:, None], targets, _one_vote)

    learned = part.localization_head is not None and config.landmark_epochs > 0
    stages = []
    if learned and part.localization_head is not None:
        stages.append(
            ImageStage(
                name=f'{member} {LANDMARKS}',
                module=part,
                parameters=[
                    *part.extractor.parameters(), *part.localization_head.parameters()
                ],
                loss=locate,
                epochs=config.landmark_epochs,
                learning_rate=config.landmark_rate,
                part=member,
                moment='before',
                localization=locate,
            )
        )
    if part.localization_head is not None and config.head_epochs:
        stages.append(
            ImageStage(
                name=f'{member} {HEAD}',
                module=part,
                parameters=list(part.classification_head.parameters()),
                frozen=(part.extractor,),
                loss=classify_frozen,
                epochs=config.head_epochs,
                learning_rate=config.head_rate,
            )
        )
    stages.append(
        ImageStage(
            name=f'{member} {EXPRESSION}',
            module=part,
            parameters=[*part.extractor.parameters(), *part.classification_head.parameters()],
            loss=classify,
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            part=member,
            moment='after',
            localization=locate if learned else None,
        )
    )
    return stages


def _one_vote(logits: Tensor) -> Tensor:
    """Let a single member vote: logits (N, 1, C) to probabilities (N, C)."""
    return logits[:, 0].softmax(-1)
