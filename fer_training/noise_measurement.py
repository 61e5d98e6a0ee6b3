# SPDX-License-Identifier: Apache-2.0
"""Measure a detector's landmark noise: the part of landmark tracks too fast for a face.

What a local polynomial does not follow is taken for noise, where the polynomial follows little:
above FASTEST_MOVEMENT_HZ. Power densities are medians over segments, so that a blink or a gesture
in some of them does not count.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares
from scipy.signal import freqz, savgol_coeffs, savgol_filter, welch

from fer_perception.graph.normalization import face_size
from fer_training.synthesis.landmark_noise import PARTS, LandmarkNoise, PartNoise
from fer_training.tracks import Track

SMOOTHING_S = 0.4  # of the local polynomial
POLYNOMIAL_ORDER = 2
FASTEST_MOVEMENT_HZ = 4.0
SEGMENT_S = 1.0
LOWEST_FRAME_RATE = 10.0  # below it nothing of the spectrum is above the face's movement
SHORTEST_S = 1.0


def measure_noise(tracks: Sequence[Track]) -> LandmarkNoise:
    """Measure the noise of the landmarks in tracks of a detector, each counting the same.

    White noise and a drift are fitted to the logarithms of the densities of all tracks, so that
    their level is the geometric mean. Raises ValueError for tracks too short, too slow, or with
    frames without a face.
    """
    if not tracks:
        raise ValueError('there are no tracks to measure noise in')
    residuals = [residual(track) for track in tracks]
    measured = [
        spectra(values, frame_rate=track.frame_rate)
        for track, values in zip(tracks, residuals, strict=True)
    ]
    shares = [_shares(values) for values in residuals]
    parts = {}
    for name in PARTS:
        white, drift = _fit(
            [(frequencies, by_part[name]) for frequencies, by_part in measured],
            [track.frame_rate for track in tracks],
        )
        part_share, face_share = np.mean([share[name] for share in shares], axis=0)
        parts[name] = PartNoise(
            round(white, 5), round(drift, 5), round(float(part_share), 3),
            round(float(face_share), 3),
        )
    recordings = tuple(
        {
            'name': track.subject,
            'frames': len(track.landmarks),
            'frame_rate': round(track.frame_rate, 3),
            'face_size_pixels': round(float(np.median(face_size(track.landmarks))), 1),
            'frequencies_hz': [round(float(value), 2) for value in frequencies],
            'density_per_hz': {
                name: [float(f'{value:.3g}') for value in density]
                for name, density in by_part.items()
            },
        }
        for track, (frequencies, by_part) in zip(tracks, measured, strict=True)
    )
    return LandmarkNoise(parts, recordings)


def residual(track: Track) -> np.ndarray:
    """Subtract the smooth movement of every landmark: (F, 68, 2) in face sizes.

    Raises ValueError for a track too short, too slow, or with frames without a face.
    """
    if track.found is not None and not track.found.all():
        raise ValueError(f'{track.subject} has frames without a face: cut them off')
    if track.frame_rate < LOWEST_FRAME_RATE:
        raise ValueError(
            f'{track.subject} has {track.frame_rate:g} frames per second; noise can be told from '
            f'movement from {LOWEST_FRAME_RATE:g} on'
        )
    if len(track.landmarks) < SHORTEST_S * track.frame_rate:
        raise ValueError(f'{track.subject} is too short: give {SHORTEST_S:g} s or more')
    points = track.landmarks / np.median(face_size(track.landmarks))
    smooth = savgol_filter(points, _window(track.frame_rate), POLYNOMIAL_ORDER, axis=0)
    return np.asarray(points - smooth)


def spectra(
    residuals: np.ndarray, *, frame_rate: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Compute the power density of residuals (F, 68, 2) above the movement of faces.

    Returns frequencies (n,) in Hz and, for each part, the mean density of its landmarks' x and y
    (n,) in face sizes squared per Hz, what the polynomial took away being put back.
    """
    window = _window(frame_rate)
    frequencies, density = welch(
        residuals, fs=frame_rate, axis=0, nperseg=round(SEGMENT_S * frame_rate),
        average='median', detrend=False,
    )
    smoothing = savgol_coeffs(window, POLYNOMIAL_ORDER)
    _, response = freqz(smoothing, worN=frequencies, fs=frame_rate)
    # The window is symmetrical: without its delay the response is real.
    delay = np.exp(2j * np.pi * frequencies / frame_rate * (window // 2))
    passed = np.abs(1.0 - response * delay) ** 2
    chosen = (frequencies >= FASTEST_MOVEMENT_HZ) & (frequencies < 0.499 * frame_rate)
    density = density[chosen] / passed[chosen, None, None]  # (n, 68, 2)
    return frequencies[chosen], {
        name: density[:, points].mean((1, 2)) for name, points in PARTS.items()
    }


def _window(frame_rate: float) -> int:
    """Return the odd number of frames of the local polynomial."""
    return max(5, 2 * round(SMOOTHING_S * frame_rate / 2) + 1)


def _fit(
    measured: Sequence[tuple[np.ndarray, np.ndarray]], frame_rates: Sequence[float]
) -> tuple[float, float]:
    """Fit white noise and drift to densities: their standard deviations."""

    def errors(levels: np.ndarray) -> np.ndarray:
        part = PartNoise(float(np.exp(levels[0])), float(np.exp(levels[1])), 0.0, 0.0)
        return np.concatenate([
            (np.log(part.spectrum(frequencies, frame_rate=rate)) - np.log(density))
            / np.sqrt(len(frequencies))
            for (frequencies, density), rate in zip(measured, frame_rates, strict=True)
        ])

    fitted = least_squares(errors, np.log([0.005, 0.01]), bounds=(np.log(1e-6), np.log(1.0)))
    white, drift = np.exp(fitted.x)
    return float(white), float(drift)


def _shares(residuals: np.ndarray) -> dict[str, tuple[float, float]]:
    """Split the variance of residuals: each part's share common to the part, and to the face."""
    scaled = residuals - residuals.mean(0)
    scaled = scaled / np.maximum(scaled.std(0), 1e-12)  # every landmark counts the same
    count = {name: scaled[:, points].shape[1] for name, points in PARTS.items()}
    means = {name: scaled[:, points].mean(1) for name, points in PARTS.items()}  # (F, 2)
    shares = {}
    for name, mean in means.items():
        # The mean of n landmarks with correlation r has the variance r + (1 - r) / n.
        variance = float((mean**2).mean())
        within = (variance * count[name] - 1.0) / (count[name] - 1.0)
        across = np.mean(
            [(mean * other).mean() for key, other in means.items() if key != name]
        )
        face_share = float(np.clip(across, 0.0, 1.0))
        shares[name] = (float(np.clip(within, face_share, 1.0)) - face_share, face_share)
    return shares
