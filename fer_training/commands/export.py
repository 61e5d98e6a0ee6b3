# SPDX-License-Identifier: Apache-2.0
"""fer_train export: write a model as ONNX and check it against the network."""

import argparse
from pathlib import Path

from fer_perception.inference.onnx_clips import OnnxMonteCarlo
from fer_perception.models.model_file import load_model
from fer_training.commands.arguments import Commands
from fer_training.onnx_export import export_onnx, largest_difference

TOLERANCE = 1e-5  # largest difference that rounding explains, a share of logits above 1


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'export', help='write a model as ONNX, dropout masks as inputs, and check it'
    )
    parser.add_argument('--model', type=Path, required=True, help='model file (.safetensors)')
    parser.add_argument('--out', type=Path, required=True, help='file to write (.onnx)')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Export a model; nothing is left at --out if the export computes something else."""
    if options.out.suffix != '.onnx':
        raise ValueError(f'--out must end in .onnx, not {options.out.name!r}')
    model = load_model(options.model)
    config = model.network.config
    unchecked = options.out.with_suffix('.onnx.part')
    try:
        export_onnx(model.network, model.description, unchecked)
        exported = OnnxMonteCarlo(unchecked, seed=0)
        step, longest = config.total_stride, config.receptive_field + config.window
        difference = largest_difference(
            model.network, exported, frames=(1, step + 1, model.description.clip_frames or longest)
        )
        if not difference <= TOLERANCE:
            raise ValueError(
                f'the logits of the export differ by {difference:.1e} from those of '
                f'{options.model}, more than the {TOLERANCE:.0e} allowed; {options.out} is not '
                'written'
            )
        unchecked.replace(options.out)
    finally:
        unchecked.unlink(missing_ok=True)
    print(
        f'{options.out}: its logits differ by at most {difference:.1e} (of the largest, where '
        f'that is above 1) from those of {options.model} under the same random masks'
    )
