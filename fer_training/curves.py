# SPDX-License-Identifier: Apache-2.0
"""How a streaming model's answers change with one condition of seeing a face at a time.

Every point is a set of synthetic tracks of people and recipes kept from training. All points draw
them from the same seed at the same rate, of which lower frame rates keep every so manyth frame:
the same people do the same before the same detector, with the same noise.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fer_perception.evaluation.metrics import measure_recognition, measure_selective
from fer_perception.models.model_file import LoadedModel
from fer_perception.uncertainty.measures import entropy
from fer_training.evaluation import predict_tracks
from fer_training.face_basis import FaceBasis
from fer_training.recipes import CLASSES
from fer_training.results import ResultFileError
from fer_training.synthesis import SynthesisConfig, synthesize_tracks
from fer_training.tracks import Track

CURVES_FILE = 'curves.json'
VARIANTS = 'test'  # of the recipes and people
FAR_BEYOND_DEGREES = 1e9  # a spread of poses that leaves every one of them at its limit

DRAWN_RATE = 60.0  # frames per second of every sequence as it is drawn


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Say how faces are seen. Raises ValueError for a rate that sequences cannot be seen at."""

    synthesis: SynthesisConfig  # at DRAWN_RATE
    frame_rate: float  # frames per second that are seen: DRAWN_RATE over a whole number

    def __post_init__(self) -> None:
        """Refuse rates that are no part of DRAWN_RATE."""
        if not self.frame_rate > 0.0 or DRAWN_RATE % self.frame_rate:
            raise ValueError(
                f'frame_rate must be {DRAWN_RATE:g} over a whole number, not {self.frame_rate}'
            )

    def draw(self, basis: FaceBasis, *, count: int, seed: int) -> list[Track]:
        """Draw tracks of people and recipes kept from training, and see them at the frame rate.

        Landmark noise is white noise and a process whose correlation falls exponentially: every
        so manyth frame of it is the same noise as a detector makes at that rate.
        """
        every = round(DRAWN_RATE / self.frame_rate)
        tracks = synthesize_tracks(
            basis, count=count, seed=seed, variants=VARIANTS, config=self.synthesis
        )
        return [
            replace(
                track,
                landmarks=track.landmarks[::every],
                intensity=None if track.intensity is None else track.intensity[::every],
                found=None if track.found is None else track.found[::every],
                frame_rate=self.frame_rate,
            )
            for track in tracks
        ]


# The condition that all points have but for their own factor: a head that keeps still, seen from
# the front at one metre, 30 frames per second, every frame found, the measured noise once. What
# faces do is drawn as widely as for training.
REFERENCE = Condition(
    synthesis=SynthesisConfig(
        duration_s=1.6,
        frame_rate=(DRAWN_RATE, DRAWN_RATE),
        usual_rate_share=1.0,  # 60 to the last digit
        lowered_head_share=0.0,
        yaw_degrees=0.0,
        pitch_degrees=0.0,
        roll_degrees=0.0,
        movement_degrees=(0.0, 0.0),
        gesture_share=0.0,
        distance_cm=(100.0, 100.0),
        face_size_pixels=(40.0, 40.0),
        noise_level=(1.0, 1.0),
        smooth_share=0.0,
        pixel_noise=(0.25, 0.25),
        slow_noise=(0.01, 0.01),
        lost_share=0.0,
    ),
    frame_rate=30.0,
)


@dataclass(frozen=True, kw_only=True)
class Factor:
    """Name one condition, what holds it, and the levels at which it is fixed."""

    title: str
    unit: str
    field: str  # of SynthesisConfig; 'frame_rate' is that of Condition
    levels: tuple[float, ...]
    reference: float  # the level that REFERENCE has, one of `levels`
    is_turn: bool = False  # a pose: every head is turned so far, to a side drawn at random
    is_logarithmic: bool = False  # levels are shown so

    def fix(self, level: float) -> Condition:
        """Return the reference condition with this factor at a level."""
        if self.field == 'frame_rate':
            return replace(REFERENCE, frame_rate=level)
        changes: dict[str, Any] = {self.field: (level, level)}
        if self.is_turn:  # poses are cut at the highest turn; all other angles stay 0
            beyond = {self.field: FAR_BEYOND_DEGREES, 'highest_turn_degrees': level}
            changes = beyond if level else {self.field: 0.0}
        return replace(REFERENCE, synthesis=replace(REFERENCE.synthesis, **changes))


