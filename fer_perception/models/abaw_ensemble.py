# SPDX-License-Identifier: Apache-2.0
"""The ABAW ensemble: a CNN, a CNN with a recurrent network and a CNN with a transformer.

Mao, Fan and Peng, "Spatial and Temporal Networks for Facial Expression Recognition in the Wild
Videos". Section 2 describes the members, 3.2 the nine frames of which the middle one is answered.

Where the paper is silent, the defaults are those of the program that its authors published:
features projected to 768 values (with a ReLU before the recurrent network), a bidirectional GRU
of 384 units each way followed by a ReLU, a transformer of two layers with 12 heads, normalised
before each part of a layer, and GELU. Other than there, the GRU has the paper's two layers, the
sinusoidal positions are those of the frames (there, by an error, those of the sequences in a
batch), and the dropout is that of "Attention is all you need", 0.1 (there 0.5, in the transformer
only). The paper gives no weights for the sum of the members: they count alike.

Shapes: N sequences, T frames of each, F features of a frame, M members, C classes.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_perception.models.backbone_weights import load_resnet50
from fer_perception.models.dropout import SeededDropout
from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.resnet import (
    RESNET50_BLOCKS,
    RESNET50_FEATURES,
    SMALLEST_IMAGE,
    ResNet50,
)

MEMBERS = ('cnn', 'cnn_gru', 'cnn_transformer')
GRU_DEPTH = 2  # section 2.2
LONGEST_WAVE = 10_000.0  # of the positions, in units of 2 pi frames


@dataclass(frozen=True, kw_only=True)
class AbawEnsembleConfig:
    """Describe an ABAW ensemble. Defaults are the paper's or, failing that, its program's."""

    classes: int  # number of classes C
    image_size: int = 112  # height and width of the images, 32 or more
    frames: int = 9  # frames T of a sequence, an odd number; the middle one is answered
    weights: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)  # of MEMBERS, they sum to 1
    shared_backbone: bool = False  # one ResNet50 for the three members, else one for each
    features: int = 768  # values of a frame in the GRU and the transformer, an even number
    layers: int = 2  # layers of the transformer
    heads: int = 12  # of its attention, a divisor of `features`
    feedforward: int = 3072  # hidden units of its layers
    dropout: float = 0.1  # dropout rate, in the transformer and before the last layers
    caffe_layout: bool = False  # strides as in VGGFace2's weights from Caffe, see ResNet50
    width: int = 64  # maps of the ResNet50's first layer; others fit no published weights
    blocks: tuple[int, int, int, int] = RESNET50_BLOCKS  # of its four layers; likewise

    def __post_init__(self) -> None:
        """Refuse values that make no network, naming the field and the value."""
        for name, least in (
            ('classes', 1),
            ('image_size', SMALLEST_IMAGE),
            ('frames', 1),
            ('features', 2),
            ('layers', 1),
            ('heads', 1),
            ('feedforward', 1),
            ('width', 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f'{name} must be at least {least}, not {getattr(self, name)}')
        if self.frames % 2 == 0:
            raise ValueError(f'frames must be odd, so that one is the middle, not {self.frames}')
        if self.features % 2:
            raise ValueError(f'features must be an even number, not {self.features}')
        if self.features % self.heads:
            raise ValueError(f'heads must divide features {self.features}, not be {self.heads}')
        if (
            len(self.weights) != len(MEMBERS)
            or not min(self.weights) >= 0
            or not abs(sum(self.weights) - 1.0) < 1e-6
        ):
            raise ValueError(
                f'weights must be {len(MEMBERS)} numbers of 0 or more, one for each of '
                f'{", ".join(MEMBERS)}, that sum to 1, not {self.weights}'
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f'dropout must be at least 0 and below 1, not {self.dropout}')
        if len(self.blocks) != len(RESNET50_BLOCKS) or min(self.blocks) < 1:
            raise ValueError(f'blocks must be four positive numbers, not {self.blocks}')


class AbawEnsemble(ImageNetwork):
    """The three members, each of which answers for every frame, and their weighted sum."""

    def __init__(self, config: AbawEnsembleConfig) -> None:
        """Build the ensemble with random weights."""
        cnn_features = RESNET50_FEATURES * config.width
        super().__init__(
            frames=config.frames,
            image_size=config.image_size,
            members=MEMBERS,
            member_weights=config.weights,
            feature_size=cnn_features + 2 * config.features,
        )
        self.config = config
        self.sizes = (cnn_features, config.features, config.features)  # of a frame, by member
        self.backbones = nn.ModuleList(
            ResNet50(
                classes=0,
                width=config.width,
                blocks=config.blocks,
                caffe_layout=config.caffe_layout,
            )
            for _ in range(1 if config.shared_backbone else len(MEMBERS))
        )
        self.gru_projection = nn.Linear(cnn_features, config.features)
        self.transformer_projection = nn.Linear(cnn_features, config.features)
        self.cnn = FrameHead(cnn_features, config=config)
        self.cnn_gru = GruHead(config)
        self.cnn_transformer = TransformerHead(config)

    def frame_features(self, images: Tensor) -> Tensor:
        """Compute what each member keeps of a frame: images (N, 3, H, W) to (N, F).

        F are the values of the CNN, and the projected ones of the other two members.
        """
        pooled = [backbone(images) for backbone in self.backbones]  # (N, 32 width) each
        of_cnn, of_gru, of_transformer = pooled * len(MEMBERS) if len(pooled) == 1 else pooled
        return torch.cat(
            (
                of_cnn,
                F.relu(self.gru_projection(of_gru)),
                self.transformer_projection(of_transformer),
            ),
            -1,
        )

    def random_part(self, features: Tensor) -> Tensor:
        """Answer for the middle frames of sequences: features (N, T, F) to logits (N, M, C)."""
        of_cnn, of_gru, of_transformer = features.split(self.sizes, -1)
        middle = features.shape[1] // 2
        return torch.stack(
            (
                self.cnn(of_cnn[:, middle]),
                self.cnn_gru(of_gru)[:, middle],
                self.cnn_transformer(of_transformer)[:, middle],
            ),
            1,
        )

    def logits_over_time(self, features: Tensor) -> Tensor:
        """Answer for every frame, as in training: features (N, T, F) to logits (N, T, M, C)."""
        of_cnn, of_gru, of_transformer = features.split(self.sizes, -1)
        return torch.stack(
            (self.cnn(of_cnn), self.cnn_gru(of_gru), self.cnn_transformer(of_transformer)), 2
        )

    def load_backbone(self, path: Path, *, bgr: bool = False) -> None:
        """Start every ResNet50 from published weights, whatever their classes.

        bgr: see load_resnet50. Raises ModelFileError naming the file and what is wrong in it.
        """
        published = load_resnet50(
            path,
            width=self.config.width,
            blocks=self.config.blocks,
            caffe_layout=self.config.caffe_layout,
            bgr=bgr,
        )
        published.fc = nn.Identity()
        for backbone in self.backbones:
            backbone.load_state_dict(published.state_dict())


class FrameHead(nn.Module):
    """Dropout and a linear layer: features of frames to logits."""

    def __init__(self, features: int, *, config: AbawEnsembleConfig) -> None:
        super().__init__()
        self.dropout = SeededDropout(config.dropout)
        self.linear = nn.Linear(features, config.classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (..., features) to logits (..., C)."""
        logits: Tensor = self.linear(self.dropout(features))
        return logits


