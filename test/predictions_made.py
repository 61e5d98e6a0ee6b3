# SPDX-License-Identifier: Apache-2.0
"""Predictions of frames for tests, of people who were never seen by any network."""

import numpy as np

from fer_training.dataset import IGNORED
from fer_training.frame_predictions import FramePredictions, PredictedTracks

CLASSES = ('neutral', 'happiness', 'sadness')


def made_frames(
    subject: str, *, seed: int, source: str = 'gestures', kind: str = '', label: int = 1,
    count: int = 200, sharpness: float = 2.0, samples: int = 4,
    evidence: float = 1.5,
) -> FramePredictions:
    """Draw predictions of one track that are right more often than not."""
    random = np.random.default_rng(seed)
    targets = np.full(count, label)
    targets[::9] = IGNORED
    signs = random.normal(0, 1.0, (samples, count, 3)) * 0.3 + random.normal(0, 1, (count, 3))
    signs[..., label] += evidence
    logits = sharpness * signs
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return FramePredictions(
        tracks=PredictedTracks(
            names=(f'{kind}_{subject}_0',), sources=(source,), kinds=(kind or CLASSES[label],),
            subjects=(f'{source}:{subject}',), labels=(label,),
        ),
        track=np.zeros(count, np.int64),
        frame=np.arange(count),
        targets=targets,
        is_warm=np.arange(count) >= 10,
        monte_carlo=logs.astype(np.float32),
        single_pass=logs[0].astype(np.float32),
    )


def people() -> list[FramePredictions]:
    """Draw a track of each of six people with expressions and of two who talk."""
    gestures = [made_frames(name, seed=index, label=index % 3) for index, name in
                enumerate('abcdef')]
    return [*gestures, *(
        made_frames(name, seed=20 + index, source='talkers', kind='talk', label=0)
        for index, name in enumerate('ab')
    )]
