# SPDX-License-Identifier: Apache-2.0
"""First weights from a fitted model, for fine-tuning: the same network, dropout apart."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fer_perception.models.model_file import load_model
from fer_perception.models.pst_bln import PstBln, PstBlnConfig

# Neither has weights, and how U begins does not matter to one that is fitted already.
FREE_FIELDS = frozenset({'dropout', 'dropout_masks', 'topology_init'})


@dataclass(frozen=True, kw_only=True)
class FirstWeights:
    """Name the model file that a fit begins with."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> 'FirstWeights':
        """Name a model file with the checksum that it has now; OSError if it cannot be read."""
        return cls(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    def check(
        self,
        template: PstBlnConfig,
        *,
        classes: Sequence[str],
        edges: np.ndarray,
        frame_rate: float,
        baseline_s: float,
        normalization: str,
    ) -> None:
        """Raise ValueError unless the model is the template's network on the same input.

        Kind and rate of dropout may differ. edges: (E, 2).
        """
        model = load_model(self.path)
        own, wanted = asdict(model.description.network), asdict(template)
        pairs = {
            name: (own[name], wanted[name]) for name in own if name not in FREE_FIELDS
        } | {
            'classes': (tuple(model.description.classes), tuple(classes)),
            'edges': (model.description.edges.tolist(), edges.tolist()),
            'frame_rate': (model.description.frame_rate, frame_rate),
            'baseline_s': (model.description.baseline_s, baseline_s),
            'normalization': (model.description.normalization, normalization),
        }
        for name, (found, needed) in pairs.items():
            if found != needed:
                told = '' if name == 'edges' else f': {found}, not {needed}'
                raise ValueError(
                    f'{self.path} cannot be the start: it differs from the network to fit in '
                    f'{name}{told}'
                )

    def load(self, template: PstBlnConfig) -> PstBln:
        """Make the template's network with these weights.

        Raises ValueError if the file is another by now, ModelFileError if it is no model.
        """
        if FirstWeights.of(self.path) != self:
            raise ValueError(f'{self.path} has changed since the run began')
        network = PstBln(template, quiet=True)
        network.load_state_dict(load_model(self.path).network.state_dict())
        return network
