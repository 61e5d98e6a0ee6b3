# SPDX-License-Identifier: Apache-2.0
"""Synthetic tracks are faces that show what they are labelled with, and repeat with the seed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracks_made import whole_tracks

from fer_perception.graph.normalization import face_size, normalize_landmarks
from fer_training.cli import main
from fer_training.face_basis import FaceBasis, FaceBasisError, load_face_basis
from fer_training.recipes import CLASSES
from fer_training.synthesis import SynthesisConfig, synthesize_tracks
from fer_training.synthesis.contours import FACE_FRONT, MEETING, part_contours, slide_jaw
from fer_training.synthesis.courses import Courses
from fer_training.tracks import Track, read_tracks

# A detector without errors, before a head that keeps still.
EXACT: dict[str, Any] = {
    'smooth_share': 1.0, 'smooth_noise_level': (1e-6, 1e-6), 'pixel_noise': (0.0, 0.0),
    'slow_noise': (0.0, 0.0), 'landmark_bias': 0.0, 'part_bias': 0.0, 'lost_share': 0.0,
    'yaw_degrees': 0.0, 'pitch_degrees': 0.0, 'roll_degrees': 0.0, 'gesture_share': 0.0,
    'movement_degrees': (0.0, 0.0),
}


@pytest.fixture(scope='module')
def basis(shared_data: Path) -> FaceBasis:
    return load_face_basis(shared_data / 'ict_facekit_68.npz')


@pytest.fixture(scope='module')
def tracks(basis: FaceBasis) -> list[Track]:
    return list(synthesize_tracks(basis, count=350, seed=5))


def draw(basis: FaceBasis, count: int, **ranges: Any) -> list[Track]:
    config = SynthesisConfig(**{**EXACT, **ranges})
    return list(synthesize_tracks(basis, count=count, seed=11, config=config))


def same(first: Track, second: Track) -> bool:
    return (
        np.array_equal(first.landmarks, second.landmarks)
        and np.array_equal(first.intensity, second.intensity)  # type: ignore[arg-type]
        and np.array_equal(first.found, second.found)  # type: ignore[arg-type]
        and (first.frame_rate, first.subject) == (second.frame_rate, second.subject)
    )


def shift_at_apex(track: Track) -> np.ndarray:
    """Mean landmarks at the apex against those before, (68, 2) in face sizes."""
    assert track.intensity is not None
    points = normalize_landmarks(track.landmarks)
    apex, before = (points[chosen].mean(0) for chosen in
                    (track.intensity > 0.9, track.intensity < 0.05))
    return np.asarray(apex - before)


def test_classes_come_in_turn_and_every_subject_is_another(tracks: list[Track]) -> None:
    assert [track.label for track in tracks[:7]] == list(CLASSES)
    assert len({track.subject for track in tracks}) == len(tracks)


def test_tracks_are_finite_pixels_with_an_intensity_for_each_frame(tracks: list[Track]) -> None:
    for track in tracks:
        assert np.isfinite(track.landmarks).all()
        assert track.intensity is not None
        assert track.intensity.shape == (len(track.landmarks),)
        assert len(track.landmarks) == max(2, round(2.0 * track.frame_rate))
        assert (track.intensity >= 0).all()
        assert (track.intensity <= 1).all()
        if track.label == 'neutral':
            assert (track.intensity == 0).all()
        else:
            assert track.intensity.max() > 0.1


def test_expressions_are_held_come_and_go(tracks: list[Track]) -> None:
    courses = [track.intensity for track in tracks if track.label != 'neutral']
    held = [course[0] == 1 for course in courses if course is not None]
    gone = [course.max() > 0.9 and course[-1] < 0.1 for course in courses if course is not None]
    assert 0.3 < np.mean(held) < 0.5
    assert np.mean(gone) > 0.05


def test_frame_rates_reach_from_5_to_60(tracks: list[Track]) -> None:
    rates = [track.frame_rate for track in tracks]
    assert min(rates) >= 5.0
    assert max(rates) <= 60.0
    assert np.percentile(rates, 10) < 10.0 < 50.0 <= np.percentile(rates, 90)
    assert len(set(rates)) > 30


def test_frames_without_a_face_are_marked_and_training_passes_over_them(
    tracks: list[Track],
) -> None:
    gaps = [track for track in tracks if track.found is not None]
    assert 0.15 < len(gaps) / len(tracks) < 0.35
    assert any(not track.found[0] for track in gaps if track.found is not None)
    for track in gaps:
        assert track.found is not None
        assert track.found.sum() >= 2
        assert (track.landmarks[~track.found] == 0).all()
        assert (face_size(track.found_landmarks) > 5).all()
    prepared = whole_tracks(gaps[:30])
    assert np.isfinite(prepared.features).all()
    assert np.abs(prepared.features).max() < 10  # a face of zeros would be far away


def test_the_same_seed_gives_the_same_tracks(basis: FaceBasis, tracks: list[Track]) -> None:
    again = list(synthesize_tracks(basis, count=8, seed=5))
    assert all(same(first, second) for first, second in zip(tracks, again, strict=False))
    for other in (
        synthesize_tracks(basis, count=8, seed=6),
        synthesize_tracks(basis, count=8, seed=5, variants='test'),
    ):
        assert not any(same(first, second) for first, second in zip(again, other, strict=True))


def test_people_of_the_test_set_are_others_whatever_the_seed(basis: FaceBasis) -> None:
    ranges = SynthesisConfig(**{**EXACT, 'neutral_speech_share': 0.0, 'neutral_act_share': 0.0})
    faces = [
        normalize_landmarks(next(iter(
            synthesize_tracks(basis, count=1, seed=3, variants=variants, config=ranges)
        )).landmarks[0])
        for variants in ('training', 'test', 'all')
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(faces[first] - faces[second]).mean() > 0.02


def test_expressions_move_the_face_their_own_way(basis: FaceBasis) -> None:
    drawn = draw(
        basis, 210, held_share=0.0, offset_share=0.0, speech_share=0.0, act_share=0.0,
        blinks_per_second=0.0, frame_rate=(30.0, 30.0), subtle_share=0.0, lowered_head_share=0.0,
        other_subtle_share=0.0, duration_s=3.0,
    )
    shifts: dict[str, np.ndarray] = {}
    for label in CLASSES[1:]:
        usable = [
            track for track in drawn
            if track.label == label and track.intensity is not None
            and (track.intensity > 0.9).any() and (track.intensity < 0.05).any()
        ]
        assert len(usable) > 10
        shifts[label] = np.mean([shift_at_apex(track) for track in usable], axis=0)
    width = {label: s[54, 0] - s[48, 0] for label, s in shifts.items()}
    opening = {label: s[66, 1] - s[62, 1] for label, s in shifts.items()}
    corners = {label: s[[48, 54], 1].mean() for label, s in shifts.items()}  # down: +
    bent = {label: corners[label] - s[[51, 57], 1].mean() for label, s in shifts.items()}
    brows = {label: s[17:27, 1].mean() for label, s in shifts.items()}
    inner_against_outer = {label: s[[21, 22], 1].mean() - s[[17, 26], 1].mean()
                           for label, s in shifts.items()}
    assert max(width, key=lambda label: width[label]) == 'happiness'
    assert max(opening, key=lambda label: opening[label]) == 'surprise'
    assert min(corners, key=lambda label: corners[label]) == 'happiness'
    assert max(bent, key=lambda label: bent[label]) == 'sadness'
    assert brows['surprise'] < -0.05
    assert brows['anger'] > 0.03
    assert inner_against_outer['fear'] < inner_against_outer['anger']


@settings(max_examples=15)
@given(level=st.floats(0.2, 1.3), seed=st.integers(0, 1000))
def test_subtle_smiles_are_small_and_full_ones_large(
    basis: FaceBasis, level: float, seed: int
) -> None:
    config = SynthesisConfig(**{
        **EXACT, 'full_level': (level, level), 'subtle_share': 0.0, 'held_share': 0.0,
        'offset_share': 0.0, 'speech_share': 0.0, 'act_share': 0.0, 'blinks_per_second': 0.0,
        'duration_s': 3.0, 'frame_rate': (30.0, 30.0),
    })
    smile = list(synthesize_tracks(basis, count=5, seed=seed, config=config))[4]
    assert smile.intensity is not None
    if (smile.intensity > 0.9).any() and (smile.intensity < 0.05).any():
        size = np.linalg.norm(shift_at_apex(smile)[48:60], axis=-1).mean()
        assert 0.03 * level < size < 0.8 * level


def test_neutral_faces_talk_and_move_but_rest_on_average(basis: FaceBasis) -> None:
    still = draw(basis, 28, neutral_speech_share=0.0, neutral_act_share=0.0, blinks_per_second=0.0)
    busy = draw(basis, 28, neutral_speech_share=1.0, neutral_act_share=1.0)
    for track in still[::7]:
        assert normalize_landmarks(track.landmarks).std(0).max() < 0.01
    assert all(normalize_landmarks(t.landmarks)[:, 48:].std(0).max() > 0.02 for t in busy[::7])


@settings(max_examples=30)
@given(yaw=st.floats(-1.2, 1.2), share=st.floats(0.0, 1.0))
def test_only_the_far_side_of_the_jaw_slides_and_outwards(
    basis: FaceBasis, yaw: float, share: float
) -> None:
    heads = basis.neutral[None].astype(float)
    slid = slide_jaw(heads, np.array([yaw]), share=share)
    inner = np.arange(17, 68)
    assert np.array_equal(slid[:, inner], heads[:, inner])
    if yaw == 0.0:
        assert np.array_equal(slid, heads)
    near = np.arange(8) if yaw > 0 else np.arange(9, 17)  # x is to the model's left, 9 to 16
    far = np.arange(9, 17) if yaw > 0 else np.arange(8)
    assert np.array_equal(slid[:, near], heads[:, near])
    assert np.array_equal(slid[..., 1], heads[..., 1])
    # Seen by the camera, the contour lies on or outside of where the fixed vertex is seen.
    sign = np.sign(yaw)
    seen, fixed = (
        sign * (h[0, far, 0] * np.cos(yaw) + h[0, far, 2] * np.sin(yaw)) for h in (slid, heads)
    )
    assert (seen >= fixed - 1e-9).all()


def test_a_turned_heads_contour_passes_its_eye(basis: FaceBasis) -> None:
    yaw = np.deg2rad(35.0)
    heads = basis.neutral[None].astype(float)
    slid = slide_jaw(heads, np.array([yaw]), share=1.0)[0]
    across = slid[:, 0] * np.cos(yaw) + slid[:, 2] * np.sin(yaw)
    assert across[15] > across[FACE_FRONT].max()


def test_lips_and_lids_do_not_pass_through_each_other(basis: FaceBasis) -> None:
    crossed = basis.neutral[None].astype(float)
    upper, lower = MEETING.T
    crossed[:, lower, 1] += 3.0
    parted = part_contours(crossed)
    assert np.allclose(parted[:, upper, 1], parted[:, lower, 1])
    assert np.array_equal(part_contours(basis.neutral[None]), basis.neutral[None])


@settings(max_examples=25)
@given(
    frame_rate=st.floats(5.0, 60.0), smooth_s=st.floats(0.05, 0.6), seed=st.integers(0, 2**32)
)
def test_drift_is_smooth_whatever_the_frame_rate(
    frame_rate: float, smooth_s: float, seed: int
) -> None:
    courses = Courses(np.random.default_rng(seed), frame_rate=frame_rate, duration_s=2.0)
    drift = courses.drift(1.0, smooth_s=smooth_s)
    assert drift.shape == (courses.frames,)
    # The derivative of such a course has a standard deviation of 1 / (smooth_s * sqrt(2)).
    assert np.abs(np.diff(drift)).max() <= 6.0 / (smooth_s * frame_rate)


def test_drift_has_the_spread_it_is_asked_for() -> None:
    courses = Courses(np.random.default_rng(0), frame_rate=20.0, duration_s=200.0)
    assert courses.drift(3.0, smooth_s=0.2).std() == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize(
    ('ranges', 'message'),
    [
        ({'held_share': 1.5}, 'held_share must lie between 0 and 1'),
        ({'frame_rate': (60.0, 5.0)}, r'frame_rate must be \(lowest, highest\)'),
        ({'frame_rate': (0.0, 5.0)}, 'frame_rate must be above 0'),
        ({'duration_s': float('nan')}, 'duration_s'),
        ({'duration_s': 0.0}, 'duration_s must be above 0'),
        ({'landmark_bias': -0.1}, 'landmark_bias must not be negative'),
        ({'distance_cm': (5.0, 50.0)}, 'distance_cm must be 25 or more'),
        ({'highest_turn_degrees': 90.0}, 'highest_turn_degrees must be below 80'),
    ],
)
def test_ranges_that_make_no_sense_are_refused(ranges: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SynthesisConfig(**ranges)


def test_unknown_variants_and_seeds_are_refused(basis: FaceBasis) -> None:
    with pytest.raises(ValueError, match='training, test, all'):
        next(iter(synthesize_tracks(basis, count=1, seed=1, variants='validation')))
    with pytest.raises(ValueError, match='seed must be 0 or more'):
        next(iter(synthesize_tracks(basis, count=1, seed=-1)))


def test_the_command_writes_the_variants_asked_for(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    basis = str(shared_data / 'ict_facekit_68.npz')
    out = tmp_path / 'new' / 'test.npz'
    arguments = ['synth', '--basis', basis, '--count', '14', '--out', str(out)]
    assert main([*arguments, '--variants', 'test', '--duration', '0.5']) == 0
    written = read_tracks(out)
    assert [track.label for track in written] == [*CLASSES, *CLASSES]
    assert all(track.subject.startswith('test-1-') for track in written)
    assert all(len(t.landmarks) == max(2, round(0.5 * t.frame_rate)) for t in written)
    capsys.readouterr()
    assert main([*arguments, '--noise', str(tmp_path / 'none.json')]) == 1
    assert 'none.json does not exist' in capsys.readouterr().err
    assert main([*arguments, '--seed', '-1']) == 1
    assert 'seed' in capsys.readouterr().err


def test_a_file_that_is_no_basis_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'text.npz').write_text('no basis')
    with (tmp_path / 'other.npz').open('wb') as file:
        np.savez(file, neutral=np.zeros((5, 3)))
    for name in ('text.npz', 'other.npz', 'missing.npz'):
        with pytest.raises(FaceBasisError, match=name):
            load_face_basis(tmp_path / name)
