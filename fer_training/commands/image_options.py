# SPDX-License-Identifier: Apache-2.0
"""Options of image recognisers that fit, crossval and eval share, and what they mean."""

import argparse
import json
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from fer_perception.inference.backend import choose_device
from fer_perception.models.image_architectures import IMAGE_ARCHITECTURES
from fer_perception.models.tensor_file import read_metadata
from fer_training.image_plan import BACKBONE_DATA, Backbone
from fer_training.image_recipes import ImageFitConfig
from fer_training.label_mapping import read_label_mapping

LANDMARK_RECOGNIZER = 'pst_bln'
# Options that are of image recognisers only, by the names of their values.
IMAGE_OPTIONS = frozenset(
    {'faces', 'validation_faces', 'set', 'backbone_weights', 'backbone_data', 'views'}
)
# Options of landmark recognisers that mean the same for image recognisers.
SHARED_OPTIONS = frozenset(
    {
        'recognizer', 'run', 'command', 'out', 'licence', 'classes', 'map', 'device', 'name',
        'folds', 'seeds', 'vary', 'engine', 'processes', 'ray_address', 'mc_samples', 'unit',
        *(item.name for item in fields(ImageFitConfig)),
    }
)


def add_recognizer_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare which recogniser is meant, and all that only image recognisers have."""
    parser.add_argument('--recognizer', choices=(LANDMARK_RECOGNIZER, *IMAGE_ARCHITECTURES),
                        default=LANDMARK_RECOGNIZER,
                        help='pst_bln reads landmarks, the others images of --faces (%(default)s)')
    group = parser.add_argument_group(
        'image recognisers',
        "what is not said is as in the recogniser's paper; of the other options "
        '--classes, --map, --licence and those of fitting that have a meaning for them are taken',
    )
    group.add_argument('--faces', type=Path, metavar='FOLDER',
                       help='face set that fer_train prepare or extract made')
    group.add_argument('--set', action='append', nargs='+', default=[], metavar='SETTING=VALUE',
                       help='any setting of the network, the training, the augmentation or the '
                       'pixels, such as image_size=64 kind=baseline landmark_epochs=10 rotation=5')
    group.add_argument('--backbone-weights', type=Path, metavar='FILE',
                       help='published weights to begin with, VGG16-BN or ResNet50')
    group.add_argument('--backbone-data', choices=BACKBONE_DATA, default=BACKBONE_DATA[0],
                       help='what they were trained on (%(default)s)')
    group.add_argument('--views', type=int, choices=(1, 2), default=1,
                       help='2 reads every face mirrored as well, when it is tried '
                       '(%(default)s)')
    return group


def refuse_other_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Raise ValueError if an option is given that the chosen recogniser does not have."""
    reads_images = options.recognizer != LANDMARK_RECOGNIZER
    if reads_images:
        given = _given(parser, options, vars(options).keys() - IMAGE_OPTIONS - SHARED_OPTIONS)
        if given:
            raise ValueError(f'{given} is not for {options.recognizer}: leave it out')
        if options.faces is None:
            raise ValueError(f'{options.recognizer} reads images: say --faces FOLDER')
    elif given := _given(parser, options, IMAGE_OPTIONS):
        raise ValueError(
            f'{given} is for image recognisers: say --recognizer '
            f'{", ".join(IMAGE_ARCHITECTURES)}, or leave it out'
        )


def image_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Read the settings that differ from the paper's: those of --set, and the options' own."""
    settings = {
        item.name: tuple(value) if isinstance(value, list) else value
        for item in fields(ImageFitConfig)
        if item.name != 'device' and (value := getattr(options, item.name, None)) is not None
    }
    settings['device'] = choose_device(options.device)
    for text in (text for texts in options.set for text in texts):
        name, equals, value = text.partition('=')
        if not equals or not name:
            raise ValueError(f'--set needs SETTING=VALUE, not {text!r}')
        settings[name.replace('-', '_')] = setting_value(value)
    return settings


def setting_value(text: str) -> Any:
    """Read a value: a number, true or false, words, or several of them between commas."""
    if ',' in text:
        return tuple(setting_value(item) for item in text.split(',') if item)
    try:
        return json.loads(text.lower() if text.lower() in ('true', 'false') else text)
    except ValueError:
        return text


def image_backbone(options: argparse.Namespace) -> Backbone | None:
    """Name the published weights that the options name; ValueError if there is no such file."""
    if options.backbone_weights is None:
        return None
    if not options.backbone_weights.is_file():
        raise ValueError(f'there is no file {options.backbone_weights} of published weights')
    return Backbone.of(options.backbone_weights, options.backbone_data)


def label_mapping(options: argparse.Namespace) -> dict[str, str]:
    """Read what --map says."""
    return read_label_mapping([item for items in options.map for item in items])


def is_image_model(path: Path) -> bool:
    """Tell whether a model file is of an image recogniser.

    Raises ModelFileError if it is no model file.
    """
    text = read_metadata(path).get('architecture', '')
    return text.strip('"') in IMAGE_ARCHITECTURES


def _given(
    parser: argparse.ArgumentParser, options: argparse.Namespace, names: Collection[str]
) -> str:
    """Name the options that are not as they are when nobody says them; '' if there is none."""
    return ', '.join(
        f'--{name.replace("_", "-")}'
        for name in sorted(names)
        if hasattr(options, name) and getattr(options, name) != parser.get_default(name)
    )
