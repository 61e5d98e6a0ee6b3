# SPDX-License-Identifier: Apache-2.0
"""Cross-validation by subject: a network for each fold, tried on those it has not seen.

In the folder of a cross-validation each fold keeps its own: while it runs, what an interrupted
run goes on from; when it is done, fold.json and predictions.npz. A fold that is done with the same
settings is not run again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from fer_training.clips import Clips
from fer_training.dataset import TrainingSet
from fer_training.engines import ENGINES, run_jobs
from fer_training.evaluation import predict_clips
from fer_training.plan import NetworkPlan
from fer_training.protocols.folds import Fold
from fer_training.results import (
    CrossvalResult,
    FoldResult,
    Predictions,
    read_predictions,
    write_predictions,
    write_result,
)
from fer_training.source import ClipSource

FOLD_FILE = 'fold.json'
PREDICTIONS_FILE = 'predictions.npz'
CHECKPOINT_FILE = 'fit.checkpoint'


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """Describe one fold so that any process can run it."""

    name: str  # 'fold_01'
    training: ClipSource
    validation: ClipSource  # the same source, if `held_out` tells whose clips are whose
    held_out: tuple[str, ...]  # subjects; empty: the sources are parted already
    plan: NetworkPlan
    samples: int  # Monte Carlo samples
    folder: Path

    def load(self) -> tuple[Clips, Clips]:
        """Load the clips to train with and those to validate on."""
        training = self.training.load()
        if not self.held_out:
            return training, self.validation.load()
        is_held_out = np.isin(training.subjects, self.held_out)
        return (
            training.subset(np.flatnonzero(~is_held_out)),
            training.subset(np.flatnonzero(is_held_out)),
        )


@dataclass(frozen=True, kw_only=True)
class FoldOutcome:
    """Hold what a fold found."""

    result: FoldResult
    parameters_without_topology: int
    parameters_with_topology: int
    predictions: Predictions


class AnyJob(Protocol):
    """Any description of a fold; all are frozen dataclasses."""

    @property
    def folder(self) -> Path:
        """What the fold keeps is in this folder."""


class PooledOutcome(Protocol):
    """What the outcomes of all kinds of folds have."""

    @property
    def result(self) -> FoldResult:
        """The scores of the fold."""

    @property
    def parameters_without_topology(self) -> int:
        """Parameters without learned topology."""

    @property
    def parameters_with_topology(self) -> int:
        """Parameters with it."""


Job = TypeVar('Job', bound=AnyJob)
Outcome = TypeVar('Outcome')


def subject_jobs(
    source: ClipSource, folds: Sequence[Fold], *, plan: NetworkPlan, samples: int, folder: Path
) -> list[FoldJob]:
    """Make the jobs of folds that hold out subjects of one source."""
    return [
        FoldJob(
            name=fold.name,
            training=source,
            validation=source,
            held_out=fold.subjects,
            plan=plan,
            samples=samples,
            folder=folder / fold.name,
        )
        for fold in folds
    ]


def run_fold(job: FoldJob) -> FoldOutcome:
    """Fit or grow a network on the training part of a fold and try it on the other part."""
    training, validation = job.load()
    job.folder.mkdir(parents=True, exist_ok=True)
    network = job.plan.carry_out(
        TrainingSet.of_clips(training), checkpoint=job.folder / CHECKPOINT_FILE, progress=False,
        log=silent,
    )
    predictions = predict_clips(
        network.cpu(),
        validation,
        network_input=job.plan.network_input,
        samples=job.samples,
        seed=job.plan.fit.seed,
        mixed_precision=job.plan.fit.mixed_precision,
    )
    monte_carlo, single_pass = predictions.measure(training.classes)
    without_topology, with_topology = network.parameter_counts()
    return FoldOutcome(
        result=FoldResult(
            subjects=tuple(sorted(set(validation.subjects))),
            clips=len(validation),
            topology=network.config.channels,
            monte_carlo_accuracy=monte_carlo.accuracy,
            single_pass_accuracy=single_pass.accuracy,
        ),
        parameters_without_topology=without_topology,
        parameters_with_topology=with_topology,
        predictions=predictions,
    )


def cross_validate(
    jobs: Sequence[FoldJob],
    *,
    engine: str = ENGINES[0],
    workers: int = 0,
    ray_address: str | None = None,
    log: Callable[[str], None] = tqdm.write,
) -> dict[Path, FoldOutcome]:
    """Run the folds that are not done yet; return the outcomes of all by their folders.

    Every outcome is written to its folder as soon as it is there. Raises what `run_jobs` raises,
    and ValueError if a folder holds a fold of other settings.
    """
    return fold_outcomes(
        jobs, run_fold, read=_read_outcome, write=_write_outcome,
        describe=lambda outcome: (
            f'{list(outcome.result.topology)}, accuracy '
            f'{outcome.result.monte_carlo_accuracy:.3f} with Monte Carlo dropout, '
            f'{outcome.result.single_pass_accuracy:.3f} by one pass'
        ),
        engine=engine, workers=workers, ray_address=ray_address, log=log,
    )


def fold_outcomes(
    jobs: Sequence[Job],
    run: Callable[[Job], Outcome],
    *,
    read: Callable[[Job], Outcome | None],
    write: Callable[[Job, Outcome], None],
    describe: Callable[[Outcome], str],
    engine: str,
    workers: int,
    ray_address: str | None,
    log: Callable[[str], None],
) -> dict[Path, Outcome]:
    """Read the outcomes of the folds that are done and run the others, by their folders.

    Raises what `read` and `run_jobs` raise.
    """
    outcomes = {job.folder: found for job in jobs if (found := read(job)) is not None}

    def keep(job: Job, outcome: Outcome) -> str:
        write(job, outcome)
        outcomes[job.folder] = outcome
        return describe(outcome)

    run_folds(
        run, [job for job in jobs if job.folder not in outcomes], keep, total=len(jobs),
        engine=engine, workers=workers, ray_address=ray_address, log=log,
    )
    return outcomes


def run_folds(
    run: Callable[[Job], Outcome],
    left: Sequence[Job],
    keep: Callable[[Job, Outcome], str],
    *,
    total: int,
    engine: str,
    workers: int,
    ray_address: str | None,
    log: Callable[[str], None],
) -> None:
    """Run the folds that are left of a total, showing how far.

    keep: writes what a fold found to its folder, as soon as it is there, and says it in words.
    Raises what `run_jobs` raises.
    """
    with tqdm(total=total, initial=total - len(left), desc='folds', unit='fold') as bar:
        for index, outcome in run_jobs(
            run, left, engine=engine, workers=workers, ray_address=ray_address
        ):
            job = left[index]
            log(f'{job.folder}: {keep(job, outcome)}')
            bar.update()


def gather(
    outcomes: Sequence[PooledOutcome],
    *,
    predictions: Predictions,
    name: str,
    data: str,
    folds: str,
    seed: int,
    classes: tuple[str, ...],
    command: str,
) -> CrossvalResult:
    """Pool the folds of one cross-validation; predictions: those of all, joined."""
    monte_carlo, single_pass = predictions.measure(classes)
    return CrossvalResult(
        name=name,
        data=data,
        folds=folds,
        seed=seed,
        parameters_without_topology=float(
            np.mean([outcome.parameters_without_topology for outcome in outcomes])
        ),
        parameters_with_topology=float(
            np.mean([outcome.parameters_with_topology for outcome in outcomes])
        ),
        classes=classes,
        command=command,
        per_fold=tuple(outcome.result for outcome in outcomes),
        monte_carlo=monte_carlo,
        single_pass=single_pass,
    )


def write_crossval(path: Path, result: CrossvalResult, predictions: Predictions) -> None:
    """Write a result as JSON and its predictions beside it as .npz."""
    write_predictions(path.with_suffix('.npz'), predictions)
    write_result(path, result)


def settings_of(job: Any) -> dict[str, Any]:
    """Return the settings of a job, a frozen dataclass with a folder, as fold.json keeps them."""
    values = asdict(job)
    del values['folder']
    settings: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return settings


def read_fold_file(job: Any) -> dict[str, Any] | None:
    """Read the fold.json of a job; None if the fold is not done.

    Raises ValueError if it is damaged or of other settings.
    """
    path = job.folder / FOLD_FILE
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text('utf-8'))
        if content['settings'] != settings_of(job):
            raise ValueError('it is of other settings')
    except (ValueError, KeyError, TypeError) as error:
        raise cannot_be_used(path, error) from error
    return content


def write_fold_file(job: Any, content: dict[str, Any]) -> None:
    """Write the fold.json of a job: from then on the fold is done."""
    path = job.folder / FOLD_FILE
    temporary = path.with_suffix('.part')
    temporary.write_text(
        json.dumps({'settings': settings_of(job), **content}, indent=1) + '\n', 'utf-8'
    )
    temporary.replace(path)


def cannot_be_used(path: Path, error: Exception) -> ValueError:
    """Make the error of a file of a fold that is not what it should be."""
    return ValueError(
        f'{path} cannot be used: {error}; choose another folder, or remove this one'
    )


def _write_outcome(job: FoldJob, outcome: FoldOutcome) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    write_predictions(job.folder / PREDICTIONS_FILE, outcome.predictions)
    write_fold_file(
        job,
        {
            'result': asdict(outcome.result),
            'parameters_without_topology': outcome.parameters_without_topology,
            'parameters_with_topology': outcome.parameters_with_topology,
        },
    )


def _read_outcome(job: FoldJob) -> FoldOutcome | None:
    content = read_fold_file(job)
    if content is None:
        return None
    try:
        result = content['result']
        return FoldOutcome(
            result=FoldResult(
                **result
                | {name: tuple(result[name]) for name in ('subjects', 'topology')}
            ),
            parameters_without_topology=content['parameters_without_topology'],
            parameters_with_topology=content['parameters_with_topology'],
            predictions=read_predictions(job.folder / PREDICTIONS_FILE),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise cannot_be_used(job.folder / FOLD_FILE, error) from error


def silent(_: str) -> None:
    """Say nothing: the folds of other processes would talk at the same time."""
