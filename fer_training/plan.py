# SPDX-License-Identifier: Apache-2.0
"""A plan for a network of clips: which architecture, fixed or grown, and how it is fitted."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch

from fer_perception.graph.edges import load_edge_list
from fer_perception.models.dropout import MASK_KINDS
from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_training.comparison.building import COMPARISON_NETWORKS, build_comparison_network
from fer_training.comparison.network import ComparisonNetwork
from fer_training.dataset import TrainingSet
from fer_training.first_weights import FirstWeights
from fer_training.fitting import FitConfig, fit
from fer_training.growth import GrowthConfig, grow
from fer_training.inputs import Augmentation, NetworkInput

ARCHITECTURES = ('pst_bln', *COMPARISON_NETWORKS)

ClipNetwork: TypeAlias = PstBln | ComparisonNetwork


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """Say which network to make and how to fit it."""

    architecture: str  # 'pst_bln' (of fixed width also known as ST-BLN), 'st_gcn', 'agcn', 'dgnn'
    template: PstBlnConfig  # classes, channels and dropout of any; all else of a PST-BLN
    edge_list: str
    fit: FitConfig
    growth: GrowthConfig | None = None  # grow instead of fitting the template's channels
    augmentation: Augmentation = Augmentation()
    first_weights: FirstWeights | None = None  # fine-tune these
    baseline_frames: int = 0  # span of the baseline that a streaming network sees; 0: none

    def __post_init__(self) -> None:
        """Refuse plans that cannot be carried out."""
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f'unknown architecture {self.architecture!r}; there are {", ".join(ARCHITECTURES)}'
            )
        if self.growth is not None and self.architecture != 'pst_bln':
            raise ValueError(f'only a PST-BLN grows, not {self.architecture}')
        if self.first_weights is not None and self.growth is not None:
            raise ValueError('a network that grows cannot begin with the weights of another')
        if self.first_weights is not None and self.architecture != 'pst_bln':
            raise ValueError(f'only a PST-BLN begins with weights, not {self.architecture}')
        masks = self.template.dropout_masks
        if masks != MASK_KINDS[0] and self.architecture != 'pst_bln':
            raise ValueError(f'only a PST-BLN has {masks!r} masks, not {self.architecture}')

    @property
    def network_input(self) -> NetworkInput:
        """What the network reads: edge vectors for a PST-BLN, landmarks for all others."""
        reads_edges = self.architecture == 'pst_bln'
        edges = torch.from_numpy(load_edge_list(self.edge_list)) if reads_edges else None
        return NetworkInput(
            edges=edges,
            augmentation=self.augmentation,
            baseline_frames=self.baseline_frames,
        )

    def with_seed(self, seed: int) -> 'NetworkPlan':
        """Return the same plan with another seed."""
        growth = self.growth
        if growth is not None:
            final = None if growth.final is None else replace(growth.final, seed=seed)
            growth = replace(growth, step=replace(growth.step, seed=seed), final=final)
        return replace(self, fit=replace(self.fit, seed=seed), growth=growth)

    def carry_out(
        self,
        data: TrainingSet,
        *,
        checkpoint: Path,
        progress: bool = True,
        log: Callable[[str], None] = print,
    ) -> ClipNetwork:
        """Make the network.

        An interrupted run goes on from `checkpoint`, growth from what it keeps beside it.
        """
        if self.growth is not None:
            return grow(
                self.template, data, network_input=self.network_input, config=self.growth,
                folder=checkpoint.parent, progress=progress, log=log,
            ).network
        torch.manual_seed(self.fit.seed)
        network: ClipNetwork
        if self.first_weights is not None:
            network = self.first_weights.load(self.template)
        elif self.architecture == 'pst_bln':
            network = PstBln(self.template, quiet=True)
        else:
            network = build_comparison_network(
                self.architecture,
                classes=self.template.classes,
                channels=self.template.channels,
                dropout=self.template.dropout,
                edge_list=self.edge_list,
                quiet=True,
            )
        fit(
            network, data, network_input=self.network_input, config=self.fit,
            checkpoint=checkpoint, progress=progress, log=log,
            origin='' if self.first_weights is None else self.first_weights.sha256,
        )
        return network
