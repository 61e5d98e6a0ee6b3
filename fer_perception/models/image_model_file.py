# SPDX-License-Identifier: Apache-2.0
"""The model file of an image recogniser: safetensors with the whole description in the metadata.

Nothing is unpickled. Loading checks every tensor and every field and names what is wrong.
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from fer_perception.faces.crop import FaceCrop, ImageNormalization
from fer_perception.models.description_fields import (
    checked_fields,
    read_dataclass,
    read_fields,
    tuple_of,
    typed,
    write_fields,
)
from fer_perception.models.image_architectures import (
    IMAGE_ARCHITECTURES,
    ImageConfig,
    architecture_name,
    build_image_network,
)
from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.model_file import MAX_FRAME_RATE
from fer_perception.models.tensor_file import (
    ModelFileError,
    check_tensors,
    read_tensors,
    write_tensors,
)
from fer_perception.uncertainty.estimate import DecisionRule

# What a network may ask for, so that a damaged or hostile file takes neither memory nor time.
MOST_FRAMES = 256
LARGEST_NUMBER = 10_000
LONGEST_TUPLE = 100


@dataclass(frozen=True, kw_only=True)
class ImageModelDescription:
    """Describe everything that an image recogniser needs besides its weights."""

    network: ImageConfig
    classes: tuple[str, ...]  # labels in the order of the outputs
    crop: FaceCrop  # how faces are cut out, as large as the network reads them
    normalization: ImageNormalization
    # Frames per second of the sequences; 0: the network reads single images
    frame_rate: float = 0.0
    temperature: float = 1.0  # calibration: logits are divided by it
    abstention_threshold: float = 0.5  # lowest confidence that counts as CONFIDENT
    warm_up_s: float = 0.0  # seconds of evidence before any answer counts
    training: dict[str, Any] = field(default_factory=dict)  # data, settings, scores
    licence: str = ''  # terms of the weights

    def __post_init__(self) -> None:
        """Refuse descriptions that contradict themselves."""
        if len(self.classes) != self.network.classes or len(set(self.classes)) != len(
            self.classes
        ):
            raise ValueError(
                f'classes must be {self.network.classes} different labels, not {self.classes}'
            )
        if self.crop.size != self.network.image_size:
            raise ValueError(
                f'the crop has {self.crop.size} pixels a side, but the network reads '
                f'{self.network.image_size}'
            )
        if not 0.0 <= self.frame_rate <= MAX_FRAME_RATE:
            raise ValueError(f'frame_rate must be 0 to {MAX_FRAME_RATE}, not {self.frame_rate}')
        if not 0 < self.temperature < float('inf'):
            raise ValueError(f'temperature must be positive, not {self.temperature}')
        _ = self.rule  # checks the thresholds

    @property
    def architecture(self) -> str:
        """The name of the recogniser."""
        return architecture_name(self.network)

    @property
    def rule(self) -> DecisionRule:
        """The decision rule that the thresholds make."""
        return DecisionRule(
            abstention_threshold=self.abstention_threshold, warm_up_s=self.warm_up_s
        )


@dataclass(frozen=True)
class LoadedImageModel:
    """Hold a network in evaluation mode with its description."""

    network: ImageNetwork
    description: ImageModelDescription


def save_image_model(
    path: Path, network: ImageNetwork, description: ImageModelDescription
) -> None:
    """Write a model file.

    Raises ValueError if the description is of another network, or for weights that are not finite.
    """
    if network.config != description.network:
        raise ValueError('the description is of another network than the one to save')
    _check_sizes(description.network)
    write_tensors(path, network, description_to_metadata(description))


def load_image_model(path: Path, *, device: str | torch.device = 'cpu') -> LoadedImageModel:
    """Read a model file, checking every field and every tensor.

    Returns the network in evaluation mode on `device`. Raises ModelFileError naming the file and
    the first thing wrong with it.
    """
    file = read_tensors(path)
    try:
        description = description_from_metadata(file.metadata)
        with torch.device('meta'):  # shapes alone: no memory for tensors that are not there
            network = build_image_network(description.network)
            _check_frame_rate(description, network)
            check_tensors(network, file.tensors)
        file.check_digest()
    except (ValueError, TypeError) as error:
        raise ModelFileError(f'{path}: {error}') from error
    network.load_state_dict(file.tensors, assign=True)
    return LoadedImageModel(network.to(device).eval(), description)


def description_to_metadata(description: ImageModelDescription) -> dict[str, str]:
    """Write a description as the metadata of a file: a JSON text for every field."""
    return write_fields(description.architecture, asdict(description))


def description_from_metadata(metadata: dict[str, str]) -> ImageModelDescription:
    """Read a description back, checking every field.

    Raises ValueError or TypeError naming the first thing wrong.
    """
    architecture, values = read_fields(metadata)
    if architecture not in IMAGE_ARCHITECTURES:
        raise ValueError(
            f'architecture is {architecture!r}, this program reads images by '
            f'{", ".join(IMAGE_ARCHITECTURES)}'
        )
    values = checked_fields('the metadata', ImageModelDescription, values)
    values['network'] = read_dataclass(
        "'network'", IMAGE_ARCHITECTURES[architecture].config, values['network']
    )
    _check_sizes(values['network'])
    values['crop'] = read_dataclass("'crop'", FaceCrop, values['crop'])
    values['normalization'] = read_dataclass(
        "'normalization'", ImageNormalization, values['normalization']
    )
    values['classes'] = tuple_of('classes', values['classes'], str)
    typed('training', values['training'], dict)
    return ImageModelDescription(**values)


def _check_sizes(config: ImageConfig) -> None:
    """Raise ValueError for a network beyond all that this program was made for."""
    for item in fields(config):
        value = getattr(config, item.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) > LONGEST_TUPLE:
            raise ValueError(f'network has {len(numbers)} {item.name}, at most {LONGEST_TUPLE}')
        for number in numbers:
            if isinstance(number, int | float) and not abs(number) <= LARGEST_NUMBER:
                raise ValueError(
                    f'network has {item.name} {number}, at most {LARGEST_NUMBER} is allowed'
                )
    if (frames := getattr(config, 'frames', 1)) > MOST_FRAMES:
        raise ValueError(f'network has frames {frames}, at most {MOST_FRAMES} is allowed')


def _check_frame_rate(description: ImageModelDescription, network: ImageNetwork) -> None:
    if (network.frames > 1) != (description.frame_rate > 0):
        raise ValueError(
            f'frame_rate is {description.frame_rate}, of a network that reads '
            f'{network.frames} frames'
        )
