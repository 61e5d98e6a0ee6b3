# SPDX-License-Identifier: Apache-2.0
"""Export of a PST-BLN to ONNX with its dropout masks as inputs, and the check of the export."""

import copy
import importlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fer_perception.inference.onnx_clips import (
    INPUT,
    OUTPUT,
    OnnxMonteCarlo,
    free_mask_axes,
    mask_names,
)
from fer_perception.models.model_file import ModelDescription, description_to_metadata
from fer_perception.models.pst_bln import PstBln

OPSET = 17  # read by ONNX Runtime 1.14 and later


class MaskedPstBln(nn.Module):
    """A PST-BLN in evaluation mode whose dropout masks are given."""

    def __init__(self, network: PstBln) -> None:
        """Copy a network; the original stays as it is."""
        super().__init__()
        self.config = network.config
        self._given = [_GivenMask() for _ in network.dropouts]
        self._network = copy.deepcopy(network).cpu().float()
        self._network.dropouts = nn.ModuleList(self._given)
        self.eval()

    def forward(self, edge_vectors: Tensor, *masks: Tensor) -> Tensor:
        """Classify clips under given masks.

        edge_vectors: (N, 2, T, E); masks: one a layer, 0 or 1 / (1 - dropout), of the shapes
        `PstBlnConfig.mask_shapes`. Returns logits (N, classes).
        """
        self._give(masks)
        logits: Tensor = self._network(edge_vectors)
        return logits

    def over_time(self, edge_vectors: Tensor, *masks: Tensor) -> Tensor:
        """Classify the window that ends at each frame of the last layer, (N, T', classes)."""
        self._give(masks)
        return self._network.logits_over_time(edge_vectors)

    def _give(self, masks: Sequence[Tensor]) -> None:
        for given, mask in zip(self._given, masks, strict=True):
            given.mask = mask


class _GivenMask(nn.Module):
    mask: Tensor

    def forward(self, features: Tensor) -> Tensor:
        return features * self.mask


def import_onnx() -> Any:
    """Import onnx, or raise an ImportError that names the extra."""
    try:
        return importlib.import_module('onnx')
    except ImportError as error:
        raise ImportError(
            'the export needs onnx: install the extra fer_perception[training]'
        ) from error


def export_onnx(
    network: PstBln,
    description: ModelDescription,
    path: Path,
    *,
    constant_folding: bool = True,
) -> None:
    """Write a network as ONNX: inputs `edge_vectors` and `mask_<layer>`, output `logits`.

    The numbers of clips and frames are free, and one clip serves many masks. The metadata hold
    the whole description, by the same keys as the model file's. Raises ValueError if the
    description is of another network, ImportError without onnx.
    """
    if network.config != description.network:
        raise ValueError('the description is of another network than the one to export')
    onnx = import_onnx()
    config = network.config
    names = mask_names(len(config.channels))
    # Longer than the pooled window: what is traced then pools the last frames, however many.
    frames = config.window + 2 * config.total_stride
    dynamic = {INPUT: {0: 'clips', 2: 'frames'}, OUTPUT: {0: 'rows'}}
    free = free_mask_axes(config)
    for layer, name in enumerate(names):
        labels = {0: 'samples', 2: f'frames_{layer}'}
        dynamic[name] = {axis: labels[axis] for axis in free}
    data = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter by tracing: the other one needs onnxscript. It warns of its age, and of
        # the shape checks that it leaves out.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            MaskedPstBln(network),
            (
                torch.zeros(2, config.in_channels, frames, config.edges),
                *(torch.ones(shape) for shape in config.mask_shapes(clips=2, frames=frames)),
            ),
            data,  # type: ignore[arg-type]  # a file object serves where nothing is external
            dynamo=False,
            input_names=[INPUT, *names],
            output_names=[OUTPUT],
            dynamic_axes=dynamic,
            do_constant_folding=constant_folding,
            opset_version=OPSET,
        )
    write_onnx(path, onnx.load_from_string(data.getvalue()), description_to_metadata(description))


def write_onnx(path: Path, model: Any, metadata: dict[str, str]) -> None:
    """Check an ONNX model and write it with metadata."""
    onnx = import_onnx()
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def largest_difference(
    network: PstBln, exported: OnnxMonteCarlo, *, frames: Sequence[int], seed: int = 0
) -> float:
    """Compare an export with its network under the same random masks and of random clips.

    frames: lengths of the clips, two clips of each. Returns the largest difference of a logit, as
    a share of the largest logit of its clips where that is above 1: single precision rounds large
    numbers more coarsely.
    """
    masked = MaskedPstBln(network)
    generator = np.random.default_rng(seed)
    differences = []
    for length in frames:
        shape = (2, network.config.in_channels, length, network.config.edges)
        clips = generator.normal(0.0, 0.3, shape).astype('f4')
        masks = exported.draw_masks(2, length)
        with torch.inference_mode():
            expected = masked(torch.from_numpy(clips), *(torch.from_numpy(m) for m in masks))
        difference = np.abs(exported.logits(clips, masks) - expected.numpy()).max()
        differences.append(difference / max(1.0, float(expected.abs().max())))
    return float(max(differences))
