# SPDX-License-Identifier: Apache-2.0
"""A recording with everything that was answered, its labels, and what they make of each answer."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fer_perception.evaluation.labels import UNLABELLED, Labels
from fer_perception.evaluation.observations import Observations
from fer_perception.evaluation.played_images import PlayedImages
from fer_perception.uncertainty.estimate import ExpressionState


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledRecording:
    """
    Hold one recording that was evaluated.

    M answers in the order in which they came, an answer being one face in one image. An answer
    is scored if it is after the warm-up and its image lies in a labelled segment of its face.
    """

    name: str  # of the file or folder
    topic: str | None  # of the images; None for other sources than bags
    damaged: int  # images that could not be read
    observations: Observations
    labels: Labels
    played: PlayedImages | None = None  # what playing it live has shown; None: it was offline

    def __post_init__(self) -> None:
        """Raise LabelError if the labels are not those of the recording."""
        if self.observations.classes:
            self.labels.check_classes(self.observations.classes)
        self.labels.check_images(self.observations.image_s)

    @cached_property
    def segment(self) -> np.ndarray:
        """The index (M,) of the segment that holds for each answer, UNLABELLED without one."""
        seen = self.observations
        segment = np.full(len(seen.face), UNLABELLED)
        for face in range(len(seen.faces)):
            own = seen.face == face
            segment[own] = self.labels.find(seen.time_s[own], face)
        return segment

    @cached_property
    def target(self) -> np.ndarray:
        """The class (M,) that each answer should have, UNLABELLED where nothing is known."""
        classes = self.observations.classes
        if not classes:
            return np.full(len(self.segment), UNLABELLED)
        targets = [classes.index(item.label) for item in self.labels.segments]
        return np.array([*targets, UNLABELLED])[self.segment]

    @cached_property
    def answer(self) -> np.ndarray:
        """The most probable class (M,); of an answer that says nothing any class."""
        probabilities = self.observations.probabilities
        if not probabilities.size:
            return np.zeros(len(probabilities), np.int64)
        return np.asarray(np.nan_to_num(probabilities, nan=0.0).argmax(-1))

    @property
    def is_confident(self) -> np.ndarray:
        """Which answers are CONFIDENT (M,) bool."""
        return np.asarray(self.observations.state == ExpressionState.CONFIDENT)

    @property
    def is_scored(self) -> np.ndarray:
        """Which answers are scored (M,) bool."""
        return np.asarray(self.observations.is_warm & (self.target != UNLABELLED))

    def count_faces(self) -> tuple[int, int]:
        """Count the images with a label, and those of them without the labelled face.

        An image counts once for the segment of every face that it lies in, where any face will
        do, and once for each face that has a segment of its own there. Images that were never
        answered do not count.
        """
        seen = self.observations
        labelled = without = 0
        for face in (None, *self.labels.faces):
            found = self.labels.find(seen.image_s, face)
            segments = self.labels.segments
            is_own = np.array([*(item.face == face for item in segments), False])[found]
            wanted = np.flatnonzero(is_own & seen.is_answered)
            there = seen.image if face is None else seen.image[seen.face == face]
            labelled += len(wanted)
            without += int((~np.isin(wanted, there)).sum())
        return labelled, without