class GruHead(nn.Module):
    """The recurrent member: a bidirectional GRU over the frames, and a head for each."""

    def __init__(self, config: AbawEnsembleConfig) -> None:
        super().__init__()
        self.gru = nn.GRU(
            config.features,
            config.features // 2,
            num_layers=GRU_DEPTH,
            batch_first=True,
            bidirectional=True,
        )
        self.head = FrameHead(config.features, config=config)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, T, features) to logits (N, T, C)."""
        states, _ = self.gru(features)  # (N, T, features)
        logits: Tensor = self.head(F.relu(states))
        return logits


class TransformerHead(nn.Module):
    """The transformer member: positions, encoder layers, and a head for each frame."""

    def __init__(self, config: AbawEnsembleConfig) -> None:
        super().__init__()
        self.dropout = SeededDropout(config.dropout)
        self.layers = nn.Sequential(
            *(
                EncoderLayer(
                    features=config.features,
                    heads=config.heads,
                    feedforward=config.feedforward,
                    dropout=config.dropout,
                )
                for _ in range(config.layers)
            )
        )
        self.norm = nn.LayerNorm(config.features)
        self.head = FrameHead(config.features, config=config)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, T, features) to logits (N, T, C)."""
        positions = sinusoidal_positions(features.shape[1], features.shape[2]).to(features)
        encoded = self.layers(self.dropout(features + positions))
        logits: Tensor = self.head(self.norm(encoded))
        return logits


class EncoderLayer(nn.Module):
    """An encoder layer whose dropout masks can be seeded, normalised before each part."""

    def __init__(self, *, features: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(features)
        self.queries_keys_values = nn.Linear(features, 3 * features)
        self.attention_output = nn.Linear(features, features)
        self.attention_dropout = SeededDropout(dropout)
        self.feedforward_norm = nn.LayerNorm(features)
        self.feedforward = nn.Sequential(
            nn.Linear(features, feedforward),
            nn.GELU(),
            SeededDropout(dropout),
            nn.Linear(feedforward, features),
            SeededDropout(dropout),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, T, features) to the same shape."""
        frames = frames + self.attention_dropout(self._attend(self.attention_norm(frames)))
        encoded: Tensor = frames + self.feedforward(self.feedforward_norm(frames))
        return encoded

    def _attend(self, frames: Tensor) -> Tensor:
        n, t, features = frames.shape
        size = features // self.heads
        parts = self.queries_keys_values(frames).reshape(n, t, 3, self.heads, size)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # (N, heads, T, size) each
        weights = (queries @ keys.transpose(-1, -2) * size**-0.5).softmax(-1)  # (N, heads, T, T)
        mixed = (weights @ values).transpose(1, 2).reshape(n, t, features)
        output: Tensor = self.attention_output(mixed)
        return output


def sinusoidal_positions(frames: int, features: int) -> Tensor:
    """Compute the positions that tell frames apart: (frames, features), -1 to 1.

    "Attention is all you need", section 3.5: sines of lower and lower frequency in the even
    places, their cosines in the odd ones.
    """
    places = torch.arange(0, features, 2) / features
    angles = torch.arange(frames)[:, None] / LONGEST_WAVE**places  # (frames, features / 2)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)
