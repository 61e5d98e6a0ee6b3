# SPDX-License-Identifier: Apache-2.0
"""Intensity of an expression over time, estimated from the track itself where nobody noted it."""

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter1d, grey_closing

from fer_perception.graph.landmarks import INNER_LANDMARKS
from fer_perception.graph.normalization import normalize_landmarks
from fer_training.tracks import Track

# Upper and lower lids: they move with every blink, which is no part of most expressions.
EYELIDS = (37, 38, 40, 41, 43, 44, 46, 47)

REST_S = 0.15  # the first part of a track, taken for the resting face
SMOOTHING_S = 0.06  # standard deviation of the smoothing over time
DIP_S = 0.5  # a dip no longer than this is a nod or a blink, not the end of the expression
APEX_PERCENTILE = 90  # of the displacement, taken for the apex


def estimate_intensity(track: Track) -> np.ndarray:
    """Estimate how much of its expression a track shows in each frame: (F,), 0 to 1.

    The track must begin at rest and show one expression. The displacement of the normalised inner
    landmarks without eyelids from their mean over the first `REST_S` is projected on its first
    principal direction (not centred: the direction from rest in which the track spends most
    energy), smoothed, freed of dips shorter than `DIP_S` and divided by its own 90th percentile,
    so that the apex of every track is 1, however weak. It fails where a track begins with the
    expression shown, where the head turns more than the face moves, and for expressions that go
    on and off several times at different strength. Frames without a face get 0. Raises ValueError
    for a track without any face, or one that never moves.
    """
    found = track.found_landmarks
    if not len(found):
        raise ValueError(f'a track ({track.label}, {track.subject}) shows no face')
    kept = [number for number in INNER_LANDMARKS if number not in EYELIDS]
    points = normalize_landmarks(found, 'similarity')[:, kept]
    points = points.reshape(len(points), -1)  # (G, 2 * 43)
    frame_rate = track.frame_rate
    points = gaussian_filter1d(points, SMOOTHING_S * frame_rate, axis=0, mode='nearest')
    rest = points[: max(1, round(REST_S * frame_rate))].mean(0)
    displacement = points - rest
    direction = np.linalg.svd(displacement, full_matrices=False)[2][0]
    along = displacement @ direction  # (G,)
    along *= np.sign(along.sum()) or 1.0
    size = max(1, round(DIP_S * frame_rate))
    # Both ends are taken to lie at rest: what is low there is onset and offset, not a dip.
    along = grey_closing(np.pad(along, size), size=size)[size:-size]
    apex = float(np.percentile(along, APEX_PERCENTILE))
    if not apex > 0:
        raise ValueError(f'a track ({track.label}, {track.subject}) never moves')
    intensity = np.zeros(len(track.landmarks), np.float32)
    intensity[slice(None) if track.found is None else track.found] = np.clip(along / apex, 0, 1)
    return intensity


def with_estimated_intensity(track: Track) -> Track:
    """Return a track that knows its intensity: its own, or else the estimated one."""
    if track.intensity is not None:
        return track
    return replace(track, intensity=estimate_intensity(track))
