# SPDX-License-Identifier: Apache-2.0
"""ResNet50, with the names of torchvision's parameters so that its weights load.

He et al., "Deep residual learning for image recognition", with the stride in the 3x3 convolution
of a block as in torchvision (known as version 1.5).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RESNET50_BLOCKS = (3, 4, 6, 3)
EXPANSION = 4  # maps that leave a block, in maps inside of it
RESNET50_FEATURES = 32  # pooled features, in widths
SMALLEST_IMAGE = 32  # pixels: it is halved five times


class ResNet50(nn.Module):
    """The whole network: a 7x7 convolution, four layers of blocks, average pooling, `fc`."""

    def __init__(
        self,
        *,
        classes: int = 1000,
        width: int = 64,
        blocks: tuple[int, int, int, int] = RESNET50_BLOCKS,
        caffe_layout: bool = False,
    ) -> None:
        """Build it for a number of classes; with 0 it has no last layer and gives the features.

        width: maps of the first layer's blocks, 64 as published. caffe_layout: the published
        VGGFace2 weights were converted from Caffe, where a block has its stride in the first 1x1
        convolution, and the first pooling adds no border but rounds its size up. The parameters
        are the same, the answers are not.
        """
        super().__init__()
        self.caffe_layout = caffe_layout
        self.feature_size = RESNET50_FEATURES * width  # 2048
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(
            3, stride=2, padding=0 if caffe_layout else 1, ceil_mode=caffe_layout
        )
        outer = [EXPANSION * width * factor for factor in (1, 2, 4, 8)]
        first, second, third, fourth = blocks
        self.layer1 = _layer(width, outer[0], first, stride=1, caffe_layout=caffe_layout)
        self.layer2 = _layer(outer[0], outer[1], second, stride=2, caffe_layout=caffe_layout)
        self.layer3 = _layer(outer[1], outer[2], third, stride=2, caffe_layout=caffe_layout)
        self.layer4 = _layer(outer[2], outer[3], fourth, stride=2, caffe_layout=caffe_layout)
        self.fc = nn.Linear(self.feature_size, classes) if classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                # Not on the meta device, for which PyTorch would load its compiler, two seconds
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (N, 3, H, W), H and W 32 or more: logits (N, classes)."""
        logits: Tensor = self.fc(self.pooled_features(images))
        return logits

    def pooled_features(self, images: Tensor) -> Tensor:
        """Compute the features before the last layer: (N, 3, H, W) to (N, 32 width)."""
        maps = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = layer(maps)
        pooled: Tensor = maps.mean((2, 3))
        return pooled


class Bottleneck(nn.Module):
    """A block: 1x1, 3x3 and 1x1 convolutions beside a residual connection."""

    def __init__(
        self, *, in_channels: int, outer: int, stride: int, stride_in_first: bool
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_first else (1, stride)
        inner = outer // EXPANSION
        self.conv1 = nn.Conv2d(in_channels, inner, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, outer, 1, stride=stride, bias=False),
                nn.BatchNorm2d(outer),
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, ceil(H / stride), ceil(W / stride))."""
        inner = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        inner = F.relu(self.bn2(self.conv2(inner)), inplace=True)
        residual = maps if self.downsample is None else self.downsample(maps)
        return F.relu(torch.add(self.bn3(self.conv3(inner)), residual), inplace=True)


def _layer(
    in_channels: int, outer: int, blocks: int, *, stride: int, caffe_layout: bool
) -> nn.Sequential:
    return nn.Sequential(
        *(
            Bottleneck(
                in_channels=outer if block else in_channels,
                outer=outer,
                stride=1 if block else stride,
                stride_in_first=caffe_layout,
            )
            for block in range(blocks)
        )
    )
