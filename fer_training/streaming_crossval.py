# SPDX-License-Identifier: Apache-2.0
"""Cross-validation of streaming networks: real people held out, synthetic ones always in.

Each fold keeps fold.json and frames.npz in its folder, what the network says at every frame of
the tracks held out. All that is measured afterwards is computed from these.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from fer_perception.models.pst_bln import PstBln
from fer_training.crossval import (
    CHECKPOINT_FILE,
    FOLD_FILE,
    read_fold_file,
    run_folds,
    silent,
    write_fold_file,
)
from fer_training.engines import ENGINES
from fer_training.frame_predictions import (
    FramePredictions,
    join_frames,
    predict_frames,
    read_frame_predictions,
    write_frame_predictions,
)
from fer_training.mixing import Mixture, mix_tracks
from fer_training.plan import NetworkPlan
from fer_training.protocols.folds import Fold, leave_one_subject_out, subject_folds
from fer_training.results import ResultFileError
from fer_training.track_sources import PreparedTrack, TrackSources

FRAMES_FILE = 'frames.npz'


@dataclass(frozen=True, kw_only=True)
class StreamingFold:
    """Describe one fold so that any process can run it."""

    name: str  # 'fold_01'
    sources: TrackSources
    held_out: tuple[str, ...]  # subjects as `PreparedTrack` names them
    mixture: Mixture
    plan: NetworkPlan
    warm_up_s: float
    samples: int  # Monte Carlo samples
    folder: Path

    def load(self) -> tuple[list[PreparedTrack], list[PreparedTrack]]:
        """Load the tracks to fit to and those held out."""
        tracks, _ = self.sources.load()
        held_out = set(self.held_out)
        return (
            [track for track in tracks if track.subject not in held_out],
            [track for track in tracks if track.subject in held_out],
        )


def deal_subjects(
    tracks: Sequence[PreparedTrack],
    *,
    always_in: Sequence[str],
    folds: str,
    seed: int,
) -> list[Fold]:
    """Deal the subjects of every source into the same folds.

    always_in: sources whose subjects are held out never. folds: 'subject' leaves out each subject
    of the first other source in turn, a number deals them into so many folds; the subjects of all
    further sources are dealt over these folds. Raises ValueError for unknown subjects, or a
    source with fewer of them than folds.
    """
    sources = [
        source for source in dict.fromkeys(track.source for track in tracks)
        if source not in always_in
    ]
    if not sources:
        raise ValueError('nobody can be held out: every source is always in')
    of_source = {
        source: [_subject(track) for track in tracks if track.source == source]
        for source in sources
    }
    if folds == 'subject':
        dealt = [leave_one_subject_out(of_source[sources[0]])]
    else:
        dealt = [subject_folds(of_source[sources[0]], count=int(folds), seed=seed)]
    for source in sources[1:]:
        dealt.append(subject_folds(of_source[source], count=len(dealt[0]), seed=seed))
    return [
        Fold(
            name=parts[0].name,
            subjects=tuple(subject for part in parts for subject in part.subjects),
        )
        for parts in zip(*dealt, strict=True)
    ]


def run_streaming_fold(job: StreamingFold) -> FramePredictions:
    """Fit a network to the tracks of a fold and predict those that are held out."""
    training, held_out = job.load()
    job.folder.mkdir(parents=True, exist_ok=True)
    network = job.plan.carry_out(
        mix_tracks(training, job.mixture), checkpoint=job.folder / CHECKPOINT_FILE,
        progress=False, log=silent,
    )
    if not isinstance(network, PstBln):
        raise ValueError(f'only a PST-BLN answers at every frame, not {job.plan.architecture}')
    return predict_frames(
        network.cpu(),
        held_out,
        network_input=job.plan.network_input,
        frame_rate=job.sources.frame_rate,
        warm_up_s=job.warm_up_s,
        samples=job.samples,
        seed=job.plan.fit.seed,
    )


def cross_validate_streaming(
    jobs: Sequence[StreamingFold],
    *,
    classes: Sequence[str],
    engine: str = ENGINES[0],
    workers: int = 0,
    ray_address: str | None = None,
    log: Callable[[str], None] = tqdm.write,
) -> None:
    """Run the folds that are not done yet, keeping the predictions of each in its folder.

    classes: of the networks, noted in each folder. Raises what `run_jobs` raises, and ValueError
    if a folder holds a fold of other settings.
    """
    def keep(job: StreamingFold, frames: FramePredictions) -> str:
        write_frame_predictions(job.folder / FRAMES_FILE, frames)
        write_fold_file(job, {'classes': list(classes)})
        return f'{len(frames)} frames of {", ".join(job.held_out)}'

    run_folds(
        run_streaming_fold, [job for job in jobs if read_fold_file(job) is None], keep,
        total=len(jobs), engine=engine, workers=workers, ray_address=ray_address, log=log,
    )


def read_folds(folder: Path, *, classes: Sequence[str]) -> FramePredictions:
    """Read and join the predictions of all folds of one cross-validation.

    folder: the one that holds the folders of the folds. Raises ResultFileError if there are none,
    one of them is not done, or they are of other classes than these; where a fold does not name
    its classes, their number must be the same.
    """
    folds = sorted(path for path in folder.glob('fold_*') if path.is_dir())
    if not folds:
        raise ResultFileError(f'{folder} holds no folds of a streaming cross-validation')
    for path in folds:
        if not (path / FOLD_FILE).is_file():
            raise ResultFileError(f'{path} is not done: run the cross-validation to its end')
    parts = []
    for path in folds:
        part = read_frame_predictions(path / FRAMES_FILE)
        named = _classes_of_fold(path / FOLD_FILE)
        count = part.single_pass.shape[1]
        if named != list(classes) if named else count != len(classes):
            raise ResultFileError(
                f'{path} is of the classes {", ".join(named) or f"({count} unnamed)"}; the model '
                f'is of {", ".join(classes)}'
            )
        parts.append(part)
    return join_frames(parts)


def _classes_of_fold(path: Path) -> list[str]:
    """Read the classes that a fold.json names, none if it was written without."""
    try:
        return [str(name) for name in json.loads(path.read_text('utf-8')).get('classes', [])]
    except (ValueError, AttributeError, TypeError) as error:
        raise ResultFileError(f'{path} is no file of a fold: {error}') from error


def _subject(track: PreparedTrack) -> str:
    """Return the subject, '' where it is unknown."""
    return '' if track.subject == f'{track.source}:' else track.subject
