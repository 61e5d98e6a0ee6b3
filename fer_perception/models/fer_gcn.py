# SPDX-License-Identifier: Apache-2.0
"""FER-GCN: frames as the nodes of a graph whose adjacency is learned.

Liu, Zhang and Zhou, "Video-based Facial Expression Recognition using Graph Convolutional
Networks". Section III-A describes the graph modules, III-B the fusion, IV-B the sizes.

Where the paper is silent:

- How 512 maps become a vector of d = 256: here by global average pooling and a linear layer.
- What the hidden states of equation 6 are. The text says BiLSTM throughout, but the equation has
  neither gates nor cells, and its hidden states of d values are twice as many as the d/2 it
  computes. `recurrence='lstm'` (the default, as all results of the paper are told of a BiLSTM)
  puts an LSTM of d/2 units in the place of each sigmoid term and keeps the outer form of the
  equation. `recurrence='equation_6'` computes the equation as it is written; the next hidden
  state is what one direction adds to the answer, V sigmoid(U [s, o]), the only term of one
  direction that has d values. Both start from zeros.
- How the variants without weighted fusion answer: here by the mean over the frames.

Shapes: N sequences, T frames of each (the paper's N), d features, C classes.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_perception.models.backbone_weights import load_vgg16_bn
from fer_perception.models.dropout import SeededDropout
from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.vgg import SMALLEST_IMAGE, VGG16_FEATURES, vgg16_bn_features

RECURRENCES = ('lstm', 'equation_6')
MOST_MODULES = 3  # of table V
NEGATIVE_SLOPE = 0.2  # of the LeakyReLU (IV-B)


@dataclass(frozen=True, kw_only=True)
class FerGcnConfig:
    """Describe a FER-GCN. Defaults are the paper's."""

    classes: int  # number of classes C
    image_size: int = 224  # height and width of the images, 32 or more
    frames: int = 16  # frames T of a sequence, which are the nodes of the graph
    features: int = 256  # features d of a node, an even number
    modules: int = 2  # graph modules, 0 (VGG16 alone) to 3 (table V)
    weighted_fusion: bool = True  # fuse frames by intensity weights (8), else by their mean
    recurrence: str = RECURRENCES[0]  # 'lstm' or 'equation_6', see the module
    dropout: float = 0.0  # dropout rate after each graph module; the paper has none
    width: int = 64  # maps of the VGG16's first convolutions; others fit no published weights

    def __post_init__(self) -> None:
        """Refuse values that make no network, naming the field and the value."""
        for name, least in (
            ('classes', 1),
            ('image_size', SMALLEST_IMAGE),
            ('frames', 1),
            ('features', 2),
            ('modules', 0),
            ('width', 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f'{name} must be at least {least}, not {getattr(self, name)}')
        if self.features % 2:
            raise ValueError(f'features must be an even number, not {self.features}')
        if self.modules > MOST_MODULES:
            raise ValueError(f'modules must be at most {MOST_MODULES}, not {self.modules}')
        if self.weighted_fusion and not self.modules:
            raise ValueError(
                'weighted_fusion must be False where modules is 0: there is no adjacency then'
            )
        if self.recurrence not in RECURRENCES:
            raise ValueError(
                f'recurrence must be {" or ".join(RECURRENCES)}, not {self.recurrence!r}'
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f'dropout must be at least 0 and below 1, not {self.dropout}')


class FerGcn(ImageNetwork):
    """The network: VGG16-BN of each frame, graph modules, weighted fusion, one linear layer."""

    def __init__(self, config: FerGcnConfig) -> None:
        """Build the network with random weights and, as adjacency, the identity."""
        super().__init__(
            frames=config.frames,
            image_size=config.image_size,
            members=('fer_gcn',),
            member_weights=(1.0,),
            feature_size=config.features,
        )
        self.config = config
        self.features = vgg16_bn_features(config.width)
        self.projection = nn.Linear(VGG16_FEATURES * config.width, config.features)
        self.adjacency = nn.Parameter(torch.eye(config.frames)) if config.modules else None  # A
        self.graph_modules = nn.ModuleList(
            GraphModule(
                features=config.features, recurrence=config.recurrence, dropout=config.dropout
            )
            for _ in range(config.modules)
        )
        self.classifier = nn.Linear(config.features, config.classes)

    def frame_features(self, images: Tensor) -> Tensor:
        """Compute the nodes of the graph: images (N, 3, H, W) to (N, d)."""
        maps = self.features(images)  # (N, 8 width, H // 32, W // 32)
        nodes: Tensor = self.projection(maps.mean((2, 3)))
        return nodes

    def random_part(self, features: Tensor) -> Tensor:
        """Answer for sequences of nodes (N, T, d): logits (N, 1, C)."""
        for module in self.graph_modules:
            features = module(features, self.adjacency)
        logits: Tensor = self.classifier(self._fuse(features))
        return logits[:, None]  # (N, C) -> (N, 1, C)

    def intensity_weights(self) -> Tensor:
        """Weight the frames by the intensity of their expression (equation 7).

        Returns (T,) that sum to 1, without gradient; all alike where there is no adjacency.
        """
        if self.adjacency is None:
            return self.classifier.bias.new_full((self.frames,), 1.0 / self.frames)
        # Influence of each frame on the others: the mean of its column
        return self.adjacency.detach().mean(0).softmax(0)

    def load_backbone(self, path: Path) -> None:
        """Start from published weights of a VGG16-BN, whatever its classes.

        Raises ModelFileError naming the file and what is wrong in it.
        """
        published = load_vgg16_bn(path, width=self.config.width)
        self.features.load_state_dict(published.features.state_dict())

    def _fuse(self, features: Tensor) -> Tensor:
        """Fuse the frames of a sequence (equation 8): (N, T, d) to (N, d)."""
        if self.config.weighted_fusion:
            return self.intensity_weights() @ features
        return features.mean(1)


class GraphModule(nn.Module):
    """A graph layer (equations 1 to 4) and a recurrent one (equation 6)."""

    def __init__(self, *, features: int, recurrence: str, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Linear(features, features, bias=False)  # W, transposed
        self.recurrence: nn.Module = (
            LstmRecurrence(features) if recurrence == 'lstm' else WrittenRecurrence(features)
        )
        self.dropout = SeededDropout(dropout)

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        """Share the features of the nodes, then follow them over time.

        features: (N, T, d); adjacency: (T, T), how much each node (row) takes from each (column).
        Returns (N, T, d), -1 to 1.
        """
        shared = F.leaky_relu(adjacency @ self.embedding(features), NEGATIVE_SLOPE)
        followed: Tensor = self.dropout(self.recurrence(shared))
        return followed


class LstmRecurrence(nn.Module):
    """Equation 6 with LSTMs of d/2 units in the place of its two sigmoid terms."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, features // 2, batch_first=True, bidirectional=True)
        self.projection = nn.Linear(features, features)  # V_f beside V_b, and b

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, T, d) to (N, T, d)."""
        states, _ = self.lstm(features)  # (N, T, d): d/2 forward, d/2 backward
        return torch.tanh(self.projection(states))


class WrittenRecurrence(nn.Module):
    """Equation 6 as it is written, with hidden states V sigmoid(U [s, o])."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.forward_embedding = nn.Linear(2 * features, features // 2, bias=False)  # U_f
        self.backward_embedding = nn.Linear(2 * features, features // 2, bias=False)  # U_b
        self.forward_projection = nn.Linear(features // 2, features, bias=False)  # V_f
        self.backward_projection = nn.Linear(features // 2, features, bias=False)  # V_b
        self.bias = nn.Parameter(torch.zeros(features))  # b

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, T, d) to (N, T, d)."""
        ahead = _follow(features, self.forward_embedding, self.forward_projection)
        back = _follow(features.flip(1), self.backward_embedding, self.backward_projection)
        return torch.tanh(ahead + back.flip(1) + self.bias)


def _follow(features: Tensor, embedding: nn.Module, projection: nn.Module) -> Tensor:
    """Return the hidden states of one direction after each frame: (N, T, d) to (N, T, d)."""
    state = torch.zeros_like(features[:, 0])
    states = []
    for frame in features.unbind(1):
        state = projection(torch.sigmoid(embedding(torch.cat((state, frame), -1))))
        states.append(state)
    return torch.stack(states, 1)
