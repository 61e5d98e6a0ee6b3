# SPDX-License-Identifier: Apache-2.0
"""The command line's arguments that set up a pipeline, the same for every tool that has one."""

import argparse
from pathlib import Path
from typing import Any

from fer_perception.inference.backend import BACKENDS, DEVICES, PRECISIONS
from fer_perception.pipeline import RECOGNIZERS, PipelineConfig

# Name in PipelineConfig: what argparse needs to know. Those not given keep the default there.
ARGUMENTS: dict[str, dict[str, Any]] = {
    'recognizer': {'choices': RECOGNIZERS},
    'model': {
        'type': Path, 'help': 'model file of pst_bln, or its streaming ONNX (that in the package)',
    },
    'image_model': {'type': Path, 'help': 'model file of an image recogniser'},
    'image_weight': {'type': float, 'help': 'of the image recogniser in fused, 0 to 1 (0.5)'},
    'image_views': {'type': int, 'help': 'of every face by an image recogniser, 1 or 2 (1)'},
    'landmark_model': {'type': Path, 'help': "dlib's 68-landmark model"},
    'backend': {'choices': BACKENDS},
    'device': {'choices': DEVICES},
    'precision': {'choices': PRECISIONS},
    'mc_samples': {'type': int},
    'threads': {'type': int, 'help': 'of PyTorch (1)'},
}


def add_pipeline_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the arguments to a parser or to a group of it."""
    default = PipelineConfig()
    for name, details in ARGUMENTS.items():
        help_text = details.get('help', f'({getattr(default, name)})')
        parser.add_argument(f'--{name.replace("_", "-")}', **{**details, 'help': help_text})


def pipeline_config(options: argparse.Namespace, **fields: Any) -> PipelineConfig:
    """Make the configuration that the arguments say; `fields` are those without an argument."""
    given = {name: getattr(options, name, None) for name in ARGUMENTS}
    return PipelineConfig(
        **{name: value for name, value in given.items() if value is not None}, **fields
    )
