# SPDX-License-Identifier: Apache-2.0
"""The frozen edge lists are what they say, and edge vectors are differences."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from fer_perception.graph.edges import check_edge_list, edge_vectors, load_edge_list
from fer_perception.graph.landmarks import MIRROR, NOSE, mirror_landmarks
from fer_training.cli import main
from fer_training.edge_lists import reference_edges, unique_edges
from fer_training.face_basis import load_face_basis


def test_own_list_has_181_unique_edges_without_self_edge() -> None:
    edges = load_edge_list('edges_181')
    assert edges.shape == (181, 2)
    assert (edges[:, 0] != edges[:, 1]).all()
    assert len({frozenset(edge) for edge in edges.tolist()}) == 181
    assert {int(point) for point in edges.ravel()} == set(range(17, 68))


def test_every_landmark_has_an_edge_to_the_nose() -> None:
    pairs = {frozenset(edge) for edge in load_edge_list('edges_181').tolist()}
    assert all(frozenset((point, NOSE)) in pairs for point in range(17, 68) if point != NOSE)


def test_reference_list_repeats_inner_edges_and_has_the_self_edge() -> None:
    edges = load_edge_list('edges_312_reference').tolist()
    assert len(edges) == 312
    assert [NOSE, NOSE] in edges
    unique = {frozenset(edge) for edge in edges if edge[0] != edge[1]}
    assert unique == {frozenset(edge) for edge in load_edge_list('edges_181').tolist()}


def test_lists_are_those_of_the_mean_face(shared_data: Path) -> None:
    basis = load_face_basis(shared_data / 'ict_facekit_68.npz')
    assert (unique_edges(basis) == load_edge_list('edges_181')).all()
    assert (reference_edges(basis) == load_edge_list('edges_312_reference')).all()


def test_the_command_makes_the_frozen_files(shared_data: Path, tmp_path: Path) -> None:
    assert main(['edges', '--basis', str(shared_data / 'ict_facekit_68.npz'),
                 '--out', str(tmp_path)]) == 0
    made = sorted(tmp_path.iterdir())
    assert [path.name for path in made] == [
        'edges_181.json', 'edges_312_reference.json', 'mean_face.json'
    ]
    for path in made:
        frozen = resources.files('fer_perception.graph').joinpath(path.name)
        assert path.read_bytes() == frozen.read_bytes()


def test_unknown_list_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='edges_999'):
        load_edge_list('edges_999')


@pytest.mark.parametrize('edges', [np.zeros((3, 3), int), np.array([[17, 16]]), np.ones((2, 2))])
def test_bad_lists_are_refused(edges: np.ndarray) -> None:
    with pytest.raises(ValueError, match='edge'):
        check_edge_list(edges)


def test_edge_vectors_are_source_minus_target() -> None:
    landmarks = np.random.default_rng(1).normal(size=(4, 68, 2))
    edges = load_edge_list()
    vectors = edge_vectors(landmarks, edges)
    assert vectors.shape == (2, 4, 181) and vectors.dtype == np.float32
    for frame in range(4):
        for index, (source, target) in enumerate(edges):
            expected = landmarks[frame, source] - landmarks[frame, target]
            assert np.allclose(vectors[:, frame, index], expected, atol=1e-6)


def test_mirror_is_its_own_inverse_and_keeps_the_middle() -> None:
    landmarks = np.random.default_rng(2).normal(size=(68, 2))
    assert np.array_equal(mirror_landmarks(mirror_landmarks(landmarks)), landmarks)
    middle = [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert MIRROR[middle].tolist() == middle
    assert sorted(MIRROR.tolist()) == list(range(68))
