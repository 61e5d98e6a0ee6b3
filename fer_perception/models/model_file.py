# SPDX-License-Identifier: Apache-2.0
"""The model file: safetensors with the model's whole description in the metadata.

Nothing is unpickled. Loading checks every tensor and every field and names what is wrong.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_perception.graph.edges import check_edge_list
from fer_perception.graph.normalization import NORMALIZATIONS
from fer_perception.models.description_fields import (
    checked_fields,
    read_fields,
    tuple_of,
    typed,
    write_fields,
)
from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_perception.models.tensor_file import (
    ModelFileError,
    check_tensors,
    read_tensors,
    write_tensors,
)
from fer_perception.uncertainty.estimate import DecisionRule

ARCHITECTURE = 'pst_bln'
# What a network may ask for, so that a damaged or hostile file takes neither memory nor time.
LARGEST = {
    'layers': 100,
    'subsets': 100,
    'channels': 10_000,
    'strides': 10_000,
    'classes': 10_000,
    'edges': 10_000,
    'in_channels': 10_000,
    'kernel_size': 10_000,
    'window': 1_000_000,  # frames: nine hours at 30 Hz
}
MAX_STATE_VALUES = 1 << 22  # that it remembers for one Monte Carlo sample of a face
MAX_FRAME_RATE = 1000.0
CLIP_SAMPLINGS = ('intervals', 'first_and_last')
CLIP_DISPLACEMENTS = ('none', 'first', 'mean')


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Describe everything that a model needs besides its weights."""

    network: PstBlnConfig  # topology, window in frames, padding, dropout
    # E pairs of landmarks, dlib's numbering; none where they are unknown, of clips that hold
    # edge vectors already
    edge_list: tuple[tuple[int, int], ...]
    classes: tuple[str, ...]  # labels in the order of the outputs
    normalization: str  # one of NORMALIZATIONS; 'track' of clips only
    frame_rate: float = 0.0  # frames per second that a streaming network expects
    # Seconds of the baseline beside which a streaming network sees every frame; 0: it sees none
    baseline_s: float = 0.0
    clip_frames: int = 0  # or, of a network that reads whole clips: frames of a clip
    clip_sampling: str = CLIP_SAMPLINGS[0]  # which frames of a track make its clip
    clip_displacement: str = CLIP_DISPLACEMENTS[0]  # frame of a clip subtracted from all of it
    temperature: float = 1.0  # calibration: logits are divided by it
    abstention_threshold: float = 0.5  # lowest confidence that counts as CONFIDENT
    warm_up_s: float = 0.5  # seconds of evidence before any answer counts
    training: dict[str, Any] = field(default_factory=dict)  # data, settings, scores
    licence: str = ''  # terms of the weights

    def __post_init__(self) -> None:
        """Refuse descriptions that contradict themselves."""
        if self.edge_list or not self.clip_frames:
            check_edge_list(self.edges)
            if len(self.edge_list) != self.network.edges:
                raise ValueError(
                    f'edge_list has {len(self.edge_list)} edges, the network {self.network.edges}'
                )
        if len(self.classes) != self.network.classes or len(set(self.classes)) != len(
            self.classes
        ):
            raise ValueError(
                f'classes must be {self.network.classes} different labels, not {self.classes}'
            )
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f'unknown normalization {self.normalization!r}')
        if self.normalization == 'track' and not self.clip_frames:
            raise ValueError(
                "normalization 'track' needs whole clips: a network that streams cannot use it"
            )
        if self.clip_sampling not in CLIP_SAMPLINGS:
            raise ValueError(f'unknown clip_sampling {self.clip_sampling!r}')
        if self.clip_displacement not in CLIP_DISPLACEMENTS:
            raise ValueError(f'unknown clip_displacement {self.clip_displacement!r}')
        valid = 0 <= self.frame_rate < float('inf') and self.clip_frames >= 0
        if not valid or (self.clip_frames > 0) == (self.frame_rate > 0):
            raise ValueError(
                'either frame_rate (the network streams) or clip_frames (it reads whole clips) '
                f'must be positive, not {self.frame_rate} and {self.clip_frames}'
            )
        if not 0 <= self.baseline_s < float('inf') or (self.baseline_s and self.clip_frames):
            raise ValueError(
                'baseline_s must be 0 or more, and 0 for a network that reads whole clips, not '
                f'{self.baseline_s}'
            )
        if self.baseline_s and self.network.in_channels != 4:
            raise ValueError(
                'a network that sees a baseline must have 4 in_channels, not '
                f'{self.network.in_channels}'
            )
        if not 0 < self.temperature < float('inf'):
            raise ValueError(f'temperature must be positive, not {self.temperature}')
        _ = self.rule  # checks the thresholds

    @property
    def baseline_frames(self) -> int:
        """The span of the baseline in frames, 0 for none."""
        return max(1, round(self.baseline_s * self.frame_rate)) if self.baseline_s else 0

    @property
    def rule(self) -> DecisionRule:
        """The decision rule that the thresholds make."""
        return DecisionRule(
            abstention_threshold=self.abstention_threshold, warm_up_s=self.warm_up_s
        )

    @property
    def edges(self) -> np.ndarray:
        """The edge list as an array (E, 2), (0, 2) where it is unknown."""
        return np.array(self.edge_list) if self.edge_list else np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class LoadedModel:
    """Hold a network in evaluation mode with its description."""

    network: PstBln
    description: ModelDescription


