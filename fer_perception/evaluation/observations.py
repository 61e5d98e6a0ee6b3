# SPDX-License-Identifier: Apache-2.0
"""What was answered for each image of a recording, in arrays: offline and live give the same.

Shapes: N images, M answers (an answer is one face in one image), C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_perception.evaluation.metrics import SUM_TOLERANCE
from fer_perception.records import ExpressionRecord
from fer_perception.uncertainty.estimate import ExpressionState


@dataclass(frozen=True, kw_only=True, eq=False)
class Observations:
    """Hold the answers to a recording's images, in the order in which they came."""

    classes: tuple[str, ...]  # none where no face was ever answered
    faces: tuple[str, ...]  # ids in order of first appearance; of one image, from left to right
    image_s: np.ndarray  # (N,) seconds since the first image, by the stamps
    is_answered: np.ndarray  # (N,) bool: False for an image that was sent and never answered
    image: np.ndarray  # (M,) index of the answer's image
    face: np.ndarray  # (M,) index into `faces`
    state: np.ndarray  # (M,) values of ExpressionState
    probabilities: np.ndarray  # (M, C)
    standard_deviations: np.ndarray  # (M, C)
    predictive_entropy: np.ndarray  # (M,) nats
    expected_entropy: np.ndarray  # (M,) nats
    mutual_information: np.ndarray  # (M,) nats
    mc_samples: np.ndarray  # (M,)

    @property
    def time_s(self) -> np.ndarray:
        """The times of the answers' images (M,), seconds since the first image."""
        return np.asarray(self.image_s[self.image])

    @property
    def is_warm(self) -> np.ndarray:
        """Which answers count (M,) bool: those after the warm-up that say something."""
        return np.isin(self.state, (ExpressionState.CONFIDENT, ExpressionState.UNCERTAIN))

    @property
    def duration_s(self) -> float:
        """Seconds from the earliest to the latest image."""
        return float(np.ptp(self.image_s)) if len(self.image_s) else 0.0

    @property
    def steps_back(self) -> int:
        """How often an image has an earlier stamp than the one before it."""
        return int((np.diff(self.image_s) < 0).sum())


class ObservationCollector:
    """Takes the answers image by image; keeps the numbers of each, not the records."""

    def __init__(self) -> None:
        self._stamps_ns: list[int] = []
        self._is_answered: list[bool] = []
        self._classes: tuple[str, ...] = ()
        self._faces: dict[str, int] = {}
        self._index: list[tuple[int, int, int, int]] = []  # image, face, state, samples
        self._values: list[np.ndarray | None] = []  # (2 C + 3,) of each answer

    def add(self, stamp_ns: int, records: Sequence[ExpressionRecord] | None) -> None:
        """Take the next image and all its records; None where it was not answered.

        Raises ValueError, and takes nothing, for a record that is no distribution, or of other
        classes than those before, and for two of one face. Only a record that is UNKNOWN may be
        without any classes.
        """
        values = {record.face_id: self._checked_values(record) for record in records or ()}
        if len(values) < len(records or ()):
            raise ValueError(f'a face occurs twice in an image of {len(records or ())} faces')
        image = len(self._stamps_ns)
        self._stamps_ns.append(stamp_ns)
        self._is_answered.append(records is not None)
        for record in sorted(records or (), key=lambda item: (item.roi[0], item.face_id)):
            self._classes = self._classes or record.labels
            face = self._faces.setdefault(record.face_id, len(self._faces))
            self._index.append((image, face, int(record.state), record.mc_samples))
            self._values.append(values[record.face_id])

    def _checked_values(self, record: ExpressionRecord) -> np.ndarray | None:
        """Return the numbers of a record (2 C + 3,), None if it has none."""
        if record.state == ExpressionState.UNKNOWN and not record.labels:
            return None
        if self._classes and record.labels != self._classes:
            raise ValueError(
                f'face {record.face_id!r} has the classes {record.labels}, those before it had '
                f'{self._classes}'
            )
        probabilities, deviations = record.probabilities, record.standard_deviations
        values = np.array(
            [
                *probabilities,
                *deviations,
                record.predictive_entropy,
                record.expected_entropy,
                record.mutual_information,
            ]
        )
        if (
            not len(record.labels) == len(probabilities) == len(deviations)
            or not np.isfinite(values).all()
            or min(probabilities, default=-1.0) < 0
            or abs(sum(probabilities) - 1.0) > SUM_TOLERANCE
        ):
            raise ValueError(
                f'face {record.face_id!r} has no probabilities of {len(record.labels)} classes '
                f'that sum to 1, but {probabilities}'
            )
        return values

    def finish(self) -> Observations:
        """Return everything taken so far."""
        first_ns = self._stamps_ns[0] if self._stamps_ns else 0
        index = np.array(self._index, np.int64).reshape(-1, 4)  # (M, 4)
        count = len(self._classes)
        values = np.full((len(index), 2 * count + 3), np.nan)  # (M, 2 C + 3)
        for row, given in zip(values, self._values, strict=True):
            if given is not None:
                row[:] = given
        return Observations(
            classes=self._classes,
            faces=tuple(self._faces),
            # By whole numbers first: stamps since 1970 are too long for a float.
            image_s=np.array([(stamp_ns - first_ns) / 1e9 for stamp_ns in self._stamps_ns]),
            is_answered=np.array(self._is_answered, bool),
            image=index[:, 0],
            face=index[:, 1],
            state=index[:, 2],
            probabilities=values[:, :count],
            standard_deviations=values[:, count : 2 * count],
            predictive_entropy=values[:, -3],
            expected_entropy=values[:, -2],
            mutual_information=values[:, -1],
            mc_samples=index[:, 3],
        )
