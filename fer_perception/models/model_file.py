# SPDX-License-Identifier: Apache-2.0
"""The model file: safetensors with the model's whole description in the metadata.

Nothing is unpickled. Loading checks every tensor and every field and names what is wrong.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fer_perception.graph.edges import check_edge_list
from fer_perception.graph.normalization import NORMALIZATIONS
from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_perception.uncertainty.estimate import DecisionRule

FORMAT_VERSION = 5
ARCHITECTURE = 'pst_bln'
DIGEST = 'digest'  # field of the metadata, besides those of the description
MAX_FILE_BYTES = 1 << 30
MAX_TEXT = 1 << 20  # characters of the metadata
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


class ModelFileError(ValueError):
    """Say which file cannot be loaded, and what in it is wrong."""


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Describe everything that a model needs besides its weights."""

    network: PstBlnConfig  # topology, window in frames, padding, dropout
    # E pairs of landmarks, dlib's numbering; none where they are unknown, of clips that hold
    # edge vectors already
    edge_list: tuple[tuple[int, int], ...]
    classes: tuple[str, ...]  # labels in the order of the outputs
    normalization: str  # 'similarity', 'centred' or, of clips only, 'track'
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
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f'tensor {name} is not finite; the network is not fit to be saved')
    metadata = description_to_metadata(description)
    metadata[DIGEST] = digest(metadata, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(tensors, metadata=metadata))


def load_model(path: Path, *, device: str | torch.device = 'cpu') -> LoadedModel:
    """Read a model file, checking every field and every tensor.

    Returns the network in evaluation mode on `device`. Raises ModelFileError naming the file and
    the first thing wrong with it.
    """
    check_model_path(path)
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f'{path} is no readable safetensors file: {error}') from error
    told = metadata.pop(DIGEST, None)
    try:
        description = description_from_metadata(metadata)
        with torch.device('meta'):  # shapes alone: no memory for tensors that are not there
            check_tensors(PstBln(description.network, quiet=True), tensors)
        if told != digest(metadata, tensors):
            raise ValueError('its content is not what was saved: the digest does not agree')
    except (ValueError, TypeError) as error:
        raise ModelFileError(f'{path}: {error}') from error
    network = PstBln(description.network, quiet=True)
    network.load_state_dict(tensors)
    return LoadedModel(network.to(device).eval(), description)


def digest(metadata: dict[str, str], tensors: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a file's whole content, in hexadecimal digits: it finds damage.

    metadata: without the digest itself. It proves nothing of who made the file.
    """
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # (values,) -> (bytes,)
    return total.hexdigest()


def check_model_path(path: Path) -> None:
    """Raise ModelFileError if there is no file, or one that is too large for a model."""
    if not path.is_file():
        raise ModelFileError(f'model file {path} does not exist')
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise ModelFileError(
            f'{path} is no model file: it has {size} bytes, at most {MAX_FILE_BYTES} are read'
        )


def description_to_metadata(description: ModelDescription) -> dict[str, str]:
    """Write a description as the metadata of a file: a JSON text for every field."""
    values = asdict(description)
    values |= {'format_version': FORMAT_VERSION, 'architecture': ARCHITECTURE}
    return {name: json.dumps(value) for name, value in values.items()}


def description_from_metadata(metadata: dict[str, str]) -> ModelDescription:
    """Read a description back, checking every field.

    Raises ValueError or TypeError naming the first thing wrong.
    """
    if (length := sum(map(len, metadata.values()))) > MAX_TEXT:
        raise ValueError(f'the metadata have {length} characters, at most {MAX_TEXT} are read')
    values = {name: read_json(name, text) for name, text in metadata.items()}
    version = values.pop('format_version', None)
    if version != FORMAT_VERSION:
        raise ValueError(
            f'format_version is {version}, this program reads version {FORMAT_VERSION}'
        )
    architecture = values.pop('architecture', None)
    if architecture != ARCHITECTURE:
        raise ValueError(f'architecture is {architecture!r}, this program reads {ARCHITECTURE!r}')
    values = _checked_fields('the metadata', ModelDescription, values)
    network = _checked_fields("'network'", PstBlnConfig, values['network'])
    for name in ('channels', 'strides'):
        network[name] = _tuple_of(f'network.{name}', network[name], int)
    values['network'] = PstBlnConfig(**network)
    _check_sizes(values['network'])
    if values['frame_rate'] > MAX_FRAME_RATE:
        raise ValueError(f'frame_rate is {values["frame_rate"]}, the largest is {MAX_FRAME_RATE}')
    pairs = _tuple_of('edge_list', values['edge_list'], list)
    values['edge_list'] = tuple(_tuple_of('an edge of edge_list', pair, int) for pair in pairs)
    if wrong := [pair for pair in values['edge_list'] if len(pair) != 2]:
        raise ValueError(f'edge_list must hold pairs of landmarks, not {wrong[0]}')
    values['classes'] = _tuple_of('classes', values['classes'], str)
    _typed('training', values['training'], dict)
    return ModelDescription(**values)


def read_json(name: str, text: str) -> Any:
    """Read the JSON text of a field of the metadata; ValueError naming the field if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'field {name!r} is no JSON: {error}') from error


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


def _checked_fields(where: str, kind: type, values: Any) -> dict[str, Any]:
    """Return the fields that a dataclass has, of the right types where these are plain."""
    known = {item.name: item.type for item in fields(kind)}
    checked = dict(_typed(where, values, dict))
    given = set(checked)
    if unknown := given - known.keys():
        raise ValueError(f'{where} has unknown fields: {", ".join(sorted(unknown))}')
    if missing := known.keys() - given:
        raise ValueError(f'{where} lacks fields: {", ".join(sorted(missing))}')
    for name, expected in known.items():
        if expected is float:
            checked[name] = _finite(name, _typed(name, checked[name], (int, float)))
        elif expected in (int, str, bool):
            _typed(name, checked[name], expected)
    return checked


def _finite(name: str, value: int | float) -> float:
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(f'{name} is too large') from error
    if not math.isfinite(number):
        raise ValueError(f'{name} must be finite, not {number}')
    return number


def _typed(name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = ' or '.join(item.__name__ for item in kinds)
        raise ValueError(f'{name} must be {wanted}, not {value!r}')
    return value


def _tuple_of(name: str, values: Any, kind: type) -> tuple[Any, ...]:
    return tuple(_typed(name, value, kind) for value in _typed(name, values, list))


def check_tensors(network: PstBln, tensors: dict[str, torch.Tensor]) -> None:
    """Raise ValueError naming the tensors if they are not exactly the network's, and finite."""
    expected = network.state_dict()
    if missing := expected.keys() - tensors.keys():
        raise ValueError(f'tensors are missing: {", ".join(sorted(missing))}')
    if extra := tensors.keys() - expected.keys():
        raise ValueError(f'tensors are unknown: {", ".join(sorted(extra))}')
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ValueError(
                f'tensor {name} is {tensor.dtype} {tuple(tensor.shape)}, '
                f'it must be {expected[name].dtype} {tuple(expected[name].shape)}'
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f'tensor {name} is not finite')