def save_model(path: Path, network: PstBln, description: ModelDescription) -> None:
    """Write a model file.

    Raises ValueError if the description is of another network, or what `load_model` refuses: a
    network of impossible size, or with weights that are not finite.
    """
    _check_sizes(network.config)
    if network.config != description.network:
        raise ValueError('the description is of another network than the one to save')
    write_tensors(path, network, description_to_metadata(description))


def load_model(path: Path, *, device: str | torch.device = 'cpu') -> LoadedModel:
    """Read a model file, checking every field and every tensor.

    Returns the network in evaluation mode on `device`. Raises ModelFileError naming the file and
    the first thing wrong with it.
    """
    file = read_tensors(path)
    try:
        description = description_from_metadata(file.metadata)
        with torch.device('meta'):  # shapes alone: no memory for tensors that are not there
            check_tensors(PstBln(description.network, quiet=True), file.tensors)
        file.check_digest()
    except (ValueError, TypeError) as error:
        raise ModelFileError(f'{path}: {error}') from error
    network = PstBln(description.network, quiet=True)
    network.load_state_dict(file.tensors)
    return LoadedModel(network.to(device).eval(), description)


def description_to_metadata(description: ModelDescription) -> dict[str, str]:
    """Write a description as the metadata of a file: a JSON text for every field."""
    return write_fields(ARCHITECTURE, asdict(description))


def description_from_metadata(metadata: dict[str, str]) -> ModelDescription:
    """Read a description back, checking every field.

    Raises ValueError or TypeError naming the first thing wrong.
    """
    architecture, values = read_fields(metadata)
    if architecture != ARCHITECTURE:
        raise ValueError(f'architecture is {architecture!r}, this program reads {ARCHITECTURE!r}')
    values = checked_fields('the metadata', ModelDescription, values)
    network = checked_fields("'network'", PstBlnConfig, values['network'])
    for name in ('channels', 'strides'):
        network[name] = tuple_of(f'network.{name}', network[name], int)
    values['network'] = PstBlnConfig(**network)
    _check_sizes(values['network'])
    if values['frame_rate'] > MAX_FRAME_RATE:
        raise ValueError(f'frame_rate is {values["frame_rate"]}, the largest is {MAX_FRAME_RATE}')
    pairs = tuple_of('edge_list', values['edge_list'], list)
    values['edge_list'] = tuple(tuple_of('an edge of edge_list', pair, int) for pair in pairs)
    if wrong := [pair for pair in values['edge_list'] if len(pair) != 2]:
        raise ValueError(f'edge_list must hold pairs of landmarks, not {wrong[0]}')
    values['classes'] = tuple_of('classes', values['classes'], str)
    typed('training', values['training'], dict)
    return ModelDescription(**values)


def _check_sizes(config: PstBlnConfig) -> None:
    """Raise ValueError for a network beyond all that this program was made for."""
    sizes = {name: getattr(config, name) for name in LARGEST if name != 'layers'}
    sizes |= {'layers': len(config.channels)}
    sizes |= {name: max(sizes[name]) for name in ('channels', 'strides')}
    for name, largest in LARGEST.items():
        if sizes[name] > largest:
            raise ValueError(f'network has {name} {sizes[name]}, at most {largest} is allowed')
    values = config.kernel_size * sum(config.channels) * config.edges
    values += config.pooled_frames * config.classes
    if values > MAX_STATE_VALUES:
        raise ValueError(
            f'network remembers {values} numbers for each sample of a face, at most '
            f'{MAX_STATE_VALUES} are allowed'
        )
