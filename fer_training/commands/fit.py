# SPDX-License-Identifier: Apache-2.0
"""fer_train fit: fit a PST-BLN of given channels, calibrate it and save it."""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from fer_perception.models.model_file import save_model
from fer_perception.models.pst_bln import PstBln
from fer_training.calibration import calibrate
from fer_training.commands.arguments import Commands, positive
from fer_training.commands.options import (
    add_data_options,
    add_fit_options,
    add_network_options,
    add_validation_options,
    describe,
    describe_calibration,
    fit_config,
    load_data,
    network_template,
)
from fer_training.fitting import FitConfig, fit

DEFAULTS = FitConfig(epochs=12)


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser('fit', help='fit a PST-BLN to tracks, calibrate and save it')
    parser.add_argument('--out', type=Path, required=True, help='model file (.safetensors)')
    parser.add_argument('--channels', type=positive, nargs='+', default=[10, 10, 10],
                        help='channels of each layer (%(default)s)')
    parser.add_argument('--licence', default='', help='terms of the weights')
    add_data_options(parser, streams=True)
    add_validation_options(parser, required=True)
    add_network_options(parser, streams=True)
    add_fit_options(parser, DEFAULTS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Fit, calibrate and save a model."""
    config = fit_config(options, DEFAULTS)
    data = load_data(options)
    assert data.validation is not None
    template = network_template(
        options,
        classes=len(data.classes),
        channels=tuple(options.channels),
        reads_clips=data.preparation is not None,
    )
    torch.manual_seed(config.seed)
    network = PstBln(template)
    checkpoint = options.out.with_suffix('.checkpoint')
    fit(
        network, data.training, network_input=data.network_input, config=config,
        checkpoint=checkpoint,
    )
    calibration = calibrate(network, data.validation, network_input=data.network_input)
    print(describe_calibration(calibration))
    description = describe(
        template,
        data,
        calibration=calibration,
        training={
            **data.names,
            'sequences': len(data.training),
            'fit': asdict(config),
            'augmentation': asdict(data.augmentation),
            'validation_scores': asdict(calibration),
        },
        licence=options.licence,
    )
    save_model(options.out, network, description)
    checkpoint.unlink(missing_ok=True)
    print(f'model in {options.out}')
