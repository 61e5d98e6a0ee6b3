# SPDX-License-Identifier: Apache-2.0
"""A plan for an image recogniser: which network, trained how, from which first weights."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_perception.faces.crop import FaceCrop
from fer_perception.models.abaw_ensemble import AbawEnsemble
from fer_perception.models.backbone_weights import VGGFACE2_DEVIATION, VGGFACE2_MEAN
from fer_perception.models.fer_gcn import FerGcn
from fer_perception.models.image_architectures import build_image_network
from fer_perception.models.image_model_file import ImageModelDescription
from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.model_file import MAX_FRAME_RATE
from fer_training.calibration import Calibration
from fer_training.face_sets import FaceSequence, FaceSet, read_face_set
from fer_training.image_dataset import (
    FaceImages,
    ImageItems,
    centred_items,
    class_indices,
    spread_items,
    window_items,
)
from fer_training.image_fitting import ImageData, ImageFit, fit_images
from fer_training.image_recipes import ImageRecipe, paper_recipe

BACKBONE_DATA = ('imagenet', 'vggface2')


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledFaces:
    """Hold some sequences of a face set with the class of every frame."""

    face_set: FaceSet
    sequences: tuple[FaceSequence, ...]
    labels: np.ndarray  # (F,) of the whole set: index into the model's classes, -1: unknown

    @classmethod
    def read(
        cls,
        folder: Path,
        *,
        classes: Sequence[str] = (),
        mapping: Mapping[str, str] | None = None,
        elsewhere: Collection[str] = (),
    ) -> tuple['LabelledFaces', tuple[str, ...]]:
        """Read a folder; return its faces, and the classes: those given, else those it shows.

        mapping, elsewhere: see `class_indices`.
        Raises FaceSetError for a folder that is no face set, ValueError for labels that do not
        fit the classes.
        """
        face_set = read_face_set(folder)
        mapping = mapping or {}
        if not classes:
            present = set(np.unique(face_set.labels[face_set.labels >= 0]).tolist())
            shown = [
                mapping.get(name, name)
                for index, name in enumerate(face_set.classes)
                if index in present
            ]
            classes = tuple(dict.fromkeys(name for name in shown if name))
        labels = class_indices(face_set, classes, mapping, elsewhere=elsewhere)
        faces = cls(face_set=face_set, sequences=face_set.sequences, labels=labels)
        return faces, tuple(classes)

    def subset(self, sequences: Sequence[int]) -> 'LabelledFaces':
        """Keep some sequences, by their indices."""
        return replace(self, sequences=tuple(self.sequences[index] for index in sequences))

    def of_part(self, part: str) -> 'LabelledFaces':
        """Keep the sequences of a part of the data set; none if it has no such part."""
        kept = [index for index, item in enumerate(self.sequences) if item.part == part]
        return self.subset(kept)

    @property
    def landmarks(self) -> dict[str, np.ndarray]:
        """The landmarks (frames, 68, 2) of each sequence by its name, 0 to 1 of the crop."""
        return {
            item.name: self.face_set.landmarks[item.start : item.stop] for item in self.sequences
        }


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Name the published weights that backbones begin with."""

    path: Path
    sha256: str
    data: str = BACKBONE_DATA[0]  # what they were trained on: one of BACKBONE_DATA

    @classmethod
    def of(cls, path: Path, data: str = BACKBONE_DATA[0]) -> 'Backbone':
        """Name a file with the checksum that it has now; OSError if it cannot be read."""
        return cls(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), data=data)


@dataclass(frozen=True, kw_only=True)
class FittedImages:
    """Hold a fitted network and how it came to be."""

    network: ImageNetwork  # in evaluation mode
    crop: FaceCrop  # how faces are cut for it
    fit: ImageFit
    frame_rate: float  # of its sequences, frames per second; 0 for single images


