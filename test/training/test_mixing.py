# SPDX-License-Identifier: Apache-2.0
"""Tracks of several files: subjects stay apart, labels are mapped, batches keep the shares."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tracks_made import write_made_tracks

from fer_training.dataset import IGNORED
from fer_training.mixing import Mixture, mix_tracks, piece_starts
from fer_training.track_sources import TrackFile, TrackSources

CLASSES = ('neutral', 'happiness', 'sadness')


@pytest.fixture
def sources(tmp_path: Path) -> TrackSources:
    gestures = write_made_tracks(
        tmp_path / 'gestures.npz', labels=('neutral', 'happiness', 'nod'), subjects=('a', 'b'),
        seed=1, frames=50, knows_intensity=False,
    )
    talkers = write_made_tracks(
        tmp_path / 'talkers.npz', labels=('talk',), subjects=('a', 'c', 'd'), seed=2,
        knows_intensity=False,
    )
    made = write_made_tracks(
        tmp_path / 'made.npz', labels=('happiness', 'sadness'), subjects=('a',), seed=3
    )
    return TrackSources(
        files=tuple(
            TrackFile(path=path, share=share)
            for path, share in ((gestures, 0.3), (talkers, 0.1), (made, 0.6))
        ),
        mapping=(('nod', 'neutral'), ('talk', 'neutral')),
        estimates_intensity=True,
        frame_rate=30.0,
        normalization='similarity',
    )


def mixture(sources: TrackSources, **changes: int) -> Mixture:
    shares = tuple((file.source, file.share or 0.0) for file in sources.files)
    return Mixture(**({'piece_frames': 20, 'draws': 3000} | changes), shares=shares)


def test_people_of_two_files_are_two_people(sources: TrackSources) -> None:
    tracks, classes = sources.load()
    assert classes == CLASSES
    assert {track.subject for track in tracks} == {
        'gestures:a', 'gestures:b', 'talkers:a', 'talkers:c', 'talkers:d', 'made:a'
    }
    kinds = {(track.kind, classes[track.label]) for track in tracks}
    assert ('nod', 'neutral') in kinds and ('talk', 'neutral') in kinds


def test_files_of_one_name_are_refused(tmp_path: Path) -> None:
    files = tuple(TrackFile(path=tmp_path / folder / 'x.npz') for folder in 'ab')
    with pytest.raises(ValueError, match='called x'):
        TrackSources(files=files, frame_rate=30.0, normalization='similarity')


def test_only_expressions_get_an_estimated_intensity(sources: TrackSources) -> None:
    tracks, classes = sources.load()
    for track in tracks:
        if classes[track.label] == 'neutral':
            assert (track.targets == 0).all()
        else:
            assert {0, track.label} <= set(track.targets.tolist())


def test_draws_keep_the_shares_and_balance_the_classes(sources: TrackSources) -> None:
    tracks, _ = sources.load()
    data = mix_tracks(tracks, mixture(sources))
    drawn = list(data.sampler(torch.Generator().manual_seed(0)))
    assert len(drawn) == data.epoch_length == 3000
    assert data.chances is not None and float(data.chances.sum()) == pytest.approx(1.0)
    again = mix_tracks(tracks, mixture(sources))
    assert drawn == list(again.sampler(torch.Generator().manual_seed(0)))
    # Each piece is known by its features again.
    owner = {
        track.features[:, start : start + 20].tobytes(): (track.source, track.label)
        for track in tracks
        for start in piece_starts(len(track.targets), 20)
    }
    counts = Counter(owner[data.features[index, :, :20].tobytes()] for index in drawn)
    share = {key: count / 3000 for key, count in counts.items()}
    assert share['talkers', 0] == pytest.approx(0.1, abs=0.03)
    assert share['gestures', 0] == pytest.approx(0.15, abs=0.03)
    assert share['gestures', 1] == pytest.approx(0.15, abs=0.03)
    assert share['made', 1] == pytest.approx(0.3, abs=0.04)


def test_pieces_cover_every_target_of_a_track(sources: TrackSources) -> None:
    for frames in (5, 20, 21, 50, 64):
        covered = np.zeros(frames, bool)
        for start in piece_starts(frames, 20):
            assert start + 20 <= frames or start == 0
            covered[start : start + 20] = True
        assert covered.all()
    tracks, _ = sources.load()
    whole = mix_tracks(tracks, Mixture(piece_frames=1000))
    assert len(whole) == len(tracks) == whole.epoch_length
    assert whole.targets.shape[1] == 50 and (whole.targets == IGNORED).any()


def test_shares_must_fit_the_files(sources: TrackSources) -> None:
    tracks, _ = sources.load()
    with pytest.raises(ValueError, match='the shares are of made'):
        mix_tracks(tracks, Mixture(shares=(('made', 1.0),)))
    with pytest.raises(ValueError, match='above 0'):
        Mixture(shares=(('made', 0.0),))
    with pytest.raises(ValueError, match='no tracks'):
        mix_tracks([], Mixture())
