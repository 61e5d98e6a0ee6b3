# SPDX-License-Identifier: Apache-2.0
"""A 3D basis of the 68 landmarks: a neutral face, identity modes and expression shapes."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fer_perception.graph.landmarks import LANDMARK_COUNT
from fer_training.array_archive import read_arrays
from fer_training.wavefront import read_vertices

# Files of ICT-FaceKit's folder FaceXModel.
VERTEX_INDICES = 'vertex_indices.json'
NEUTRAL_MESH = 'generic_neutral_mesh'
IDENTITY_MESH = re.compile(r'identity\d+')
MESH_NAME = re.compile(r'\w+')


class FaceBasisError(ValueError):
    """Say which basis file cannot be read, and what in it is wrong."""


@dataclass(frozen=True)
class FaceBasis:
    """Hold a linear face model. Units about 1 cm; x to the model's left, y up, z to the viewer."""

    neutral: np.ndarray  # (68, 3)
    identity: np.ndarray  # (I, 68, 3) offsets at one standard deviation
    expression: np.ndarray  # (X, 68, 3) offsets at weight 1
    expression_names: tuple[str, ...]  # X names

    def index(self, name: str) -> int:
        """Return the index of a shape; raises FaceBasisError if the basis lacks it."""
        if name not in self.expression_names:
            raise FaceBasisError(f'the face basis has no expression shape {name!r}')
        return self.expression_names.index(name)


def load_face_basis(path: Path, *, progress: bool = False) -> FaceBasis:
    """Load a basis from an .npz file, or from a checkout of ICT-FaceKit.

    The .npz holds neutral, identity, expression and expression_names. A checkout is a folder with
    FaceXModel/*.obj, or that folder itself; its 158 meshes make the same basis, with a progress
    bar if asked for. Raises FaceBasisError naming the file and what is wrong with it.
    """
    if path.is_dir():
        return _read_checkout(path, progress=progress)
    if not path.is_file():
        raise FaceBasisError(f'face basis {path} does not exist')
    try:
        arrays = read_arrays(path)
        basis = FaceBasis(
            neutral=arrays['neutral'],
            identity=arrays['identity'],
            expression=arrays['expression'],
            expression_names=tuple(str(name) for name in arrays['expression_names']),
        )
    except (ValueError, TypeError, KeyError) as error:  # arrays of other kinds, or none
        raise FaceBasisError(f'{path} is no face basis: {error}') from error
    shapes = (basis.neutral.shape, basis.identity.shape[1:], basis.expression.shape[1:])
    if shapes != ((68, 3),) * 3 or len(basis.expression) != len(basis.expression_names):
        raise FaceBasisError(f'{path} is no basis of 68 landmarks: its shapes are {shapes}')
    return basis


def _read_checkout(folder: Path, *, progress: bool) -> FaceBasis:
    """Read the landmarks' vertices of every mesh; modes and shapes are offsets from neutral.

    Expression shapes come in the order of vertex_indices.json, then those it does not list
    (pupils and cheeks) by name.
    """
    meshes = folder if (folder / VERTEX_INDICES).is_file() else folder / 'FaceXModel'
    vertices, listed = _read_vertex_indices(meshes / VERTEX_INDICES)
    names = sorted(path.stem for path in meshes.glob('*.obj'))
    identities = [name for name in names if IDENTITY_MESH.fullmatch(name)]
    if identities != [f'identity{mode:03d}' for mode in range(len(identities))] or not identities:
        raise FaceBasisError(
            f'{meshes} must hold identity000.obj and those that follow without a gap, but it '
            f'holds {len(identities)} of them{" up to " + identities[-1] if identities else ""}'
        )
    others = [name for name in names if name not in {NEUTRAL_MESH, *identities, *listed}]
    expressions = [*listed, *others]
    landmarks = {}
    bar = tqdm([NEUTRAL_MESH, *identities, *expressions], desc='read meshes', unit='mesh',
               disable=not progress)
    for name in bar:
        try:
            landmarks[name] = read_vertices(meshes / f'{name}.obj', vertices)  # (68, 3)
        except FileNotFoundError as error:
            raise FaceBasisError(f'{meshes} has no {name}.obj; is the checkout whole?') from error
        except (OSError, ValueError) as error:
            raise FaceBasisError(f'{meshes} is no face basis: {error}') from error
    neutral = landmarks[NEUTRAL_MESH]

    def offsets(shapes: list[str]) -> np.ndarray:
        """Stack the offsets of some meshes: (len(shapes), 68, 3)."""
        return np.stack([landmarks[name] - neutral for name in shapes]).astype(np.float32)

    return FaceBasis(
        neutral=neutral.astype(np.float32),
        identity=offsets(identities),
        expression=offsets(expressions),
        expression_names=tuple(expressions),
    )


def _read_vertex_indices(path: Path) -> tuple[list[int], list[str]]:
    """Read the vertices of the 68 landmarks and the names of the expression shapes."""
    if not path.is_file():
        raise FaceBasisError(
            f'{path.parent} does not hold {path.name}; give a checkout of ICT-FaceKit, or an .npz'
        )
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        vertices, names = content['idx_to_landmark_verts'], content['expressions']
    except (ValueError, KeyError, TypeError) as error:
        raise FaceBasisError(f'{path} cannot be used: {error!r}') from error
    if (
        not isinstance(vertices, list)
        or len(vertices) != LANDMARK_COUNT
        or not all(type(vertex) is int and vertex >= 0 for vertex in vertices)
    ):
        raise FaceBasisError(
            f'{path}: idx_to_landmark_verts must be {LANDMARK_COUNT} vertex numbers from 0'
        )
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) and MESH_NAME.fullmatch(name) for name in names)
        or len(set(names)) != len(names)
    ):
        raise FaceBasisError(f'{path}: expressions must be names of meshes, each once')
    return vertices, names
