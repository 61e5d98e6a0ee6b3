# SPDX-License-Identifier: Apache-2.0
"""A 3D basis of the 68 landmarks: a neutral face, identity modes and expression shapes."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np


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


def load_face_basis(path: Path) -> FaceBasis:
    """Load a basis from an .npz with neutral, identity, expression and expression_names.

    Raises FaceBasisError naming the file and what is wrong with it.
    """
    if not path.is_file():
        raise FaceBasisError(f'face basis {path} does not exist')
    try:
        with np.load(path, allow_pickle=False) as file:
            basis = FaceBasis(
                neutral=file['neutral'],
                identity=file['identity'],
                expression=file['expression'],
                expression_names=tuple(str(name) for name in file['expression_names']),
            )
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise FaceBasisError(f'{path} is no face basis: {error}') from error
    shapes = (basis.neutral.shape, basis.identity.shape[1:], basis.expression.shape[1:])
    if shapes != ((68, 3),) * 3 or len(basis.expression) != len(basis.expression_names):
        raise FaceBasisError(f'{path} is no basis of 68 landmarks: its shapes are {shapes}')
    return basis
