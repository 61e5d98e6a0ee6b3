# SPDX-License-Identifier: Apache-2.0
"""What the comparison networks have in common in their description."""

from dataclasses import dataclass

import numpy as np

from fer_perception.graph.edges import check_edge_list

# The paper's {8, 16, 16, 32, 32, 64, 64}: the widths of DGNN, for all networks (PST-BLN, IV-C).
PAPER_CHANNELS = (8, 16, 16, 32, 32, 64, 64)


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Describe a network on the face graph that takes the 51 inner landmarks."""

    classes: int  # number of classes C
    edge_list: tuple[tuple[int, int], ...]  # source and target landmark of each edge, 17..67
    channels: tuple[int, ...] = PAPER_CHANNELS  # output channels of each layer
    in_channels: int = 2  # coordinates of a landmark
    kernel_size: int = 9  # frames K seen by a temporal convolution, centred
    strides: tuple[int, ...] = ()  # temporal stride of each layer; empty: 2 in layers 4 and 7
    dropout: float = 0.2  # rate of the dropout after each layer (PST-BLN, III-D)

    def __post_init__(self) -> None:
        """Refuse values that make no network, naming the field and the value."""
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f'channels must be positive numbers, one a layer: {self.channels}')
        if not self.strides:
            strides = tuple(2 if layer in (4, 7) else 1 for layer in range(len(self.channels)))
            object.__setattr__(self, 'strides', strides)
        if len(self.strides) != len(self.channels) or min(self.strides) < 1:
            raise ValueError(f'strides must be one positive number a layer: {self.strides}')
        for name in ('classes', 'in_channels', 'kernel_size'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, not {getattr(self, name)}')
        if self.kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, not {self.kernel_size}')
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f'dropout must be at least 0 and below 1, not {self.dropout}')
        check_edge_list(self.edges)

    @property
    def edges(self) -> np.ndarray:
        """The edge list as an array (E, 2)."""
        return np.array(self.edge_list)
