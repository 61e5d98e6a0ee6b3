# SPDX-License-Identifier: Apache-2.0
"""Result files: what an evaluation or a cross-validation found, as JSON, and its predictions.

Reading checks every field and refuses unknown ones, so that a report never mixes up results.
"""

import json
import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fer_perception.evaluation.metrics import (
    RecognitionMetrics,
    SelectiveScores,
    measure_recognition,
    measure_selective,
)
from fer_training.array_archive import read_arrays

Result = TypeVar('Result')


class ResultFileError(ValueError):
    """Say which result file cannot be read, and what in it is wrong."""


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """Hold what became of one fold of a cross-validation."""

    subjects: tuple[str, ...]  # who was held out
    clips: int  # clips held out
    topology: tuple[int, ...]  # output channels of each layer of the fold's network
    monte_carlo_accuracy: float
    single_pass_accuracy: float


@dataclass(frozen=True, kw_only=True)
class CrossvalResult:
    """Hold one cross-validation of one network with one seed."""

    name: str  # of the network, as tables show it: 'PST-BLN (grown)'
    data: str  # name of the data file, without its folder
    folds: str  # what they hold out, such as 'subject'
    seed: int
    parameters_without_topology: float  # mean over the folds
    parameters_with_topology: float  # mean over the folds
    classes: tuple[str, ...]
    command: str  # that makes this result again
    per_fold: tuple[FoldResult, ...]
    monte_carlo: RecognitionMetrics  # of the held-out clips of all folds together
    single_pass: RecognitionMetrics

    def __post_init__(self) -> None:
        """Refuse metrics of other classes or of different clips."""
        for metrics in (self.monte_carlo, self.single_pass):
            if metrics.classes != self.classes:
                raise ValueError(f'metrics of {metrics.classes} do not fit {self.classes}')
        if self.monte_carlo.count != self.single_pass.count:
            raise ValueError(
                f'monte_carlo has {self.monte_carlo.count} clips, single_pass '
                f'{self.single_pass.count}'
            )
        if self.monte_carlo.samples is None:
            raise ValueError('monte_carlo must hold the metrics of single samples')


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Hold the evaluation of one model on one data file."""

    model: str  # name of the model file, without its folder
    data: str  # name of the data file, without its folder
    unit: str  # what one answer is for: 'clip' or 'frame'
    samples: int  # Monte Carlo samples of an answer, the most of them if sampling is adaptive
    lead_errors: float | None = None  # standard errors that end adaptive sampling, else None
    mc_samples_mean: float | None = None  # samples of an answer if sampling is adaptive, else None
    seed: int
    clips: int
    classes: tuple[str, ...]
    monte_carlo: RecognitionMetrics
    single_pass: RecognitionMetrics
    abstention_threshold: float  # of the model: the lowest confidence that is CONFIDENT
    selective: SelectiveScores  # of the ensemble's answers at that threshold


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Hold the probabilities of M answers, of S Monte Carlo samples and of one plain pass."""

    labels: np.ndarray  # (M,) int64, index into the classes
    names: tuple[str, ...]  # (M,) what each answer is for
    monte_carlo: np.ndarray  # (S, M, C), the last rows of an answer of fewer samples being NaN
    single_pass: np.ndarray  # (M, C)

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        shape = self.monte_carlo.shape
        count = len(self.labels)
        if len(shape) != 3 or len(self.names) != count or shape[1:] != self.single_pass.shape:
            raise ValueError(
                f'{count} labels, {len(self.names)} names, samples {shape} and a single pass '
                f'{self.single_pass.shape} do not belong together'
            )
        if count != len(self.single_pass):
            raise ValueError(f'{count} labels for {len(self.single_pass)} answers')
        missing = np.isnan(self.monte_carlo).any(-1)  # (S, M)
        if missing[:1].any() or (missing[:-1] > missing[1:]).any():
            raise ValueError('an answer may lack its last samples only: others are NaN')

    def __len__(self) -> int:
        """Count the answers."""
        return len(self.labels)

    @property
    def sample_counts(self) -> np.ndarray:
        """Count the Monte Carlo samples of each answer: (M,)."""
        return np.asarray((~np.isnan(self.monte_carlo[..., 0])).sum(0))

    @property
    def ensemble(self) -> np.ndarray:
        """Average the Monte Carlo samples of each answer: (M, C) float64."""
        return np.asarray(np.nanmean(self.monte_carlo, axis=0, dtype=np.float64))

    def samples_of(self, answer: int) -> np.ndarray:
        """Return the Monte Carlo samples of one answer: (S_n, C)."""
        return self.monte_carlo[: self.sample_counts[answer], answer]

    def subset(self, chosen: np.ndarray) -> 'Predictions':
        """Keep the answers of a mask (M,) bool."""
        return Predictions(
            labels=self.labels[chosen],
            names=tuple(self.names[index] for index in np.flatnonzero(chosen)),
            monte_carlo=self.monte_carlo[:, chosen],
            single_pass=self.single_pass[chosen],
        )

    def measure(
        self, classes: tuple[str, ...]
    ) -> tuple[RecognitionMetrics, RecognitionMetrics]:
        """Measure the Monte Carlo ensemble and the single pass.

        What compares single samples is None where the answers have different numbers of them.
        """
        is_whole = bool((self.sample_counts == len(self.monte_carlo)).all())
        samples = self.monte_carlo if is_whole else None
        return (
            measure_recognition(self.ensemble, self.labels, classes=classes, samples=samples),
            measure_recognition(self.single_pass, self.labels, classes=classes),
        )

    def measure_confident(self, abstention_threshold: float) -> SelectiveScores:
        """Measure what only the answers of a confidence at or above the threshold are worth."""
        mean = self.ensemble
        return measure_selective(
            mean.max(-1) >= abstention_threshold, mean.argmax(-1) == self.labels
        )


