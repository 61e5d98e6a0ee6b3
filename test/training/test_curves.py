# SPDX-License-Identifier: Apache-2.0
"""Curves change one condition at a time, are what a direct computation finds, and resume."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_made import description_of, small_network
from sklearn.metrics import f1_score

from fer_perception.graph.normalization import face_size, normalize_landmarks
from fer_perception.models.model_file import LoadedModel, save_model
from fer_perception.uncertainty.estimate import ExpressionState
from fer_training import curves as curves_module
from fer_training.cli import main
from fer_training.curves import (
    CURVES_FILE,
    FACTORS,
    REFERENCE,
    Condition,
    Curves,
    CurveScores,
    CurveSettings,
    Factor,
    measure_condition,
    measure_curves,
)
from fer_training.curves_report import PICTURE_FILE, TABLE_FILE, write_curves_report
from fer_training.evaluation import predict_tracks
from fer_training.face_basis import FaceBasis, load_face_basis
from fer_training.results import ResultFileError
from fer_training.tracks import Track

BY_FIELD = {factor.field: factor for factor in FACTORS}
SETTINGS = CurveSettings(
    model='small.safetensors', model_sha256='a', basis_sha256='b', tracks_per_point=7, samples=3
)
TWO_FACTORS = tuple(
    replace(BY_FIELD[field], levels=levels)
    for field, levels in (('noise_level', (0.0, 1.0)), ('distance_cm', (30.0, 100.0)))
)


@pytest.fixture(scope='module')
def basis(shared_data: Path) -> FaceBasis:
    return load_face_basis(shared_data / 'ict_facekit_68.npz')


def streaming_model() -> LoadedModel:
    network = small_network(padding='causal', dropout=0.3)
    return LoadedModel(
        network, description_of(network, temperature=1.3, abstention_threshold=0.5, warm_up_s=0.4)
    )


def draw(basis: FaceBasis, condition: Condition, *, seed: int = 3) -> list[Track]:
    return condition.draw(basis, count=7, seed=seed)


def field_changes(condition: Condition) -> set[str]:
    """Names of the settings in which a condition differs from the reference."""
    changed = {
        name
        for name, value in asdict(condition.synthesis).items()
        if value != asdict(REFERENCE.synthesis)[name]
    }
    return changed | ({'frame_rate'} if condition.frame_rate != REFERENCE.frame_rate else set())


def measure(
    basis: FaceBasis,
    folder: Path,
    *,
    factors: tuple[Factor, ...] = TWO_FACTORS,
    settings: CurveSettings = SETTINGS,
) -> Curves:
    return measure_curves(
        streaming_model(), basis, settings=settings, folder=folder, command='fer_train curves',
        factors=factors,
    )


@pytest.mark.parametrize('factor', FACTORS, ids=lambda factor: factor.field)
def test_a_level_changes_its_own_factor_only(factor: Factor) -> None:
    allowed = {factor.field} | ({'highest_turn_degrees'} if factor.is_turn else set())
    assert factor.fix(factor.reference) == REFERENCE
    assert factor.reference in factor.levels
    assert len(set(factor.levels)) == len(factor.levels) >= 6
    for level in factor.levels:
        condition = factor.fix(level)
        assert field_changes(condition) == (set() if level == factor.reference else allowed)


def test_the_same_people_do_the_same_under_every_condition(basis: FaceBasis) -> None:
    reference = draw(basis, REFERENCE)
    for factor in FACTORS:
        for level in (factor.levels[0], factor.levels[-1]):
            condition = factor.fix(level)
            every = round(30.0 / min(30.0, condition.frame_rate))
            for track, own in zip(draw(basis, condition), reference, strict=True):
                assert (track.label, track.subject) == (own.label, own.subject)
                assert track.intensity is not None and own.intensity is not None
                skipped = 2 if condition.frame_rate == 60.0 else 1
                assert np.array_equal(track.intensity[::skipped], own.intensity[::every])
                assert track.found is None


def test_frame_rates_see_the_same_sequence_more_or_less_often(basis: FaceBasis) -> None:
    full = draw(basis, BY_FIELD['frame_rate'].fix(60.0))
    for rate in BY_FIELD['frame_rate'].levels:
        for track, own in zip(draw(basis, BY_FIELD['frame_rate'].fix(rate)), full, strict=True):
            assert track.frame_rate == rate
            assert np.array_equal(track.landmarks, own.landmarks[:: round(60.0 / rate)])
            assert len(track.landmarks) / rate == pytest.approx(1.6)


def test_face_sizes_are_those_of_the_level_and_distances_leave_them(basis: FaceBasis) -> None:
    for level in (12.0, 90.0):
        for track in draw(basis, BY_FIELD['face_size_pixels'].fix(level)):
            assert np.median(face_size(track.landmarks)) == pytest.approx(level, rel=0.15)
    for small, large in zip(
        draw(basis, BY_FIELD['face_size_pixels'].fix(60.0)),
        draw(basis, BY_FIELD['face_size_pixels'].fix(90.0)),
        strict=True,
    ):  # the same faces, but for what pixels add
        faces = [normalize_landmarks(track.landmarks) for track in (small, large)]
        assert np.abs(faces[0] - faces[1]).mean() < 0.01
    for near, far in zip(
        draw(basis, BY_FIELD['distance_cm'].fix(30.0)),
        draw(basis, BY_FIELD['distance_cm'].fix(400.0)),
        strict=True,
    ):
        sizes = [np.median(face_size(track.landmarks)) for track in (near, far)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
        # Seen from near, what lies behind the nose is smaller against it: the jaw line.
        widths = [np.ptp(normalize_landmarks(t.landmarks)[:, [1, 15], 0]) for t in (near, far)]
        assert widths[0] < widths[1]


def test_heads_are_turned_as_far_as_the_level_says(basis: FaceBasis) -> None:
    """The nose moves against the eyes by its height before them times the sine of the turn."""

    def nose(track: Track, axis: int) -> float:
        points = normalize_landmarks(track.landmarks).mean(0)
        return float(points[30, axis] - points[[36, 39, 42, 45], axis].mean())

    reference = draw(basis, REFERENCE)
    for field, axis, levels in (
        ('yaw_degrees', 0, (10.0, 20.0, 40.0)), ('pitch_degrees', 1, (12.0, 24.0)),
    ):
        last = np.zeros(len(reference))
        for level in levels:
            turned = draw(basis, BY_FIELD[field].fix(level))
            shift = np.array([
                abs(nose(t, axis) - nose(own, axis))
                for t, own in zip(turned, reference, strict=True)
            ])
            assert (shift > last + 0.02).all()
            last = shift


def test_noise_grows_with_its_level(basis: FaceBasis) -> None:
    def jitter(level: float) -> np.ndarray:
        tracks = draw(basis, BY_FIELD['noise_level'].fix(level))
        return np.array([np.diff(t.landmarks, n=2, axis=0).std() for t in tracks])

    levels = [jitter(level) for level in (0.0, 1.0, 4.0)]
    assert (levels[0] < levels[1]).all()
    assert (levels[1] < levels[2]).all()


def test_scores_are_those_of_a_direct_computation(basis: FaceBasis) -> None:
    model, condition = streaming_model(), BY_FIELD['noise_level'].fix(2.0)
    tracks = condition.draw(basis, count=7, seed=1)
    answers = predict_tracks(model, tracks, unit='frame', samples=3, seed=1)
    mean = answers.monte_carlo.mean(0, dtype=np.float64)
    rule = model.description.rule
    states = [rule.state(confidence=row.max(), evidence_s=1.0) for row in mean]
    confident = [state is ExpressionState.CONFIDENT for state in states]
    wrong = [
        row.argmax() != label
        for row, label, is_given in zip(mean, answers.labels, confident, strict=True) if is_given
    ]
    scores = measure_condition(model, basis, condition, settings=SETTINGS)
    assert scores.frames == len(mean) < sum(len(track.landmarks) for track in tracks)
    assert scores.macro_f1 == pytest.approx(
        f1_score(answers.labels, mean.argmax(1), labels=np.unique(answers.labels), average='macro')
    )
    assert scores.coverage == pytest.approx(np.mean(confident))
    assert scores.risk == (pytest.approx(np.mean(wrong)) if wrong else None)
    assert scores.predictive_entropy == pytest.approx(
        np.mean([-(row * np.log(row)).sum() for row in mean])
    )


def test_points_that_are_there_are_not_measured_again(
    basis: FaceBasis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(basis, tmp_path / 'whole')
    seen: list[Condition] = []

    def counted(*arguments: Any, **named: Any) -> CurveScores:
        seen.append(arguments[2])
        if len(seen) == 3:
            raise KeyboardInterrupt
        return measure_condition(*arguments, **named)

    monkeypatch.setattr(curves_module, 'measure_condition', counted)
    with pytest.raises(KeyboardInterrupt):
        measure(basis, tmp_path / 'cut')
    kept = json.loads((tmp_path / 'cut' / CURVES_FILE).read_text())
    assert len(kept['points']) == 3  # the reference is a level of both factors
    assert measure(basis, tmp_path / 'cut') == whole
    assert len(seen) == 4  # the third condition twice; no other again
    assert [(tmp_path / name / CURVES_FILE).read_text() for name in ('cut', 'whole')] == [
        (tmp_path / 'whole' / CURVES_FILE).read_text()
    ] * 2
    assert measure(basis, tmp_path / 'cut') == whole
    assert len(seen) == 4


def test_files_of_other_settings_and_no_curves_are_refused(
    basis: FaceBasis, tmp_path: Path
) -> None:
    one = (replace(TWO_FACTORS[0], levels=(1.0,)),)
    measure(basis, tmp_path, factors=one)
    with pytest.raises(ResultFileError, match='another samples, seed: choose another folder'):
        measure(basis, tmp_path, factors=one, settings=replace(SETTINGS, samples=2, seed=4))
    path = tmp_path / CURVES_FILE
    for text in ('no json', '[]', '{"settings": {}}', path.read_text().replace('"risk"', '"r"')):
        path.write_text(text)
        with pytest.raises(ResultFileError, match=r'curves\.json holds no curves'):
            measure(basis, tmp_path, factors=one)


def test_settings_that_make_no_sense_are_refused() -> None:
    for changes, message in (
        ({'tracks_per_point': 6}, 'at least 7, one of each class, not 6'),
        ({'samples': 0}, 'samples must be at least 1'),
        ({'seed': -1}, 'seed must be 0 or more'),
    ):
        with pytest.raises(ValueError, match=message):
            replace(SETTINGS, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='60 over a whole number, not 25'):
        replace(REFERENCE, frame_rate=25.0)


def test_the_report_says_all_points_and_what_cannot_be_said(
    basis: FaceBasis, tmp_path: Path
) -> None:
    curves = measure(basis, tmp_path, factors=TWO_FACTORS)
    silent = replace(curves.points[0].scores, coverage=0.0, risk=None)
    curves = replace(
        curves, points=(replace(curves.points[0], scores=silent), *curves.points[1:])
    )
    picture, table = write_curves_report(tmp_path / 'report', curves, factors=TWO_FACTORS)
    assert picture.read_bytes().startswith(b'\x89PNG')
    rows = [line for line in table.read_text().splitlines() if line.startswith('| ')]
    assert len(rows) == 1 + 4
    assert sum('reference' in row for row in rows) == 2
    assert '| 0 |' in rows[1] and '| 0.000 | - |' in rows[1]
    assert '`fer_train curves`' in table.read_text()


def test_the_command_refuses_models_of_clips_in_one_line(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = small_network()
    model = tmp_path / 'clips.safetensors'
    save_model(model, network, description_of(network, frame_rate=0.0, clip_frames=8))
    basis = str(shared_data / 'ict_facekit_68.npz')
    out = tmp_path / 'out'
    arguments = ['curves', '--model', str(model), '--basis', basis, '--out', str(out)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error == (
        'fer_train curves: clips.safetensors reads whole clips; curves are measured frame by '
        'frame, give a model that streams\n'
    )
    assert main([*arguments, '--tracks-per-point', '3']) == 1
    assert 'tracks_per_point must be at least 7' in capsys.readouterr().err
    assert main(['curves', '--model', str(tmp_path / 'none'), *arguments[3:]]) == 1
    assert 'does not exist' in capsys.readouterr().err
    assert not out.exists()


def test_the_command_writes_table_and_picture(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: Any, **__: Any) -> CurveScores:
        return CurveScores(
            frames=10, macro_f1=0.8, coverage=0.7, risk=0.02, predictive_entropy=0.3
        )

    monkeypatch.setattr(curves_module, 'measure_condition', made)
    model = tmp_path / 'small.safetensors'
    save_model(model, streaming_model().network, streaming_model().description)
    out = tmp_path / 'out'
    basis = str(shared_data / 'ict_facekit_68.npz')
    assert main(['curves', '--model', str(model), '--basis', basis, '--out', str(out)]) == 0
    points = json.loads((out / CURVES_FILE).read_text())['points']
    assert [(point['factor'], point['level']) for point in points] == [
        (factor.field, level) for factor in FACTORS for level in factor.levels
    ]
    assert (out / TABLE_FILE).is_file() and (out / PICTURE_FILE).is_file()
