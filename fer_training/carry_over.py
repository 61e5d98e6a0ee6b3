# SPDX-License-Identifier: Apache-2.0
"""Carry what a network has learned over into a larger one (PST-BLN, III-C)."""

import torch
from torch import nn

from fer_perception.models.pst_bln import Projection, PstBln


@torch.no_grad()
def carry_over(smaller: PstBln, larger: PstBln) -> None:
    """Copy every tensor of a network into one that is wider or deeper than it.

    Weights, U matrices and batch norm statistics alike: each old tensor fills the corner of the
    new one that it has the size of; what is new keeps its random start. Where a residual
    connection was the identity and must now be a projection, the projection starts as the
    identity. Where it was a projection and the widths now agree, the identity takes its place.
    Raises ValueError if a layer would shrink or other tensors are left over.
    """
    old, new = smaller.state_dict(), larger.state_dict()
    replaced = _replaced_projections(smaller, larger)
    for name, tensor in old.items():
        if any(name.startswith(f'{prefix}.') for prefix in replaced):
            continue
        if name not in new:
            raise ValueError(f'the larger network has no tensor {name}')
        is_head = name.startswith('head.')
        corner = tuple(
            slice(min(size, room) if is_head else size)
            for size, room in zip(tensor.shape, new[name].shape, strict=True)
        )
        if not is_head and any(
            size > room for size, room in zip(tensor.shape, new[name].shape, strict=True)
        ):
            raise ValueError(
                f'{name} would shrink from {tuple(tensor.shape)} to {tuple(new[name].shape)}'
            )
        new[name][corner] = tensor[corner]  # the state dict shares its memory with the network
    modules = dict(smaller.named_modules())
    for name, module in larger.named_modules():
        if isinstance(module, Projection) and isinstance(modules.get(name), nn.Identity):
            _start_as_identity(module)


def _replaced_projections(smaller: PstBln, larger: PstBln) -> set[str]:
    modules = dict(larger.named_modules())
    return {
        name
        for name, module in smaller.named_modules()
        if isinstance(module, Projection) and isinstance(modules.get(name), nn.Identity)
    }


def _start_as_identity(projection: Projection) -> None:
    convolution = projection[0]
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    same = min(convolution.weight.shape[:2])  # of (C_out, C_in, 1, 1)
    convolution.weight[:same] = 0.0
    convolution.weight[torch.arange(same), torch.arange(same)] = 1.0
    convolution.bias[:same] = 0.0
