# SPDX-License-Identifier: Apache-2.0
"""fer_train export: write a model as ONNX and check it against the network."""

import argparse
from pathlib import Path

from fer_perception.inference.onnx_clips import OnnxMonteCarlo
from fer_perception.inference.onnx_streaming import OnnxStreamingPstBln
from fer_perception.models.image_model_file import load_image_model
from fer_perception.models.model_file import LoadedModel, load_model
from fer_training.commands.arguments import Commands
from fer_training.commands.image_options import is_image_model
from fer_training.image_onnx_export import export_image_onnx, largest_image_difference
from fer_training.onnx_export import export_onnx, largest_difference
from fer_training.onnx_step_export import export_step_network, largest_step_difference

TOLERANCE = 1e-5  # largest difference that rounding explains, a share of logits above 1
IMAGE_TOLERANCE = 1e-4  # the same of image recognisers, whose sums are longer
CHECKED_SAMPLES = 3


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'export', help='write a model as ONNX and check it; dropout masks are inputs of PST-BLN, '
        'image recognisers answer without'
    )
    parser.add_argument('--model', type=Path, required=True, help='model file (.safetensors)')
    parser.add_argument('--out', type=Path, required=True, help='file to write (.onnx)')
    parser.add_argument(
        '--streaming',
        action='store_true',
        help='write the network of one frame, its state an input, for the node; '
        'else the network of whole clips',
    )
    parser.add_argument(
        '--draw-masks',
        action='store_true',
        help='with --streaming: let the network draw its dropout masks itself, for GPUs',
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Export a model; nothing is left at --out if the export computes something else."""
    if options.out.suffix != '.onnx':
        raise ValueError(f'--out must end in .onnx, not {options.out.name!r}')
    if options.draw_masks and not options.streaming:
        raise ValueError('--draw-masks needs --streaming')
    reads_images = is_image_model(options.model)
    if reads_images and options.streaming:
        raise ValueError('--streaming is for PST-BLN: an image recogniser has one network')
    tolerance = IMAGE_TOLERANCE if reads_images else TOLERANCE
    unchecked = options.out.with_suffix('.onnx.part')
    try:
        difference, conditions = (
            _export_images(options.model, unchecked)
            if reads_images
            else _export_landmarks(options, unchecked)
        )
        if not difference <= tolerance:
            raise ValueError(
                f'the logits of the export differ by {difference:.1e} from those of '
                f'{options.model}, more than the {tolerance:.0e} allowed; {options.out} is not '
                'written'
            )
        unchecked.replace(options.out)
    finally:
        unchecked.unlink(missing_ok=True)
    print(
        f'{options.out}: its logits differ by at most {difference:.1e} (of the largest, where '
        f'that is above 1) from those of {options.model} {conditions}'
    )


def _export_images(path: Path, out: Path) -> tuple[float, str]:
    """Write an image recogniser; return its largest difference and under which conditions."""
    model = load_image_model(path)
    export_image_onnx(model.network, model.description, out)
    return largest_image_difference(model.network, out), 'on random images'


def _export_landmarks(options: argparse.Namespace, out: Path) -> tuple[float, str]:
    """Write a PST-BLN; return its largest difference and under which conditions."""
    model = load_model(options.model)
    has_masks = model.network.config.dropout > 0 and not options.draw_masks
    masks = 'under the same random masks' if has_masks else 'without dropout'
    if options.streaming:
        return _export_step(model, out, draw_masks=options.draw_masks), masks
    return _export_clips(model, out), masks


def _export_clips(model: LoadedModel, path: Path) -> float:
    """Write the network of whole clips and return its largest difference from the model's."""
    config = model.network.config
    export_onnx(model.network, model.description, path)
    step, longest = config.total_stride, config.receptive_field + config.window
    return largest_difference(
        model.network,
        OnnxMonteCarlo(path, seed=0),
        frames=(1, step + 1, model.description.clip_frames or longest),
    )


def _export_step(model: LoadedModel, path: Path, *, draw_masks: bool) -> float:
    """Write the network of one frame and return its largest difference from the clip network."""
    config = model.network.config
    export_step_network(model.network, model.description, path, draw_masks=draw_masks)
    # No masks can be given to a network that draws its own: it is compared without dropout only.
    has_given_masks = config.dropout > 0 and not draw_masks
    return max(
        largest_step_difference(
            model.network,
            OnnxStreamingPstBln(path, samples=samples, seed=0),
            frames=config.receptive_field + config.window + config.total_stride,
        )
        for samples in ((0, CHECKED_SAMPLES) if has_given_masks else (0,))
    )
