# SPDX-License-Identifier: Apache-2.0
"""The matrices of the face graph say what the edge list says."""

import numpy as np
import pytest

from fer_perception.graph.edges import EDGE_LISTS, load_edge_list
from fer_training.comparison.face_graph import (
    NODE_COUNT,
    adjacency_partitions,
    incidence_matrices,
    normalized_adjacency,
    squared_adjacency,
)


@pytest.mark.parametrize('name', EDGE_LISTS)
def test_adjacency_is_normalised_by_the_degrees_of_both_ends(name: str) -> None:
    edges = load_edge_list(name)
    neighbours: list[set[int]] = [set() for _ in range(NODE_COUNT)]
    for source, target in (edges - 17).tolist():
        if source != target:
            neighbours[source].add(target)
            neighbours[target].add(source)
    expected = np.zeros((NODE_COUNT, NODE_COUNT))
    for node, others in enumerate(neighbours):
        for other in others:
            expected[node, other] = (len(others) * len(neighbours[other])) ** -0.5
    adjacency = normalized_adjacency(edges)
    np.testing.assert_allclose(adjacency, expected, rtol=1e-6)
    assert np.abs(np.linalg.eigvalsh(adjacency)).max() == pytest.approx(1.0, abs=1e-5)


def test_square_sums_over_the_paths_of_two_edges() -> None:
    edges = load_edge_list()
    adjacency, squared = normalized_adjacency(edges), squared_adjacency(edges)
    expected = np.zeros_like(squared)
    for start in range(NODE_COUNT):
        for middle in np.flatnonzero(adjacency[start]):
            expected[start] += adjacency[start, middle] * adjacency[middle]
    np.testing.assert_allclose(squared, expected, atol=1e-6)
    # Through the nose, every landmark is two edges from every other.
    assert (squared > 0).all()


def test_partitions_are_the_node_itself_its_neighbours_and_theirs() -> None:
    partitions = adjacency_partitions(load_edge_list())
    assert partitions.shape == (3, NODE_COUNT, NODE_COUNT) and partitions.dtype == np.float32
    np.testing.assert_array_equal(partitions[0], np.eye(NODE_COUNT))
    np.testing.assert_array_equal(partitions[1], normalized_adjacency(load_edge_list()))


def test_a_node_without_edges_has_rows_of_zeros_and_nothing_is_nan() -> None:
    edges = np.array([[17, 18], [18, 19]])
    assert not normalized_adjacency(edges)[5].any()
    incidence = incidence_matrices(edges)
    assert np.isfinite(incidence).all() and not incidence[:, 5].any()


@pytest.mark.parametrize('name', EDGE_LISTS)
def test_incidence_averages_over_the_edges_that_leave_and_arrive(name: str) -> None:
    edges = load_edge_list(name)
    incidence = incidence_matrices(edges)
    assert incidence.shape == (2, NODE_COUNT, len(edges))
    for end in range(2):
        for node in range(NODE_COUNT):
            own = edges[:, end] == node + 17
            expected = own / max(own.sum(), 1)
            np.testing.assert_allclose(incidence[end, node], expected, rtol=1e-6)


def test_landmarks_of_the_jaw_are_refused() -> None:
    with pytest.raises(ValueError, match='17 to 67'):
        normalized_adjacency(np.array([[3, 20]]))
