# SPDX-License-Identifier: Apache-2.0
"""The edges of the face graph: frozen lists of landmark pairs and their vectors."""

import json
from importlib import resources

import numpy as np

from fer_perception.graph.landmarks import INNER_LANDMARKS, check_landmarks

EDGE_LISTS = ('edges_181', 'edges_312_reference')


def load_edge_list(name: str = 'edges_181') -> np.ndarray:
    """Load a frozen edge list of the package.

    'edges_181' is the project's own list: unique edges of a mean face, no self-edge.
    'edges_312_reference' repeats inner edges and holds the nose's self-edge as the reference
    implementation of PST-BLN does; it exists for comparison only.

    Returns (E, 2) int64: source and target landmark of each edge in dlib's numbering, 17..67.
    Raises ValueError for an unknown name.
    """
    if name not in EDGE_LISTS:
        raise ValueError(f'unknown edge list {name!r}; there are {", ".join(EDGE_LISTS)}')
    text = resources.files('fer_perception.graph').joinpath(f'{name}.json').read_text('utf-8')
    return check_edge_list(np.array(json.loads(text)['edges']))


def check_edge_list(edges: np.ndarray) -> np.ndarray:
    """Check an edge list and return it as (E, 2) int64.

    Raises ValueError if the shape is wrong or a landmark is not one of the inner ones, 17..67.
    """
    if edges.ndim != 2 or edges.shape[1] != 2 or not len(edges):
        raise ValueError(f'an edge list must have the shape (E, 2), not {edges.shape}')
    if not np.issubdtype(edges.dtype, np.integer):
        raise ValueError(f'an edge list must hold landmark numbers, not {edges.dtype}')
    if edges.min() < INNER_LANDMARKS[0] or edges.max() > INNER_LANDMARKS[-1]:
        raise ValueError(
            f'edges must join landmarks {INNER_LANDMARKS[0]} to {INNER_LANDMARKS[-1]}, '
            f'but this list has {edges.min()} to {edges.max()}'
        )
    return edges.astype(np.int64)


def edge_vectors(landmarks: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Compute the vector of every edge: source minus target (PST-BLN, III-A).

    landmarks: (..., T, 68, 2) normalised; edges: (E, 2). Returns (..., 2, T, E) float32.
    """
    check_landmarks(landmarks)
    vectors = landmarks[..., edges[:, 0], :] - landmarks[..., edges[:, 1], :]  # (..., T, E, 2)
    return np.ascontiguousarray(np.moveaxis(vectors, -1, -3), dtype=np.float32)  # (..., 2, T, E)
