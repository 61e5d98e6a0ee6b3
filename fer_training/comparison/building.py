# SPDX-License-Identifier: Apache-2.0
"""Comparison networks by name."""

from fer_perception.graph.edges import EDGE_LISTS, load_edge_list
from fer_training.comparison.agcn import Agcn, AgcnConfig
from fer_training.comparison.config import PAPER_CHANNELS
from fer_training.comparison.dgnn import Dgnn, DgnnConfig
from fer_training.comparison.network import ComparisonNetwork
from fer_training.comparison.st_gcn import StGcn, StGcnConfig

COMPARISON_NETWORKS = ('st_gcn', 'agcn', 'dgnn')


def build_comparison_network(
    name: str,
    *,
    classes: int,
    channels: tuple[int, ...] = PAPER_CHANNELS,
    dropout: float = 0.2,
    edge_list: str = EDGE_LISTS[0],
    quiet: bool = False,
) -> ComparisonNetwork:
    """Build a network that takes the inner landmarks (N, 2, T, 51), its weights drawn anew.

    name: 'st_gcn', 'agcn' or 'dgnn'; edge_list: a frozen list of the package. Unless `quiet` the
    network prints its parameter counts. Raises ValueError for an unknown name or a bad value.
    """
    if name not in COMPARISON_NETWORKS:
        raise ValueError(
            f'unknown comparison network {name!r}; there are {", ".join(COMPARISON_NETWORKS)}'
        )
    edges = tuple((source, target) for source, target in load_edge_list(edge_list).tolist())
    if name == 'st_gcn':
        return StGcn(
            StGcnConfig(classes=classes, edge_list=edges, channels=channels, dropout=dropout),
            quiet=quiet,
        )
    if name == 'agcn':
        return Agcn(
            AgcnConfig(classes=classes, edge_list=edges, channels=channels, dropout=dropout),
            quiet=quiet,
        )
    return Dgnn(
        DgnnConfig(classes=classes, edge_list=edges, channels=channels, dropout=dropout),
        quiet=quiet,
    )
