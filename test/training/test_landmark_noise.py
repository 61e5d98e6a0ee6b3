# SPDX-License-Identifier: Apache-2.0
"""Landmark noise has the spectrum that was measured, and measuring it finds what was put in."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from fer_perception.graph.normalization import face_size
from fer_training.cli import main
from fer_training.face_basis import FaceBasis, load_face_basis
from fer_training.noise_measurement import measure_noise, residual, spectra
from fer_training.synthesis import SynthesisConfig, synthesize_tracks
from fer_training.synthesis.landmark_noise import (
    PARTS,
    LandmarkNoise,
    NoiseFileError,
    PartNoise,
    measured_noise,
    read_noise,
    write_noise,
)
from fer_training.tracks import Track, write_tracks


@pytest.fixture(scope='module')
def basis(shared_data: Path) -> FaceBasis:
    return load_face_basis(shared_data / 'ict_facekit_68.npz')


def noisy_face(noise: np.ndarray, *, frame_rate: float, found: np.ndarray | None = None) -> Track:
    """Move a face of 40 pixels slowly, with noise in face sizes (F, 68, 2)."""
    generator = np.random.default_rng(1)
    face = generator.normal(0.0, 1.0, (68, 2))
    face *= 40.0 / face_size(face)
    times_s = np.arange(len(noise)) / frame_rate
    sway = 30.0 * np.sin(2.0 * np.pi * 0.5 * times_s)
    return Track(
        face + sway[:, None, None] + 40.0 * noise, 'neutral', 'someone', frame_rate, found=found
    )


def like(level: float, **parts: PartNoise) -> LandmarkNoise:
    white = PartNoise(level, 0.0, 0.0, 0.0)
    return LandmarkNoise({name: parts.get(name, white) for name in PARTS})


@pytest.mark.parametrize('frame_rate', [12.5, 30.0, 60.0])
def test_measuring_finds_the_noise_that_was_put_in(frame_rate: float) -> None:
    put_in = like(
        0.01,
        mouth=PartNoise(0.004, 0.03, 0.4, 0.1),
        nose=PartNoise(0.02, 0.0, 0.3, 0.2),
    )
    generator = np.random.default_rng(2)
    noise = put_in.draw(4000, frame_rate=frame_rate, generator=generator)
    found = measure_noise([noisy_face(noise, frame_rate=frame_rate)])
    frequencies = np.array([4.5, 5.0, 6.0])
    for name, part in found.parts.items():
        assert np.allclose(
            part.spectrum(frequencies, frame_rate=frame_rate),
            put_in.parts[name].spectrum(frequencies, frame_rate=frame_rate),
            rtol=0.3,
        ), name
        within = put_in.parts[name].part_share + put_in.parts[name].face_share
        assert part.part_share + part.face_share == pytest.approx(within, abs=0.1)


@settings(max_examples=20)
@given(
    white=st.floats(0.0, 0.05), drift=st.floats(0.0, 0.05), shares=st.floats(0.0, 0.5),
    frame_rate=st.floats(5.0, 60.0),
)
def test_noise_has_the_variance_it_is_set_to_at_any_frame_rate(
    white: float, drift: float, shares: float, frame_rate: float
) -> None:
    part = PartNoise(white, drift, shares, shares)
    noise = LandmarkNoise(dict.fromkeys(PARTS, part))
    generator = np.random.default_rng(3)
    drawn = np.stack([
        noise.draw(4, frame_rate=frame_rate, generator=generator) for _ in range(300)
    ])
    variance = white**2 + drift**2
    for frame in (0, 3):  # from the first frame on
        assert (drawn[:, frame] ** 2).mean() == pytest.approx(variance, rel=0.25, abs=1e-9)
    # Parseval: the density over all frequencies is the variance.
    frequencies = np.linspace(0.0, frame_rate / 2, 20001)
    density = part.spectrum(frequencies, frame_rate=frame_rate)
    assert trapezoid(density, frequencies) == pytest.approx(variance, rel=1e-3, abs=1e-12)


def test_what_the_face_has_in_common_is_measured() -> None:
    put_in = LandmarkNoise(dict.fromkeys(PARTS, PartNoise(0.01, 0.01, 0.3, 0.2)))
    noise = put_in.draw(4000, frame_rate=30.0, generator=np.random.default_rng(6))
    for part in measure_noise([noisy_face(noise, frame_rate=30.0)]).parts.values():
        assert part.part_share == pytest.approx(0.3, abs=0.05)
        assert part.face_share == pytest.approx(0.2, abs=0.05)


def test_synthetic_tracks_have_the_measured_spectrum(basis: FaceBasis) -> None:
    config = SynthesisConfig(
        frame_rate=(30.0, 30.0), duration_s=4.0, noise_level=(1.0, 1.0), smooth_share=0.0,
        pixel_noise=(0.0, 0.0), turned_noise=0.0, lost_share=0.0, neutral_speech_share=0.0,
        neutral_act_share=0.0, blinks_per_second=0.0, gesture_share=0.0,
        movement_degrees=(0.0, 0.0), yaw_degrees=0.0,
    )
    drawn = list(synthesize_tracks(basis, count=140, seed=4, config=config))[::7]
    expected = measured_noise()
    densities: dict[str, list[np.ndarray]] = {name: [] for name in PARTS}
    for track in drawn:
        frequencies, by_part = spectra(residual(track), frame_rate=30.0)
        for name, density in by_part.items():
            densities[name].append(density)
    for name, part in expected.parts.items():
        # Face sizes are taken with the noise in them: a little larger.
        assert np.mean(densities[name], axis=0) == pytest.approx(
            part.spectrum(frequencies, frame_rate=30.0), rel=0.5
        ), name


def test_the_model_fits_what_was_measured_on_the_recordings() -> None:
    noise = measured_noise()
    assert len(noise.recordings) >= 3
    for name, part in noise.parts.items():
        ratios = []
        for recording in noise.recordings:
            rate = float(recording['frame_rate'])  # type: ignore[arg-type]
            frequencies = np.array(recording['frequencies_hz'])
            density = np.array(recording['density_per_hz'][name])  # type: ignore[index]
            model = part.spectrum(frequencies, frame_rate=rate)
            ratios.append(np.log(density / model).mean() / 2)
        # The level is the geometric mean; of amplitudes no recording is further than 4 times.
        assert np.mean(ratios) == pytest.approx(0.0, abs=0.1)
        assert np.abs(ratios).max() < np.log(4.0)


def test_a_noise_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    noise = like(0.01, mouth=PartNoise(0.004, 0.03, 0.4, 0.1))
    write_noise(tmp_path / 'deep' / 'noise.json', noise)
    assert read_noise(tmp_path / 'deep' / 'noise.json') == noise


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'drift_s': 1.0}, 'measure it anew'),
        ({'parts': {}}, 'must have the parts jaw'),
        ({'parts': None}, 'no noise file'),
        ({'recordings': 7}, 'no noise file'),
    ],
)
def test_a_file_that_is_no_noise_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / 'noise.json'
    write_noise(path, like(0.01))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(NoiseFileError, match=message):
        read_noise(path)


@pytest.mark.parametrize('value', [-0.1, float('nan'), float('inf'), 'much', None])
def test_impossible_noise_is_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / 'noise.json'
    write_noise(path, like(0.01))
    content = json.loads(path.read_text())
    content['parts']['nose']['white'] = value
    path.write_text(json.dumps(content))
    with pytest.raises(NoiseFileError, match='noise of nose'):
        read_noise(path)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / 'text.json').write_text('{')
    for name in ('text.json', 'missing.json'):
        with pytest.raises(NoiseFileError, match=name):
            read_noise(tmp_path / name)


@pytest.mark.parametrize(
    ('frames', 'frame_rate', 'lost', 'message'),
    [(10, 30.0, False, 'too short'), (60, 5.0, False, 'frames per second'),
     (60, 30.0, True, 'without a face')],
)
def test_tracks_that_tell_nothing_about_noise_are_refused(
    frames: int, frame_rate: float, lost: bool, message: str
) -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.01, (frames, 68, 2))
    found = np.arange(frames) > 3 if lost else None
    with pytest.raises(ValueError, match=message):
        measure_noise([noisy_face(noise, frame_rate=frame_rate, found=found)])
    with pytest.raises(ValueError, match='no tracks'):
        measure_noise([])


def test_the_command_measures_tracks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = like(0.01).draw(120, frame_rate=30.0, generator=np.random.default_rng(5))
    write_tracks(tmp_path / 'tracks.npz', [noisy_face(noise, frame_rate=30.0)])
    out = tmp_path / 'noise.json'
    assert main(['noise', '--tracks', str(tmp_path / 'tracks.npz'), '--out', str(out)]) == 0
    assert read_noise(out).parts['mouth'].white == pytest.approx(0.01, rel=0.4)
    assert 'mouth' in capsys.readouterr().out
    assert main(['noise', '--out', str(out)]) == 1
    assert 'give either recordings or --tracks' in capsys.readouterr().err


def test_the_command_measures_a_clip(
    sample_clip: Path, landmark_model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'noise.json'
    arguments = ['--workers', '1', '--landmark-model', str(landmark_model_path)]
    assert main(['noise', str(sample_clip), *arguments, '--out', str(out)]) == 0
    noise = read_noise(out)
    assert noise.recordings[0]['name'] == sample_clip.name
    for part in noise.parts.values():
        assert 0.001 < np.hypot(part.white, part.drift) < 0.05
    assert list(tmp_path.iterdir()) == [out]
