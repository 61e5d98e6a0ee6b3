# SPDX-License-Identifier: Apache-2.0
"""Matrices of the face graph: adjacency of the 51 inner landmarks and incidence of the edges.

V = 51 nodes in the order of the inner landmarks (17..67), E edges in the order of the edge list.
"""

import numpy as np

from fer_perception.graph.edges import check_edge_list
from fer_perception.graph.landmarks import INNER_LANDMARKS

NODE_COUNT = len(INNER_LANDMARKS)


def edge_nodes(edges: np.ndarray) -> np.ndarray:
    """Return the source and the target node of every edge, counted from 0.

    edges: (E, 2) landmark numbers 17..67. Returns (2, E) int64, values 0..50.
    """
    return np.ascontiguousarray((check_edge_list(edges) - INNER_LANDMARKS[0]).T)


def normalized_adjacency(edges: np.ndarray) -> np.ndarray:
    """Compute the symmetric normalised adjacency D^-1/2 A D^-1/2.

    A joins the two ends of each edge once, in both directions; the self-edge of the nose and
    repeated edges of the reference's list add nothing. A node without an edge has a row of zeros.
    edges: (E, 2) landmark numbers 17..67. Returns (V, V) float32.
    """
    source, target = edge_nodes(edges)
    adjacency = np.zeros((NODE_COUNT, NODE_COUNT))
    adjacency[source, target] = adjacency[target, source] = 1.0
    np.fill_diagonal(adjacency, 0.0)
    scale = np.maximum(adjacency.sum(1), 1.0) ** -0.5  # (V,)
    return (scale[:, None] * adjacency * scale).astype(np.float32)


def squared_adjacency(edges: np.ndarray) -> np.ndarray:
    """Compute the square of the normalised adjacency: the weights of all paths of two edges.

    edges: (E, 2) landmark numbers 17..67. Returns (V, V) float32.
    """
    adjacency = normalized_adjacency(edges)
    return adjacency @ adjacency


def adjacency_partitions(edges: np.ndarray) -> np.ndarray:
    """Stack the neighbours of a node by their distance: itself, one edge, two edges away.

    It is the distance partitioning of ST-GCN (Yan et al., 3.3) with the squared adjacency that
    the paper uses in ST-GCN and AGCN (PST-BLN, IV-C).
    edges: (E, 2) landmark numbers 17..67. Returns (3, V, V) float32: identity, A, A squared.
    """
    identity = np.eye(NODE_COUNT, dtype=np.float32)
    return np.stack([identity, normalized_adjacency(edges), squared_adjacency(edges)])


def incidence_matrices(edges: np.ndarray) -> np.ndarray:
    """Compute the directed incidence matrices, normalised by the edges at a node (DGNN, 3.3).

    Row v of the first matrix averages over the edges that leave node v, of the second over those
    that arrive there; repeated edges count as often as they are listed.
    edges: (E, 2) landmark numbers 17..67. Returns (2, V, E) float32: source, target.
    """
    nodes = edge_nodes(edges)
    incidence = (nodes[:, None] == np.arange(NODE_COUNT)[:, None]).astype(np.float32)  # (2, V, E)
    return incidence / np.maximum(incidence.sum(-1, keepdims=True), 1.0)
