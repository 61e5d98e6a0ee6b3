# SPDX-License-Identifier: Apache-2.0
"""fer_train fit --recognizer: fit an image recogniser, calibrate it and save it."""

import argparse
from dataclasses import asdict

from fer_perception.models.image_model_file import save_image_model
from fer_training.commands.image_options import image_backbone, image_settings, label_mapping
from fer_training.commands.options import describe_calibration
from fer_training.image_dataset import FaceImages
from fer_training.image_plan import ImagePlan, LabelledFaces, answer_items
from fer_training.image_predictions import predict_images


def fit_image_recognizer(options: argparse.Namespace) -> None:
    """Fit, calibrate and save a model."""
    if options.out.suffix != '.safetensors':
        raise ValueError(f'--out must end in .safetensors, not {options.out.name!r}')
    mapping = label_mapping(options)
    faces, classes = LabelledFaces.read(
        options.faces, classes=tuple(options.classes or ()), mapping=mapping
    )
    training, validation = _parts(options, faces, classes, mapping)
    plan = ImagePlan.of(
        options.recognizer,
        classes=len(classes),
        settings=image_settings(options),
        backbone=image_backbone(options),
    )
    checkpoint = options.out.with_suffix('.checkpoint')
    fitted = plan.carry_out(training, validation, checkpoint=checkpoint)
    print(f'{options.recognizer}: {fitted.network.parameter_count():,} parameters')
    logits = predict_images(
        fitted.network,
        FaceImages.of(validation.face_set, fitted.crop, plan.recipe.normalization),
        answer_items(fitted.network, validation),
        views=options.views,
        seed=plan.recipe.fit.seed,
        progress=True,
    )
    calibration = logits.calibrate()
    print(describe_calibration(calibration))
    members = logits.member_accuracies()
    if len(members) > 1:
        print(describe_members(members))
    description = plan.describe(
        fitted,
        classes=classes,
        calibration=calibration,
        training={
            'faces': options.faces.name,
            'data_set': training.face_set.data_set,
            'validation': (options.validation_faces or options.faces).name,
            'sequences': len(training.sequences),
            'views': options.views,
            'validation_scores': asdict(calibration),
            'member_accuracies': members,
        },
        licence=options.licence,
    )
    save_image_model(options.out, fitted.network, description)
    checkpoint.unlink(missing_ok=True)
    print(f'model in {options.out}')


def describe_members(accuracies: dict[str, float]) -> str:
    """Say in one line how often each member alone is right."""
    listed = ', '.join(f'{name} {accuracy:.3f}' for name, accuracy in accuracies.items())
    return f'members alone: {listed}'


def _parts(
    options: argparse.Namespace,
    faces: LabelledFaces,
    classes: tuple[str, ...],
    mapping: dict[str, str],
) -> tuple[LabelledFaces, LabelledFaces]:
    """Return the faces to train on and those to validate on."""
    if options.validation_faces is not None:
        others, _ = LabelledFaces.read(
            options.validation_faces,
            classes=classes,
            mapping=mapping,
            elsewhere=faces.face_set.classes,
        )
        return faces, others
    training, validation = faces.of_part('train'), faces.of_part('val')
    if not training.sequences or not validation.sequences:
        raise ValueError(
            f'{options.faces} has no parts train and val: say --validation-faces FOLDER, with '
            'faces of other people'
        )
    return training, validation
