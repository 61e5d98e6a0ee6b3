# SPDX-License-Identifier: Apache-2.0
"""Small image recognisers for tests, with random weights and statistics."""

from dataclasses import replace
from typing import Any

import torch
from models_made import CLASSES
from torch import nn

from fer_perception.faces.crop import FaceCrop, ImageNormalization
from fer_perception.inference.image_reader import ImageReader
from fer_perception.models.abaw_ensemble import AbawEnsembleConfig
from fer_perception.models.fer_gcn import FerGcnConfig
from fer_perception.models.image_architectures import ImageConfig, build_image_network
from fer_perception.models.image_model_file import ImageModelDescription, LoadedImageModel
from fer_perception.models.part_ensemble import PartEnsembleConfig

SMALL: dict[str, ImageConfig] = {
    'fer_gcn': FerGcnConfig(classes=7, image_size=32, frames=6, features=8, width=4),
    'part_ensemble': PartEnsembleConfig(classes=7, image_size=32, padding='same'),
    'abaw_ensemble': AbawEnsembleConfig(
        classes=7, image_size=32, frames=5, features=8, heads=2, feedforward=16, width=4,
        blocks=(1, 1, 1, 1), weights=(0.5, 0.3, 0.2),
    ),
}


def small_image_model(
    architecture: str, *, seed: int = 1, classes: tuple[str, ...] = CLASSES, **changes: Any
) -> LoadedImageModel:
    """Make a model in evaluation mode; `changes` are of its network's configuration."""
    config = replace(SMALL[architecture], classes=len(classes), **changes)
    torch.manual_seed(seed)
    network = build_image_network(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
        elif isinstance(module, nn.Linear):  # so that the answers differ from image to image
            nn.init.normal_(module.weight, 0.0, 3.0 * module.in_features**-0.5)
    return LoadedImageModel(
        network.eval(),
        ImageModelDescription(
            network=config,
            classes=classes,
            crop=FaceCrop(size=config.image_size),
            normalization=ImageNormalization(),
            frame_rate=10.0 if network.frames > 1 else 0.0,
            warm_up_s=0.2 if network.frames > 1 else 0.0,
        ),
    )


def exact_reader(model: LoadedImageModel, **settings: Any) -> ImageReader:
    """Make a reader that computes on the CPU in fp32."""
    return ImageReader(model, device='cpu', precision='fp32', **settings)
