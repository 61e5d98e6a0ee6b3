# SPDX-License-Identifier: Apache-2.0
"""The part-based ensemble: five small networks, each of which first learned to find landmarks.

Wadhawan and Gandhi, "Landmark-Aware and Part-based Ensemble Transfer Learning Network for Facial
Expression Recognition from Static images". Section III-C describes the networks, III-E the vote.

Where the paper is silent:

- The maps of the four blocks are 16, 32, 64 and 128 and all kernels 3x3, the pooling 3x3 with a
  stride of 2, as in the program that its authors published. With them all counts of parameters
  come out; the running statistics of the batch norms are counted there, as Keras does.
- Its convolutions add no border by default: by equations 7 to 9 a sub-network then takes 0.550
  GFLOPs, the paper says 0.555. With a border (`padding='same'`), which the published program has,
  the same equations give 0.671.
- The hidden dense layers have a ReLU (in the published program they have no activation), and the
  coordinates of the landmarks are a plain linear output, so that points may lie beyond the crop.

Shapes: N images of H x W pixels, P landmarks of a part, F = 128 features of an image, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fer_perception.graph.landmarks import LANDMARK_COUNT
from fer_perception.models.dropout import SeededDropout
from fer_perception.models.image_network import ImageNetwork

# Landmarks of the five parts; the jaw stands for jaw, chin and cheeks.
LANDMARK_PARTS = {
    'eyebrows': tuple(range(17, 27)),
    'eyes': tuple(range(36, 48)),
    'nose': tuple(range(27, 36)),
    'mouth': tuple(range(48, 68)),
    'jaw': tuple(range(17)),
}
KINDS = ('parts', 'full', 'baseline')
PADDINGS = ('valid', 'same')
BLOCKS = 4
KERNEL = 3  # of convolutions and poolings


@dataclass(frozen=True, kw_only=True)
class PartEnsembleConfig:
    """Describe a part-based ensemble. Defaults are the paper's."""

    classes: int  # number of classes C
    image_size: int = 160  # height and width of the images
    # 'parts': each network transfers from one part; 'full': from all landmarks; 'baseline': none
    kind: str = KINDS[0]
    channels: tuple[int, int, int, int] = (16, 32, 64, 128)  # maps of the blocks; the last is F
    hidden: int = 128  # units of the hidden layers of both heads
    padding: str = PADDINGS[0]  # border of the convolutions: 'valid' none, 'same' keeps the size
    dropout: float = 0.0  # dropout rate after the hidden layers that classify; the paper has none

    def __post_init__(self) -> None:
        """Refuse values that make no network, naming the field and the value."""
        for name, least in (('classes', 1), ('image_size', 1), ('hidden', 1)):
            if getattr(self, name) < least:
                raise ValueError(f'{name} must be at least {least}, not {getattr(self, name)}')
        if len(self.channels) != BLOCKS or min(self.channels) < 1:
            raise ValueError(f'channels must be {BLOCKS} positive numbers, not {self.channels}')
        for name, allowed in (('kind', KINDS), ('padding', PADDINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f'{name} must be {" or ".join(allowed)}, not {getattr(self, name)!r}'
                )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f'dropout must be at least 0 and below 1, not {self.dropout}')
        side = self.image_size
        for _ in range(BLOCKS):
            side -= 2 * (KERNEL - 1) * (self.padding == 'valid')
            if side < 1:
                raise ValueError(
                    f'image_size {self.image_size} leaves nothing for the last block: it must be '
                    "at least 61, or the padding 'same'"
                )
            side = (side + 1) // 2

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the five networks."""
        if self.kind == 'parts':
            return tuple(LANDMARK_PARTS)
        return tuple(f'network_{number}' for number in range(1, len(LANDMARK_PARTS) + 1))

    @property
    def landmarks(self) -> tuple[tuple[int, ...], ...]:
        """The landmarks that each network learns to find, dlib's numbering; () for none."""
        if self.kind == 'parts':
            return tuple(LANDMARK_PARTS.values())
        found = tuple(range(LANDMARK_COUNT)) if self.kind == 'full' else ()
        return (found,) * len(LANDMARK_PARTS)


