# SPDX-License-Identifier: Apache-2.0
"""Export of an image recogniser to ONNX, and the check of the export."""

import copy
import io
import warnings
from pathlib import Path

import numpy as np
import torch

from fer_perception.inference.onnx_clips import CPU, open_session
from fer_perception.models.image_model_file import (
    ImageModelDescription,
    description_from_metadata,
    description_to_metadata,
)
from fer_perception.models.image_network import ImageNetwork
from fer_training.onnx_export import OPSET, import_onnx, write_onnx

INPUT, OUTPUT = 'images', 'logits'
CHECKED_SEQUENCES = (1, 3)  # numbers of them in the batches that are compared


def export_image_onnx(
    network: ImageNetwork, description: ImageModelDescription, path: Path
) -> None:
    """Write a network as ONNX: images (N, T, 3, H, W) to the members' logits (N, M, C).

    N is free; there is no dropout. The metadata hold the whole description, by the same keys as
    the model file's. Raises ValueError if the description is of another network, ImportError
    without onnx.
    """
    if network.config != description.network:
        raise ValueError('the description is of another network than the one to export')
    onnx = import_onnx()
    traced = copy.deepcopy(network).cpu().float().eval()
    data = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter by tracing: the other one needs onnxscript. It warns of its age, of the
        # shape checks that it leaves out, and of recurrent layers of other batch sizes.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            traced,
            (torch.zeros(2, network.frames, 3, network.image_size, network.image_size),),
            data,  # type: ignore[arg-type]  # a file object serves where nothing is external
            dynamo=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: 'sequences'}, OUTPUT: {0: 'sequences'}},
            opset_version=OPSET,
        )
    write_onnx(path, onnx.load_from_string(data.getvalue()), description_to_metadata(description))


def largest_image_difference(network: ImageNetwork, path: Path, *, seed: int = 0) -> float:
    """Compare an export with its network on random images.

    Returns the largest difference of a logit, as a share of the largest logit of its batch where
    that is above 1. Raises ValueError if the export's description is not to be read.
    """
    session = open_session(path, 1, [CPU])
    described = description_from_metadata(session.get_modelmeta().custom_metadata_map)
    if described.network != network.config:
        raise ValueError(f'{path} describes another network than the one that was exported')
    generator = np.random.default_rng(seed)
    differences = []
    for count in CHECKED_SEQUENCES:
        shape = (count, network.frames, 3, network.image_size, network.image_size)
        images = generator.normal(0.0, 1.0, shape).astype('f4')
        with torch.inference_mode():
            expected = network.eval()(torch.from_numpy(images))
        (found,) = session.run([OUTPUT], {INPUT: images})
        difference = np.abs(found - expected.numpy()).max()
        differences.append(difference / max(1.0, float(expected.abs().max())))
    return float(max(differences))
