# SPDX-License-Identifier: Apache-2.0
"""Cross-validation of image recognisers; crossval.py says how folds are kept and gone on with."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fer_training.crossval import (
    CHECKPOINT_FILE,
    PREDICTIONS_FILE,
    cannot_be_used,
    fold_outcomes,
    read_fold_file,
    silent,
    write_fold_file,
)
from fer_training.engines import ENGINES
from fer_training.face_sets import read_face_set
from fer_training.face_splits import (
    FaceSplit,
    ascending_subject_splits,
    leave_one_subject_out_splits,
    part_split,
)
from fer_training.image_dataset import FaceImages
from fer_training.image_plan import ImagePlan, LabelledFaces, answer_items
from fer_training.image_predictions import (
    VotedPredictions,
    pool_sequences,
    predict_images,
)
from fer_training.results import (
    FoldResult,
    join_predictions,
    read_predictions,
    write_predictions,
)

PARTS_FOLDS = 'parts'  # folds: those parts that the data set has
SUBJECT_FOLDS = 'subject'  # folds: one subject left out after the other
INNER_FOLDS = 8  # one of so many parts of the people tells when a stage is saturated


@dataclass(frozen=True, kw_only=True)
class ImageFoldJob:
    """Describe one fold so that any process can run it."""

    name: str
    faces: Path
    classes: tuple[str, ...]
    mapping: tuple[tuple[str, str], ...]  # (label, class)
    train: tuple[int, ...]  # indices of sequences
    held_out: tuple[int, ...]
    subjects: tuple[str, ...]  # those held out
    plan: ImagePlan
    samples: int  # Monte Carlo masks
    views: int
    unit: str  # 'clip' or 'frame'
    folder: Path


@dataclass(frozen=True, kw_only=True)
class ImageFoldOutcome:
    """Hold what a fold found."""

    result: FoldResult
    parameters: int
    predictions: VotedPredictions
    member_accuracies: dict[str, float]  # of single frames, or sequences where they are read whole
    localization: dict[str, dict[str, float]]  # see ImageFit

    @property
    def parameters_without_topology(self) -> int:
        """Image recognisers learn no topology of landmarks."""
        return self.parameters

    @property
    def parameters_with_topology(self) -> int:
        """The same."""
        return self.parameters


def face_splits(folder: Path, folds: str) -> list[FaceSplit]:
    """Split a face set: 'subject', 'parts', or a number of folds by ascending subject.

    Raises ValueError for folds of another name, FaceSetError for a folder that is no face set.
    """
    face_set = read_face_set(folder)
    if folds == SUBJECT_FOLDS:
        return leave_one_subject_out_splits(face_set)
    if folds == PARTS_FOLDS:
        return [part_split(face_set)]
    try:
        count = int(folds)
    except ValueError as error:
        raise ValueError(
            f'folds must be {SUBJECT_FOLDS}, {PARTS_FOLDS} or a number, not {folds!r}'
        ) from error
    return ascending_subject_splits(face_set, count=count)


def inner_split(faces: LabelledFaces) -> tuple[LabelledFaces, LabelledFaces]:
    """Part what a fold trains on: to train, and to tell when a stage is saturated.

    By subject, the last eighth of them in the order of their names; where nobody said who is who,
    every eighth sequence. Raises ValueError if there is only one to take.
    """
    subjects = sorted({item.subject for item in faces.sequences})
    if '' in subjects:
        inner = [index % INNER_FOLDS == INNER_FOLDS - 1 for index in range(len(faces.sequences))]
    else:
        kept = subjects[-max(1, len(subjects) // INNER_FOLDS) :]
        inner = [item.subject in kept for item in faces.sequences]
    if all(inner) or not any(inner):
        raise ValueError(
            f'{len(faces.sequences)} sequences of {len(subjects)} subjects are too few to keep '
            'some back that tell when the loss is saturated: set patience to 0'
        )
    return (
        faces.subset([index for index, held in enumerate(inner) if not held]),
        faces.subset([index for index, held in enumerate(inner) if held]),
    )


def run_image_fold(job: ImageFoldJob) -> ImageFoldOutcome:
    """Fit a network on the training part of a fold and try it on the other part."""
    faces, _ = LabelledFaces.read(job.faces, classes=job.classes, mapping=dict(job.mapping))
    training, held_out = faces.subset(job.train), faces.subset(job.held_out)
    job.folder.mkdir(parents=True, exist_ok=True)
    validation = None
    if job.plan.recipe.fit.patience:
        training, validation = inner_split(training)
    checkpoint = job.folder / CHECKPOINT_FILE
    fitted = job.plan.carry_out(
        training, validation, checkpoint=checkpoint, progress=False, log=silent
    )
    network = fitted.network
    fit = job.plan.recipe.fit
    logits = predict_images(
        network,
        FaceImages.of(held_out.face_set, fitted.crop, job.plan.recipe.normalization),
        answer_items(network, held_out),
        samples=job.samples,
        views=job.views,
        seed=fit.seed,
        mixed_precision=fit.mixed_precision,
    )
    predictions = logits.answers(1.0)
    if job.unit == 'clip':
        predictions = pool_sequences(predictions, logits)
    vote, single_pass = predictions.measure(job.classes)
    return ImageFoldOutcome(
        result=FoldResult(
            subjects=job.subjects,
            clips=len(held_out.sequences),
            topology=(),
            monte_carlo_accuracy=vote.accuracy,
            single_pass_accuracy=single_pass.accuracy,
        ),
        parameters=network.parameter_count(),
        predictions=predictions,
        member_accuracies=logits.member_accuracies(),
        localization=fitted.fit.localization,
    )


def cross_validate_images(
    jobs: Sequence[ImageFoldJob],
    *,
    engine: str = ENGINES[0],
    workers: int = 0,
    ray_address: str | None = None,
    log: Callable[[str], None] = tqdm.write,
) -> dict[Path, ImageFoldOutcome]:
    """Run the folds that are not done yet; return the outcomes of all by their folders.

    Raises what `run_jobs` raises, and ValueError if a folder holds a fold of other settings.
    """
    return fold_outcomes(
        jobs, run_image_fold, read=_read_outcome, write=_write_outcome,
        describe=lambda outcome: (
            f'accuracy {outcome.result.monte_carlo_accuracy:.3f} by all samples, '
            f'{outcome.result.single_pass_accuracy:.3f} by one pass'
        ),
        engine=engine, workers=workers, ray_address=ray_address, log=log,
    )


def pooled_predictions(outcomes: Sequence[ImageFoldOutcome]) -> VotedPredictions:
    """Join the predictions of the folds of one cross-validation."""
    return VotedPredictions.of(
        join_predictions([outcome.predictions for outcome in outcomes]),
        outcomes[0].predictions.weights,
    )


def pooled_members(outcomes: Sequence[ImageFoldOutcome]) -> dict[str, float]:
    """Pool the accuracies of single members over folds, by the number of answers."""
    counts = [len(outcome.predictions) for outcome in outcomes]
    return {
        member: float(
            np.average(
                [outcome.member_accuracies[member] for outcome in outcomes], weights=counts
            )
        )
        for member in outcomes[0].member_accuracies
    }


def pooled_localization(outcomes: Sequence[ImageFoldOutcome]) -> dict[str, dict[str, float]]:
    """Average the errors of localisation over folds."""
    return {
        part: {
            moment: float(np.mean([item.localization[part][moment] for item in outcomes]))
            for moment in moments
        }
        for part, moments in outcomes[0].localization.items()
    }


def _write_outcome(job: ImageFoldJob, outcome: ImageFoldOutcome) -> None:
    write_predictions(job.folder / PREDICTIONS_FILE, outcome.predictions)
    write_fold_file(
        job,
        {
            'result': asdict(outcome.result),
            'parameters': outcome.parameters,
            'weights': outcome.predictions.weights.tolist(),
            'member_accuracies': outcome.member_accuracies,
            'localization': outcome.localization,
        },
    )
    (job.folder / CHECKPOINT_FILE).unlink(missing_ok=True)


def _read_outcome(job: ImageFoldJob) -> ImageFoldOutcome | None:
    content = read_fold_file(job)
    if content is None:
        return None
    try:
        result: dict[str, Any] = content['result']
        predictions = read_predictions(job.folder / PREDICTIONS_FILE)
        return ImageFoldOutcome(
            result=replace(
                FoldResult(**result | {'topology': ()}), subjects=tuple(result['subjects'])
            ),
            parameters=content['parameters'],
            predictions=VotedPredictions.of(predictions, np.array(content['weights'])),
            member_accuracies=content['member_accuracies'],
            localization=content['localization'],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise cannot_be_used(job.folder / PREDICTIONS_FILE, error) from error
