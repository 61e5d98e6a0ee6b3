# SPDX-License-Identifier: Apache-2.0
"""A checkout of ICT-FaceKit makes the basis that its .npz holds, or one clear error.

The tree made here has the layout of the public one: FaceXModel/vertex_indices.json with the
vertices of the 68 landmarks (idx_to_landmark_verts) and the shapes (expressions), and one OBJ
mesh each for the neutral face, the identity modes and the expression shapes, all whole faces and
not offsets. Two shapes are not listed, as the pupils and the raised cheeks are not there.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_training.commands import edges, synth
from fer_training.face_basis import FaceBasisError, load_face_basis
from fer_training.wavefront import read_vertices

VERTEX_COUNT = 90
LISTED = ['jawOpen', 'browDown_L']  # not in the order of the alphabet
UNLISTED = ['PupilDilate_L', 'cheekRaiser_L']


def mesh_text(vertices: np.ndarray) -> str:
    """Write a mesh as ICT-FaceKit has it: comments, vertices, textures, faces."""
    rows = [f'v {x:.15f} {y:.15f} {z:.15f}' for x, y, z in vertices]
    head = ['# A comment, v 1 2 3', 'mtllib ICTFaceModelMaterial.mtl']
    return '\n'.join([*head, *rows, 'vt 0.5 0.5', 'vn 0 0 1', 'usemtl face', 'f 1/1 2/1 3/1', ''])


@pytest.fixture
def meshes() -> dict[str, np.ndarray]:
    """Draw the vertices of each mesh: (VERTEX_COUNT, 3)."""
    generator = np.random.default_rng(1)
    names = ['generic_neutral_mesh', 'identity000', 'identity001', 'identity002']
    return {
        name: generator.normal(0.0, 5.0, (VERTEX_COUNT, 3))
        for name in [*names, *LISTED, *UNLISTED]
    }


@pytest.fixture
def landmark_vertices() -> list[int]:
    return np.random.default_rng(2).permutation(VERTEX_COUNT)[:68].tolist()


@pytest.fixture
def checkout(
    tmp_path: Path, meshes: dict[str, np.ndarray], landmark_vertices: list[int]
) -> Path:
    folder = tmp_path / 'ICT-FaceKit' / 'FaceXModel'
    folder.mkdir(parents=True)
    for name, vertices in meshes.items():
        (folder / f'{name}.obj').write_text(mesh_text(vertices), encoding='utf-8')
    indices = {'idx_to_landmark_verts': landmark_vertices, 'expressions': LISTED}
    (folder / 'vertex_indices.json').write_text(json.dumps(indices), encoding='utf-8')
    (folder / 'ICTFaceModelMaterial.mtl').write_text('newmtl face\n', encoding='utf-8')
    return folder.parent


@pytest.mark.parametrize('inner', ['', 'FaceXModel'])
def test_meshes_become_the_arrays_of_the_npz(
    checkout: Path, meshes: dict[str, np.ndarray], landmark_vertices: list[int], inner: str
) -> None:
    basis = load_face_basis(checkout / inner)
    points = {name: vertices[landmark_vertices] for name, vertices in meshes.items()}
    neutral = points['generic_neutral_mesh']
    np.testing.assert_allclose(basis.neutral, neutral, rtol=1e-6)
    assert basis.identity.shape == (3, 68, 3)
    for mode in range(3):
        offsets = points[f'identity00{mode}'] - neutral
        np.testing.assert_allclose(basis.identity[mode], offsets, rtol=1e-5)
    assert basis.expression_names == (*LISTED, *UNLISTED)
    for name in basis.expression_names:
        offsets = points[name] - neutral
        np.testing.assert_allclose(basis.expression[basis.index(name)], offsets, rtol=1e-5)
    assert {basis.neutral.dtype, basis.identity.dtype, basis.expression.dtype} == {
        np.dtype(np.float32)
    }


def test_what_is_saved_as_npz_is_read_back_the_same(checkout: Path, tmp_path: Path) -> None:
    basis = load_face_basis(checkout)
    np.savez(
        tmp_path / 'basis.npz',
        neutral=basis.neutral,
        identity=basis.identity,
        expression=basis.expression,
        expression_names=np.array(basis.expression_names),
    )
    again = load_face_basis(tmp_path / 'basis.npz')
    assert again.expression_names == basis.expression_names
    for name in ('neutral', 'identity', 'expression'):
        np.testing.assert_array_equal(getattr(again, name), getattr(basis, name))


def test_a_bar_shows_progress_if_asked_for(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_face_basis(checkout)
    assert not capsys.readouterr().err
    load_face_basis(checkout, progress=True)
    assert '8/8' in capsys.readouterr().err


def set_index(key: str, value: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / 'vertex_indices.json'
        content = {**json.loads(path.read_text(encoding='utf-8')), key: value}
        path.write_text(json.dumps(content), encoding='utf-8')

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda folder: (folder / 'jawOpen.obj').unlink(), r'no jawOpen\.obj'),
        (lambda folder: (folder / 'generic_neutral_mesh.obj').unlink(), 'no generic_neutral'),
        (lambda folder: (folder / 'identity001.obj').unlink(), 'without a gap'),
        (lambda folder: [p.unlink() for p in folder.glob('identity*')], 'holds 0'),
        (lambda folder: (folder / 'vertex_indices.json').unlink(), 'checkout of ICT-FaceKit'),
        (lambda folder: (folder / 'vertex_indices.json').write_text('{'), 'vertex_indices.json'),
        (lambda folder: (folder / 'vertex_indices.json').write_text('[]'), 'vertex_indices.json'),
        (set_index('idx_to_landmark_verts', [1, 2]), '68 vertex numbers'),
        (set_index('idx_to_landmark_verts', [-1] * 68), '68 vertex numbers'),
        (set_index('idx_to_landmark_verts', ['0'] * 68), '68 vertex numbers'),
        (set_index('idx_to_landmark_verts', [500] * 68), 'has 90 vertices, but vertex 500'),
        (set_index('expressions', []), 'expressions'),
        (set_index('expressions', ['../elsewhere']), 'expressions'),
        (set_index('expressions', ['jawOpen', 'jawOpen']), 'expressions'),
        (set_index('expressions', ['jawShut']), r'no jawShut\.obj'),
    ],
)
def test_a_broken_checkout_is_refused_by_what_is_wrong(
    checkout: Path, change: Callable[[Path], object], message: str
) -> None:
    change(checkout / 'FaceXModel')
    with pytest.raises(FaceBasisError, match=message) as caught:
        load_face_basis(checkout)
    assert '\n' not in str(caught.value)


def test_a_pointer_in_the_place_of_a_mesh_is_refused(checkout: Path) -> None:
    mesh = checkout / 'FaceXModel' / 'jawOpen.obj'
    mesh.write_text('version https://git-lfs.github.com/spec/v1\nsize 3359641\n')
    with pytest.raises(FaceBasisError, match=r'jawOpen\.obj has 0 vertices'):
        load_face_basis(checkout)


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FaceBasisError, match='give a checkout of ICT-FaceKit, or an .npz'):
        load_face_basis(tmp_path)


@pytest.mark.parametrize('line', ['v 1.0 2.0', 'v 1.0 two 3.0', 'v 1.0 nan 3.0', 'v'])
def test_a_bad_vertex_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / 'mesh.obj'
    path.write_text(f'# mesh\nv 0 0 0\n{line} \nv 1 1 1\n')
    with pytest.raises(ValueError, match=r'mesh\.obj, line 3'):
        read_vertices(path, [0, 1, 2])
    # A bad vertex that nobody wants does no harm.
    np.testing.assert_array_equal(read_vertices(path, [2, 0]), [[1, 1, 1], [0, 0, 0]])


def test_the_file_is_read_up_to_the_last_vertex_only(tmp_path: Path) -> None:
    path = tmp_path / 'mesh.obj'
    path.write_text('v 0 0 0\nv 1 2 3 0.5\nv broken\n')
    np.testing.assert_array_equal(read_vertices(path, [1]), [[1, 2, 3]])
    with pytest.raises(ValueError, match='counted from 0'):
        read_vertices(path, [-1])


@pytest.mark.parametrize('command', [synth, edges])
def test_help_says_what_a_basis_may_be(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    name = command.__name__.rpartition('.')[2]
    with pytest.raises(SystemExit):
        parser.parse_args([name, '--help'])
    assert 'checkout of ICT-FaceKit' in ' '.join(capsys.readouterr().out.split())