class PartEnsemble(ImageNetwork):
    """The ensemble: five sub-networks whose probabilities count alike (equation 4)."""

    def __init__(self, config: PartEnsembleConfig) -> None:
        """Build the ensemble with random weights."""
        size = config.channels[-1]
        super().__init__(
            frames=1,
            image_size=config.image_size,
            members=config.members,
            member_weights=(1.0 / len(config.members),) * len(config.members),
            feature_size=len(config.members) * size,
        )
        self.config = config
        self.parts = nn.ModuleList(
            SubNetwork(config, landmarks=landmarks) for landmarks in config.landmarks
        )

    def frame_features(self, images: Tensor) -> Tensor:
        """Put the features of all extractors side by side: images (N, 3, H, W) to (N, 5 F)."""
        return torch.cat([part.extractor(images) for part in self.sub_networks], -1)

    def random_part(self, features: Tensor) -> Tensor:
        """Classify: features (N, 1, 5 F) of single images to logits (N, 5, C)."""
        own = features[:, -1].unflatten(-1, (len(self.parts), -1))  # (N, 5, F)
        return torch.stack(
            [
                part.classification_head(own[:, index])
                for index, part in enumerate(self.sub_networks)
            ],
            1,
        )

    @property
    def sub_networks(self) -> list['SubNetwork']:
        """The sub-networks in the order of the members."""
        return [part for part in self.parts if isinstance(part, SubNetwork)]

    def localize(self, images: Tensor) -> list[Tensor]:
        """Find the landmarks of every member: images (N, 3, H, W) to (N, P, 2) each.

        In sides of the image: 0 to 1 from left to right, and from top to bottom. Raises
        ValueError for a baseline, which has learned none.
        """
        return [part.localize(images) for part in self.sub_networks]

    def parameter_count(self) -> int:
        """Count the parameters that answers need: those of localisation heads are left out."""
        return sum(part.parameter_count() for part in self.sub_networks)


class SubNetwork(nn.Module):
    """An extractor of features with two heads; the first one to learn finds landmarks."""

    def __init__(self, config: PartEnsembleConfig, *, landmarks: tuple[int, ...]) -> None:
        super().__init__()
        self.landmarks = landmarks  # that it finds, of the 68
        self.extractor = FeatureExtractor(config)
        self.localization_head = (
            LocalizationHead(config, points=len(landmarks)) if landmarks else None
        )
        self.classification_head = ClassificationHead(config)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (N, 3, H, W): logits (N, C)."""
        logits: Tensor = self.classification_head(self.extractor(images))
        return logits

    def localize(self, images: Tensor) -> Tensor:
        """Find its landmarks in images (N, 3, H, W): (N, P, 2), see PartEnsemble.localize."""
        if self.localization_head is None:
            raise ValueError('a baseline network has not learned to find landmarks')
        found: Tensor = self.localization_head(self.extractor(images))
        return found

    def parameter_count(self) -> int:
        """Count the parameters that answers need: extractor and classification head."""
        return sum(
            parameter.numel()
            for part in (self.extractor, self.classification_head)
            for parameter in part.parameters()
        )


class FeatureExtractor(nn.Module):
    """Four blocks of convolutions, each followed by max pooling, and global average pooling."""

    def __init__(self, config: PartEnsembleConfig) -> None:
        super().__init__()
        widths = (3, *config.channels)
        self.blocks = nn.Sequential(
            *(
                ConvolutionBlock(widths[index], widths[index + 1], padding=config.padding)
                for index in range(BLOCKS)
            )
        )
        self.pooling = nn.MaxPool2d(KERNEL, stride=2, padding=KERNEL // 2)

    def forward(self, images: Tensor) -> Tensor:
        """Compute features: (N, 3, H, W) to (N, F)."""
        maps = images
        for block in self.blocks:
            maps = self.pooling(block(maps))  # half as large, rounded up
        return maps.mean((2, 3))


class ConvolutionBlock(nn.Sequential):
    """Two convolutions, each with batch norm and ReLU; He's uniform initialisation."""

    def __init__(self, in_channels: int, out_channels: int, *, padding: str) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, KERNEL, padding=padding),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, KERNEL, padding=padding),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
        for module in self:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, nonlinearity='relu')
                nn.init.zeros_(module.bias)


class LocalizationHead(nn.Module):
    """Finds landmarks: a hidden layer and one of two coordinates for each of P points."""

    def __init__(self, config: PartEnsembleConfig, *, points: int) -> None:
        super().__init__()
        self.points = points
        self.layers = nn.Sequential(
            dense(config.channels[-1], config.hidden),
            nn.ReLU(inplace=True),
            dense(config.hidden, 2 * points),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, F) to (N, P, 2)."""
        coordinates: Tensor = self.layers(features)
        return coordinates.unflatten(-1, (self.points, 2))


class ClassificationHead(nn.Sequential):
    """Tells expressions: two hidden layers and one of C logits, (N, F) to (N, C)."""

    def __init__(self, config: PartEnsembleConfig) -> None:
        super().__init__(
            dense(config.channels[-1], config.hidden),
            nn.ReLU(inplace=True),
            SeededDropout(config.dropout),
            dense(config.hidden, config.hidden),
            nn.ReLU(inplace=True),
            SeededDropout(config.dropout),
            dense(config.hidden, config.classes),
        )


def dense(inputs: int, outputs: int) -> nn.Linear:
    """Make a dense layer with Glorot's uniform initialisation."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
