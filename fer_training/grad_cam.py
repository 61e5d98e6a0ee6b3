# SPDX-License-Identifier: Apache-2.0
"""Where in a face a recogniser finds an expression: Grad-CAM.

Selvaraju et al., "Grad-CAM"; here as Wadhawan and Gandhi write it, "Landmark-Aware and Part-based
Ensemble Transfer Learning Network for Facial Expression Recognition from Static images", section
IV-C, equations 5 and 6.

Shapes: N sequences, T frames of each, B images, K convolution maps of h x w, M members.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_perception.models.abaw_ensemble import AbawEnsemble
from fer_perception.models.fer_gcn import FerGcn
from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.part_ensemble import PartEnsemble

Score = Callable[[Tensor], Tensor]


def grad_cam(maps_of: nn.Module, score: Score, images: Tensor) -> Tensor:
    """Map where in images a score comes from: (B, 3, H, W) to (B, H, W), 0 or more.

    maps_of: the module whose output are the maps A, (B, K, h, w); score: computes y^c, before any
    softmax, of the images by running that module once. Its sum over all answers is derived, so
    scores of several images or sequences may be computed together. The maps are brought to the
    size of the images bilinearly. Raises ValueError for a module in training mode (its batch
    norms mix the images), or one that does not run once, or that the score does not depend on.
    """
    if maps_of.training:
        raise ValueError('Grad-CAM needs a network in evaluation mode')
    with torch.enable_grad(), _keep_maps(maps_of) as kept:
        total = score(images).sum()
        if len(kept) != 1:
            raise ValueError(f'the module of the maps must run once, it ran {len(kept)} times')
        gradients = None
        if total.requires_grad:
            (gradients,) = torch.autograd.grad(total, kept[0], allow_unused=True)
    if gradients is None:
        raise ValueError('the score does not depend on the maps of the module')
    maps = kept[0].detach()
    weights = gradients.mean((2, 3), keepdim=True)  # alpha, equation 5: (B, K, 1, 1)
    found = F.relu((weights * maps).sum(1, keepdim=True))  # equation 6: (B, 1, h, w)
    return F.interpolate(found, images.shape[2:], mode='bilinear', align_corners=False)[:, 0]


def member_grad_cams(network: ImageNetwork, images: Tensor, classes: Tensor) -> Tensor:
    """Map where each member finds a class: (N, T, 3, H, W) to (N, M, T, H, W), 0 or more.

    classes: (N,) the index of the class that is explained of each sequence.
    """
    n, t = images.shape[:2]
    maps = []
    for member, module in enumerate(convolution_maps(network)):

        def score(frames: Tensor, member: int = member) -> Tensor:
            sequences = frames.unflatten(0, (n, t))  # (N, T, 3, H, W)
            logits = network(sequences)[:, member]  # (N, C)
            return logits.gather(-1, classes[:, None])

        found = grad_cam(module, score, images.flatten(0, 1))  # (N * T, H, W)
        maps.append(found.unflatten(0, (n, t)))
    return torch.stack(maps, 1)


def convolution_maps(network: ImageNetwork) -> list[nn.Module]:
    """Return the module of each member that gives its last convolution maps, after their ReLU.

    Raises ValueError for a network that is not known to have any.
    """
    if isinstance(network, PartEnsemble):
        return [part.extractor.blocks[-1] for part in network.sub_networks]
    if isinstance(network, FerGcn):
        return [network.features[-2]]  # the last one pools
    if isinstance(network, AbawEnsemble):
        layers = [backbone.get_submodule('layer4') for backbone in network.backbones]
        return layers * (len(network.members) // len(layers))  # one may serve all members
    raise ValueError(f'the convolution maps of a {type(network).__name__} are not known')


def normalize_maps(maps: Tensor) -> Tensor:
    """Bring each map (..., H, W) to 0 to 1 by its greatest value; one of zeros stays as it is."""
    greatest = maps.amax((-2, -1), keepdim=True)
    return maps / greatest.where(greatest > 0, torch.ones_like(greatest))


def unite_maps(maps: Tensor) -> Tensor:
    """Unite the maps of M members as they are shown, each by itself 0 to 1 (section IV-C).

    maps: (..., M, H, W). Returns their pointwise maximum, (..., H, W).
    """
    return normalize_maps(maps).amax(-3)


@contextmanager
def _keep_maps(module: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what a module gives while this lasts; gradients reach back to it and no further."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        kept.append(leaf)
        return leaf.clone()  # which a ReLU in place may overwrite

    hook = module.register_forward_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()