def join_predictions(parts: typing.Sequence[Predictions]) -> Predictions:
    """Pool the answers of several folds, in their order.

    Raises ValueError if there is none, or they have other numbers of samples or classes.
    """
    if not parts:
        raise ValueError('there are no predictions to join')
    if len(shapes := {(len(p.monte_carlo), p.single_pass.shape[1]) for p in parts}) > 1:
        raise ValueError(f'the numbers of samples and classes differ: {sorted(shapes)}')
    return Predictions(
        labels=np.concatenate([part.labels for part in parts]),
        names=tuple(name for part in parts for name in part.names),
        monte_carlo=np.concatenate([part.monte_carlo for part in parts], axis=1),
        single_pass=np.concatenate([part.single_pass for part in parts]),
    )


def write_result(path: Path, result: CrossvalResult | EvaluationResult) -> None:
    """Write a result as JSON; the same result gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=1, allow_nan=False) + '\n')


def read_crossval_result(path: Path) -> CrossvalResult:
    """Read the result of a cross-validation.

    Raises ResultFileError naming the file and the first thing wrong with it.
    """
    return _read_file(path, CrossvalResult)


def read_evaluation_result(path: Path) -> EvaluationResult:
    """Read the result of an evaluation.

    Raises ResultFileError naming the file and the first thing wrong with it.
    """
    return _read_file(path, EvaluationResult)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as .npz, Monte Carlo samples in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        'labels': predictions.labels,
        'names': np.array(predictions.names),
        'monte_carlo': predictions.monte_carlo.astype(np.float16),
        'single_pass': predictions.single_pass.astype(np.float32),
    }
    with path.open('wb') as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_predictions(path: Path) -> Predictions:
    """Read predictions, in single precision.

    Raises ResultFileError naming the file and the first thing wrong with it.
    """
    try:
        arrays = read_arrays(path)
        return Predictions(
            labels=arrays['labels'],
            names=tuple(arrays['names'].tolist()),
            monte_carlo=arrays['monte_carlo'].astype(np.float32),
            single_pass=arrays['single_pass'].astype(np.float32),
        )
    except (ValueError, TypeError, KeyError) as error:  # arrays of other kinds, or none
        raise ResultFileError(f'{path} holds no predictions: {error}') from error


def _read_file(path: Path, kind: type[Result]) -> Result:
    try:
        values = json.loads(path.read_text())
        result: Result = _read_value('the file', kind, values)
    except OSError as error:
        raise ResultFileError(f'result file {path} cannot be read: {error.strerror}') from error
    except ValueError as error:
        raise ResultFileError(f'{path} is no {kind.__name__}: {error}') from error
    return result


def _read_value(where: str, kind: Any, value: Any) -> Any:
    """Build a value of an annotated type from what JSON gave, refusing everything else."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # X | None
        inner = next(item for item in arguments if item is not type(None))
        return None if value is None else _read_value(where, inner, value)
    if origin is tuple:
        return tuple(
            _read_value(f'{where}[{index}]', arguments[0], item)
            for index, item in enumerate(_typed(where, list, value))
        )
    if origin is dict:
        return {
            key: _read_value(f'{where}[{key}]', arguments[1], item)
            for key, item in _typed(where, dict, value).items()
        }
    if is_dataclass(kind):
        return _read_fields(where, kind, _typed(where, dict, value))
    if kind is float and type(value) is int:
        return float(value)
    return _typed(where, kind, value)


def _read_fields(where: str, kind: Any, values: dict[str, Any]) -> Any:
    known = typing.get_type_hints(kind)
    needed = {item.name for item in fields(kind)}
    if unknown := values.keys() - needed:
        raise ValueError(f'{where} has unknown fields: {", ".join(sorted(unknown))}')
    if missing := needed - values.keys():
        raise ValueError(f'{where} lacks fields: {", ".join(sorted(missing))}')
    return kind(**{name: _read_value(name, known[name], values[name]) for name in needed})


def _typed(where: str, kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f'{where} must be {kind.__name__}, not {str(value)[:60]!r}')
    return value