FACTORS = (
    Factor(
        title='yaw', unit='degrees, left or right', field='yaw_degrees',
        levels=(0.0, 10.0, 20.0, 30.0, 40.0, 50.0), reference=0.0, is_turn=True,
    ),
    Factor(
        title='pitch', unit='degrees, up or down', field='pitch_degrees',
        levels=(0.0, 6.0, 12.0, 18.0, 24.0, 30.0), reference=0.0, is_turn=True,
    ),
    Factor(
        title='camera distance', unit='cm', field='distance_cm',
        levels=(30.0, 40.0, 60.0, 100.0, 200.0, 400.0), reference=100.0, is_logarithmic=True,
    ),
    Factor(
        title='frame rate', unit='frames per second', field='frame_rate',
        levels=(5.0, 10.0, 15.0, 20.0, 30.0, 60.0), reference=30.0, is_logarithmic=True,
    ),
    Factor(
        title='landmark noise', unit='times the measured noise', field='noise_level',
        levels=(0.0, 0.5, 1.0, 2.0, 3.0, 4.0), reference=1.0,
    ),
    Factor(
        title='face size', unit='pixels', field='face_size_pixels',
        levels=(6.0, 12.0, 20.0, 40.0, 60.0, 90.0), reference=40.0, is_logarithmic=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """Say what the points are measured of. Raises ValueError for what makes no sense."""

    model: str  # name of the model file, without its folder
    model_sha256: str  # of its bytes
    basis_sha256: str  # of the arrays of the face basis
    tracks_per_point: int = 70
    samples: int = 20  # Monte Carlo
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        if self.tracks_per_point < len(CLASSES):
            raise ValueError(
                f'tracks_per_point must be at least {len(CLASSES)}, one of each class, not '
                f'{self.tracks_per_point}'
            )
        if self.samples < 1:
            raise ValueError(f'samples must be at least 1, not {self.samples}')
        if self.seed < 0:
            raise ValueError(f'the seed must be 0 or more, not {self.seed}')

    @classmethod
    def of(
        cls, model: Path, basis: FaceBasis, *, tracks_per_point: int, samples: int, seed: int
    ) -> 'CurveSettings':
        """Take the fingerprints of a model file and of a basis.

        Raises OSError if the model file cannot be read.
        """
        arrays = (basis.neutral, basis.identity, basis.expression)
        parts = [np.asarray(array, np.float64).tobytes() for array in arrays]
        parts.append('\n'.join(basis.expression_names).encode())
        return cls(
            model=model.name,
            model_sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
            basis_sha256=hashlib.sha256(b''.join(parts)).hexdigest(),
            tracks_per_point=tracks_per_point,
            samples=samples,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class CurveScores:
    """Hold what a model answers in one condition, frame by frame after its warm-up."""

    frames: int  # with a target, after the warm-up
    macro_f1: float
    coverage: float  # share of the frames that are CONFIDENT
    risk: float | None  # share of the CONFIDENT ones that are wrong, None where there is none
    predictive_entropy: float  # nats, mean over the frames

    def __post_init__(self) -> None:
        """Refuse what no measurement gives."""
        shares = [self.macro_f1, self.coverage, 0.0 if self.risk is None else self.risk]
        if not all(0.0 <= share <= 1.0 for share in shares) or self.predictive_entropy < 0.0:
            raise ValueError(f'scores must be shares from 0 to 1 and an entropy: {self}')


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Hold the scores at one level of one factor."""

    factor: str  # field of the factor
    level: float
    scores: CurveScores


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Hold the points measured so far, in the order of FACTORS and of their levels."""

    command: str  # that makes them again
    settings: CurveSettings
    reference: Condition  # the condition that all points have but for their own factor
    points: tuple[CurvePoint, ...]

    def of(self, factor: Factor) -> tuple[CurvePoint, ...]:
        """Return the points of one factor."""
        return tuple(point for point in self.points if point.factor == factor.field)


def measure_curves(
    model: LoadedModel,
    basis: FaceBasis,
    *,
    settings: CurveSettings,
    folder: Path,
    command: str,
    factors: Sequence[Factor] = FACTORS,
    progress: bool = False,
) -> Curves:
    """Measure every level of every factor; points that the folder's curves.json has are kept.

    The file is written after every point. Raises ValueError for a model that reads whole clips or
    lacks a class that is synthesised, ResultFileError if the file holds no curves, or those of
    other settings.
    """
    if model.description.clip_frames:
        raise ValueError(
            f'{settings.model} reads whole clips; curves are measured frame by frame, give a '
            'model that streams'
        )
    path = folder / CURVES_FILE
    places = {(factor.field, level): factor.fix(level) for factor in factors
              for level in factor.levels}
    measured = _read_points(path, settings=settings, factors=factors)
    # The reference condition is a level of every factor: it is measured once.
    missing = [item for item in dict.fromkeys(places.values()) if item not in measured]

    def curves() -> Curves:
        return Curves(
            command=command,
            settings=settings,
            reference=REFERENCE,
            points=tuple(
                CurvePoint(factor=field, level=level, scores=measured[condition])
                for (field, level), condition in places.items()
                if condition in measured
            ),
        )

    for condition in tqdm(
        missing, desc='curves', unit='point', initial=len(measured),
        total=len(measured) + len(missing), disable=not progress,
    ):
        measured[condition] = measure_condition(model, basis, condition, settings=settings)
        _write(path, curves())
    return curves()


def measure_condition(
    model: LoadedModel, basis: FaceBasis, condition: Condition, *, settings: CurveSettings
) -> CurveScores:
    """Measure a model on synthetic people in one condition, by Monte Carlo dropout.

    Raises ValueError for what `predict_tracks` refuses.
    """
    description = model.description
    tracks = condition.draw(basis, count=settings.tracks_per_point, seed=settings.seed)
    answers = predict_tracks(
        model, tracks, unit='frame', samples=settings.samples, seed=settings.seed
    )
    mean = answers.ensemble  # (M, C)
    selective = measure_selective(
        mean.max(-1) >= description.rule.abstention_threshold,  # all are warm
        mean.argmax(-1) == answers.labels,
    )
    scores = measure_recognition(mean, answers.labels, classes=description.classes)
    return CurveScores(
        frames=len(answers),
        macro_f1=scores.macro_f1,
        coverage=selective.coverage,
        risk=selective.risk,
        predictive_entropy=float(entropy(mean).mean()),
    )


def _read_points(
    path: Path, *, settings: CurveSettings, factors: Sequence[Factor]
) -> dict[Condition, CurveScores]:
    """Read the points of an earlier run, by their condition; none where there is no file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text('utf-8'))
        found = content['settings'] | {'reference': content['reference']}
        points = [
            CurvePoint(**{**item, 'scores': CurveScores(**item['scores'])})
            for item in content['points']
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultFileError(f'{path} holds no curves: {error!r}') from error
    wanted = json.loads(json.dumps(asdict(settings) | {'reference': asdict(REFERENCE)}))
    if changed := [name for name in wanted if found.get(name) != wanted[name]]:
        raise ResultFileError(
            f'{path} is of another {", ".join(changed)}: choose another folder, or remove the '
            'file to measure anew'
        )
    by_field = {factor.field: factor for factor in factors}
    return {
        by_field[point.factor].fix(point.level): point.scores
        for point in points
        if point.factor in by_field and point.level in by_field[point.factor].levels
    }


def _write(path: Path, curves: Curves) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.part')
    text = json.dumps(asdict(curves), indent=1, allow_nan=False)
    temporary.write_text(text + '\n', 'utf-8')
    temporary.replace(path)
