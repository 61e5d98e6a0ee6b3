# SPDX-License-Identifier: Apache-2.0
"""Small networks for tests, with random weights and statistics."""

from typing import Any

import torch
from torch import nn

from fer_perception.graph.edges import load_edge_list
from fer_perception.models.model_file import ModelDescription
from fer_perception.models.pst_bln import PstBln, PstBlnConfig

CLASSES = ('neutral', 'anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise')


def small_network(*, seed: int = 1, **changes: Any) -> PstBln:
    """Make a network in evaluation mode whose batch norms are not the identity."""
    settings: dict[str, Any] = {
        'channels': (4, 4),
        'classes': 7,
        'edges': 181,
        'window': 5,
        'kernel_size': 5,
    }
    torch.manual_seed(seed)
    network = PstBln(PstBlnConfig(**(settings | changes)), quiet=True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return network.eval()


def description_of(network: PstBln, **changes: Any) -> ModelDescription:
    """Describe a network of 181 edges and seven classes."""
    settings: dict[str, Any] = {
        'network': network.config,
        'edge_list': tuple((a, b) for a, b in load_edge_list().tolist()),
        'classes': CLASSES,
        'frame_rate': 30.0,
        'normalization': 'similarity',
    }
    return ModelDescription(**(settings | changes))
