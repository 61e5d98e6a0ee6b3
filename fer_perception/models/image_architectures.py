# SPDX-License-Identifier: Apache-2.0
"""The image recognisers by name."""

from dataclasses import dataclass
from typing import Any

from fer_perception.models.abaw_ensemble import AbawEnsemble, AbawEnsembleConfig
from fer_perception.models.fer_gcn import FerGcn, FerGcnConfig
from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.part_ensemble import PartEnsemble, PartEnsembleConfig

ImageConfig = FerGcnConfig | PartEnsembleConfig | AbawEnsembleConfig


@dataclass(frozen=True)
class ImageArchitecture:
    """Join what makes an image recogniser: its network and the network's configuration."""

    network: Any  # class of ImageNetwork that takes a configuration alone
    config: type[ImageConfig]


IMAGE_ARCHITECTURES = {
    'fer_gcn': ImageArchitecture(FerGcn, FerGcnConfig),
    'part_ensemble': ImageArchitecture(PartEnsemble, PartEnsembleConfig),
    'abaw_ensemble': ImageArchitecture(AbawEnsemble, AbawEnsembleConfig),
}


def build_image_network(config: ImageConfig) -> ImageNetwork:
    """Build the network that a configuration is of."""
    for architecture in IMAGE_ARCHITECTURES.values():
        if isinstance(config, architecture.config):
            network: ImageNetwork = architecture.network(config)
            return network
    raise TypeError(f'{type(config).__name__} is of no image recogniser')


def architecture_name(config: ImageConfig) -> str:
    """Name the architecture that a configuration is of."""
    for name, architecture in IMAGE_ARCHITECTURES.items():
        if isinstance(config, architecture.config):
            return name
    raise TypeError(f'{type(config).__name__} is of no image recogniser')
