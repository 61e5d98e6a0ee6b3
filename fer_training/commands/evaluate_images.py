# SPDX-License-Identifier: Apache-2.0
"""fer_train eval --faces: what an image recogniser says of a face set."""

import argparse
from dataclasses import dataclass

import numpy as np

from fer_perception.models.image_model_file import ImageModelDescription, load_image_model
from fer_training.commands.crossval_images import answer_unit
from fer_training.commands.image_options import label_mapping
from fer_training.image_dataset import FaceImages
from fer_training.image_plan import LabelledFaces, answer_items
from fer_training.image_predictions import VotedPredictions, pool_sequences, predict_images


@dataclass(frozen=True, kw_only=True)
class FaceAnswers:
    """Hold what a model says of a face set."""

    description: ImageModelDescription
    predictions: VotedPredictions
    unit: str  # 'clip' or 'frame'
    sequences: int
    faces: list[np.ndarray]  # landmarks (frames, 68, 2) of the sequence of each answer
    member_accuracies: dict[str, float]


def answers_of_faces(options: argparse.Namespace) -> FaceAnswers:
    """Read the faces with the model, at its temperature.

    Raises ModelFileError, FaceSetError or ValueError naming what does not fit.
    """
    model = load_image_model(options.model)
    description = model.description
    unit = answer_unit(description.architecture, options.unit)
    faces, _ = LabelledFaces.read(
        options.faces, classes=description.classes, mapping=label_mapping(options)
    )
    if options.part is not None:
        faces = faces.of_part(options.part)
        if not faces.sequences:
            raise ValueError(f'{options.faces} has no sequence of the part {options.part}')
    logits = predict_images(
        model.network,
        FaceImages.of(faces.face_set, description.crop, description.normalization),
        answer_items(model.network, faces),
        samples=options.samples,
        views=options.views,
        seed=options.seed,
        progress=True,
    )
    predictions = logits.answers(description.temperature)
    origins = logits.sequences
    if unit == 'clip':
        predictions = pool_sequences(predictions, logits)
        origins = predictions.names
    landmarks = faces.landmarks
    return FaceAnswers(
        description=description,
        predictions=predictions,
        unit=unit,
        sequences=len(faces.sequences),
        faces=[landmarks[name] for name in origins],
        member_accuracies=logits.member_accuracies(),
    )
