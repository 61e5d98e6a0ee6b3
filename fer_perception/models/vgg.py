# SPDX-License-Identifier: Apache-2.0
"""VGG16 with batch norm, with the names of torchvision's parameters so that its weights load.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition",
configuration D; Ioffe and Szegedy's batch norm after every convolution.
"""

import torch
from torch import Tensor, nn

from fer_perception.models.dropout import SeededDropout

VGG16_STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # (maps in widths, convolutions)
VGG16_FEATURES = 8  # maps of the last stage, in widths
SMALLEST_IMAGE = 32  # pixels: five poolings halve it to one


class Vgg16Bn(nn.Module):
    """The whole network: `features`, average pooling to 7x7 and three linear layers."""

    def __init__(self, *, classes: int = 1000, width: int = 64) -> None:
        """Build it for a number of classes; `width` is that of the first maps, 64 as published."""
        super().__init__()
        hidden = 64 * width  # 4096
        self.features = vgg16_bn_features(width)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(VGG16_FEATURES * width * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            SeededDropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            SeededDropout(0.5),
            nn.Linear(hidden, classes),
        )
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                _draw_normal(module.weight, deviation=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (N, 3, H, W), H and W 32 or more: logits (N, classes)."""
        maps = self.avgpool(self.features(images))  # (N, 8 width, 7, 7)
        logits: Tensor = self.classifier(maps.flatten(1))
        return logits


def vgg16_bn_features(width: int = 64) -> nn.Sequential:
    """Build the thirteen convolutions: (N, 3, H, W) to (N, 8 width, H // 32, W // 32).

    Initialised as torchvision's: He's normal distribution over the outputs of a convolution.
    """
    layers: list[nn.Module] = []
    channels = 3
    for maps, convolutions in VGG16_STAGES:
        for _ in range(convolutions):
            convolution = nn.Conv2d(channels, maps * width, 3, padding=1)
            channels = maps * width
            _draw_normal(convolution.weight, deviation=(2.0 / (9 * channels)) ** 0.5)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _draw_normal(weight: Tensor, *, deviation: float) -> None:
    if not weight.is_meta:  # for which PyTorch would load its compiler, two seconds
        with torch.no_grad():
            weight.normal_(std=deviation)
