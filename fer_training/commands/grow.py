# SPDX-License-Identifier: Apache-2.0
"""fer_train grow: grow a PST-BLN by the paper's rule, calibrate it and save it."""

import argparse
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from fer_perception.models.model_file import save_model
from fer_perception.models.pst_bln import PstBln
from fer_training.calibration import calibrate, measure_accuracy
from fer_training.commands.arguments import Commands, positive
from fer_training.commands.options import (
    LoadedData,
    add_data_options,
    add_fit_options,
    add_mixing_options,
    add_network_options,
    add_validation_options,
    describe,
    describe_calibration,
    fit_config,
    load_data,
    network_template,
)
from fer_training.fit_recipes import FIT_RECIPES, FitRecipe
from fer_training.growth import FINAL_STARTS, GrowthConfig, grow
from fer_training.growth_plot import plot_growth
from fer_training.tensorboard_log import TensorBoardLog

MODEL_FILE, PLOT_FILE, LOG_FOLDER = 'model.safetensors', 'growth.png', 'tensorboard'


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'grow', help='grow a PST-BLN, width then depth, calibrate and save it'
    )
    parser.add_argument('--out', type=Path, required=True,
                        help='folder for the model, the history, a plot and TensorBoard curves')
    parser.add_argument('--licence', default='', help='terms of the weights')
    add_data_options(parser, streams=True)
    add_mixing_options(parser)
    add_validation_options(parser, required=False)
    add_network_options(parser, streams=True)
    add_growth_options(parser)
    add_fit_options(parser, FIT_RECIPES['practical'].step)
    parser.set_defaults(run=run)


def add_growth_options(parser: argparse.ArgumentParser) -> None:
    """Declare the rule of growth and the recipe that all other defaults come from."""
    practical = FIT_RECIPES['practical']
    group = parser.add_argument_group('growth')
    group.add_argument('--recipe', choices=list(FIT_RECIPES), default='practical',
                       help="where unsaid settings come from: 'paper' is the full schedule, "
                       "'practical' a short one, whose values are shown here (%(default)s)")
    group.add_argument('--block-size', type=positive, help='channels that a step adds (5)')
    group.add_argument('--block-threshold', type=float,
                       help='lowest relative drop of the loss that keeps a block '
                       f'({practical.limits.block_threshold}; in the paper 0.0001)')
    group.add_argument('--layer-threshold', type=float,
                       help='lowest relative drop of the loss that keeps a layer '
                       f'({practical.limits.layer_threshold}; in the paper 0.0001)')
    group.add_argument('--max-blocks', type=positive,
                       help=f'of a layer ({practical.limits.max_blocks}; paper 100)')
    group.add_argument('--max-layers', type=positive,
                       help=f'({practical.limits.max_layers}; paper 10)')
    group.add_argument('--initial-channels', type=positive, nargs='+', default=[],
                       help='topology to begin with (one block)')
    group.add_argument('--strided-layers', type=int, nargs='*', default=[], metavar='LAYER',
                       help='layers, from 0, of temporal stride 2; the reference: 4 7')
    group.add_argument('--final-epochs', type=int,
                       help=f'of all parameters after growth ({practical.final_epochs})')
    group.add_argument('--final-start', choices=FINAL_STARTS, default=FINAL_STARTS[0],
                       help="weights that the final epochs begin with: the 'grown' ones as in the "
                       "paper, or 'fresh' ones in the grown topology (%(default)s)")
    group.add_argument('--judge-by', choices=('training', 'validation'), default='training',
                       help='whose loss the thresholds are of (%(default)s, as the paper)')
    group.add_argument('--mc-samples', type=positive, default=100,
                       help='of the validation of each kept step (%(default)s)')


def growth_config(options: argparse.Namespace) -> GrowthConfig:
    """Read the rule and the recipe of growth from the options."""
    recipe: FitRecipe = FIT_RECIPES[options.recipe]
    given = {
        name: value
        for name in ('block_size', 'block_threshold', 'layer_threshold', 'max_blocks',
                     'max_layers')
        if (value := getattr(options, name)) is not None
    }
    final_epochs = recipe.final_epochs if options.final_epochs is None else options.final_epochs
    step = fit_config(options, recipe.step)
    final = replace(fit_config(options, recipe.fit), epochs=final_epochs) if final_epochs else None
    return GrowthConfig(
        limits=replace(recipe.limits, **given),
        step=step,
        final=final,
        final_start=options.final_start,
        strided_layers=tuple(options.strided_layers),
        initial_channels=tuple(options.initial_channels),
    )


def run(options: argparse.Namespace) -> None:
    """Grow, calibrate and save a model."""
    config = growth_config(options)
    data = load_data(options)
    by_validation = options.judge_by == 'validation'
    if by_validation and data.validation is None:
        raise ValueError('growth judged by validation needs --validation')
    template = network_template(
        options,
        classes=len(data.classes),
        channels=(config.limits.block_size,),
        reads_clips=data.preparation is not None,
    )
    with ExitStack() as stack:
        curves = stack.enter_context(TensorBoardLog(options.out / LOG_FOLDER))
        result = grow(
            template,
            data.training,
            network_input=data.network_input,
            config=config,
            folder=options.out,
            judging_data=data.validation if by_validation else None,
            evaluate=_evaluation(data, samples=options.mc_samples, seed=config.step.seed),
            on_epoch=lambda _, record: curves.epoch(record),
            on_step=curves.step,
        )
    print(result.network.parameter_summary())
    plot_growth(result.steps, options.out / PLOT_FILE)
    calibration = None
    if data.validation is not None:
        calibration = calibrate(
            result.network, data.validation, network_input=data.network_input
        )
        print(describe_calibration(calibration))
    description = describe(
        result.network.config,
        data,
        calibration=calibration,
        training={
            **data.names,
            'sequences': len(data.training),
            # As JSON has it, for the model file says the same when it is read again.
            'growth': json.loads(json.dumps(asdict(config))),
            'steps': len(result.steps),
            'loss': result.loss,
            'augmentation': asdict(data.augmentation),
            **({} if calibration is None else {'validation_scores': asdict(calibration)}),
        },
        licence=options.licence,
    )
    save_model(options.out / MODEL_FILE, result.network, description)
    print(f'model in {options.out / MODEL_FILE}')


def _evaluation(
    data: LoadedData, *, samples: int, seed: int
) -> Callable[[PstBln], Mapping[str, float]] | None:
    """Make what evaluates a kept step on the validation data, if there are any."""
    validation = data.validation
    if validation is None:
        return None

    def evaluate(network: PstBln) -> Mapping[str, float]:
        return {
            'accuracy': measure_accuracy(
                network, validation, network_input=data.network_input, mc_samples=samples,
                seed=seed,
            )
        }

    return evaluate