@dataclass(frozen=True, kw_only=True)
class ImagePlan:
    """Say which recogniser to make and how."""

    recognizer: str
    recipe: ImageRecipe
    backbone: Backbone | None = None

    @classmethod
    def of(
        cls,
        recognizer: str,
        *,
        classes: int,
        settings: Mapping[str, Any] | None = None,
        backbone: Backbone | None = None,
    ) -> 'ImagePlan':
        """Make a plan by the paper's recipe, some settings changed by name.

        Weights of VGGFace2 have strides and pixels of their own, which they bring along. Raises
        ValueError for what `paper_recipe` refuses, or a backbone that the recogniser has not.
        """
        settings = dict(settings or {})
        if backbone is not None and recognizer == 'part_ensemble':
            raise ValueError('part_ensemble has no backbone: it takes no published weights')
        if backbone is not None and backbone.data == 'vggface2':
            if recognizer != 'abaw_ensemble':
                raise ValueError(f'weights of VGGFace2 are of abaw_ensemble, not {recognizer}')
            settings = {
                'caffe_layout': True,
                'mean': VGGFACE2_MEAN,
                'deviation': VGGFACE2_DEVIATION,
                **settings,
            }
        return cls(
            recognizer=recognizer,
            recipe=paper_recipe(recognizer, classes=classes, settings=settings),
            backbone=backbone,
        )

    def build(self) -> ImageNetwork:
        """Make the network with its first weights: the seed's, and those of the backbone."""
        torch.manual_seed(self.recipe.fit.seed)
        network = build_image_network(self.recipe.network)
        if self.backbone is not None:
            if Backbone.of(self.backbone.path, self.backbone.data) != self.backbone:
                raise ValueError(f'{self.backbone.path} has changed since the run began')
            if isinstance(network, AbawEnsemble):
                network.load_backbone(
                    self.backbone.path, bgr=self.backbone.data == 'vggface2'
                )
            elif isinstance(network, FerGcn):
                network.load_backbone(self.backbone.path)
        return network

    def carry_out(
        self,
        training: LabelledFaces,
        validation: LabelledFaces | None,
        *,
        checkpoint: Path | None = None,
        progress: bool = True,
        log: Callable[[str], None] = print,
    ) -> FittedImages:
        """Make and fit the network; an interrupted run goes on from `checkpoint`.

        validation: faces of other people that tell when a stage is saturated. Raises ValueError
        for sequences that the network cannot read.
        """
        recipe = self.recipe
        network = self.build()
        crop = recipe.crop(training.face_set.crop)
        fitted = fit_images(
            network,
            ImageData(
                FaceImages.of(training.face_set, crop, recipe.normalization),
                training_items(network, training, step=recipe.fit.window_step),
            ),
            config=recipe.fit,
            augmentation=recipe.augmentation,
            validation=None if validation is None else ImageData(
                FaceImages.of(validation.face_set, crop, recipe.normalization),
                training_items(network, validation, step=network.frames),
            ),
            checkpoint=checkpoint,
            origin='' if self.backbone is None else self.backbone.sha256,
            progress=progress,
            log=log,
        )
        return FittedImages(
            network=network,
            crop=crop,
            fit=fitted,
            frame_rate=frame_rate(network, training),
        )

    def describe(
        self,
        fitted: FittedImages,
        *,
        classes: tuple[str, ...],
        calibration: Calibration | None,
        training: dict[str, Any],
        licence: str,
    ) -> ImageModelDescription:
        """Describe a fitted network for its model file."""
        recipe = self.recipe
        calibrated: dict[str, Any] = {} if calibration is None else {
            'temperature': calibration.temperature,
            'abstention_threshold': calibration.abstention_threshold,
        }
        backbone: dict[str, Any] = {} if self.backbone is None else {
            'backbone': self.backbone.path.name,
            'backbone_sha256': self.backbone.sha256,
            'backbone_data': self.backbone.data,
        }
        epochs: dict[str, int] = {}
        for record in fitted.fit.epochs:
            epochs[record.stage] = record.epoch
        return ImageModelDescription(
            network=recipe.network,
            classes=classes,
            crop=fitted.crop,
            normalization=recipe.normalization,
            frame_rate=fitted.frame_rate,
            warm_up_s=_warm_up_s(fitted),
            training={
                **training,
                'fit': asdict(recipe.fit),
                'augmentation': asdict(recipe.augmentation),
                'crop_share': recipe.crop_share,
                'epochs': epochs,
                'localization': fitted.fit.localization,
                **backbone,
            },
            licence=licence,
            **calibrated,
        )


def training_items(network: ImageNetwork, faces: LabelledFaces, *, step: int) -> ImageItems:
    """Choose what a network is trained on: whole sequences, windows of them, or single frames."""
    if isinstance(network, AbawEnsemble):
        return window_items(faces.sequences, faces.labels, frames=network.frames, step=step)
    return answer_items(network, faces)


def answer_items(network: ImageNetwork, faces: LabelledFaces) -> ImageItems:
    """Choose what a network answers for: whole sequences, or every frame with a class."""
    if isinstance(network, FerGcn):
        return spread_items(faces.sequences, faces.labels, frames=network.frames)
    return centred_items(faces.sequences, faces.labels, frames=network.frames)


def frame_rate(network: ImageNetwork, faces: LabelledFaces) -> float:
    """Return the frame rate of what a network is trained on, frames per second.

    Frames that were spread over whole sequences are as far apart as over one of the median
    length; 0 for single images.
    """
    if network.frames == 1:
        return 0.0
    rates = [item.frame_rate for item in faces.sequences if item.frame_rate]
    if isinstance(network, FerGcn):
        spans = [
            (item.frames - 1) / item.frame_rate
            for item in faces.sequences
            if item.frame_rate and item.frames > 1
        ]
        if spans:
            rates = [(network.frames - 1) / float(np.median(spans))]
    return min(float(np.median(rates)), MAX_FRAME_RATE)


def _warm_up_s(fitted: FittedImages) -> float:
    """Return the evidence before an answer counts: whole sequences, or to the middle of one."""
    if not fitted.frame_rate:
        return 0.0
    frames = fitted.network.frames
    needed = frames if isinstance(fitted.network, FerGcn) else frames // 2 + 1
    return needed / fitted.frame_rate
