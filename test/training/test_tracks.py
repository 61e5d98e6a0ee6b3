# SPDX-License-Identifier: Apache-2.0
"""Track files keep what is written and are refused by name when they are damaged."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faces_made import face_landmarks
from hypothesis import given
from hypothesis import strategies as st

from fer_training import array_archive
from fer_training.tracks import Track, TrackFileError, read_tracks, write_tracks


def made_tracks() -> list[Track]:
    return [
        Track(face_landmarks(frames=n, seed=n).astype(np.float32), label, f's{n}', rate,
              np.linspace(0, 1, n).astype(np.float32))
        for n, label, rate in ((20, 'happiness', 30.0), (7, 'neutral', 15.0), (31, 'fear', 60.0))
    ]


def test_write_then_read_is_exact(tmp_path: Path) -> None:
    write_tracks(tmp_path / 'tracks.npz', made_tracks())
    for before, after in zip(made_tracks(), read_tracks(tmp_path / 'tracks.npz'), strict=True):
        assert np.array_equal(before.landmarks, after.landmarks)
        assert np.array_equal(before.intensity, after.intensity)  # type: ignore[arg-type]
        assert (before.label, before.subject, before.frame_rate) == (
            after.label, after.subject, after.frame_rate
        )


@pytest.mark.parametrize('name', ['buhmap_tracks.npz', 'lse_gfe_tracks.npz'])
def test_the_shared_tracks_are_read(shared_data: Path, name: str) -> None:
    tracks = read_tracks(shared_data / name)
    assert len(tracks) > 200
    assert all(track.landmarks.shape[1:] == (68, 2) for track in tracks)
    assert all(track.intensity is None for track in tracks)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'fps': None}, 'lacks the arrays fps'),
        ({'length': np.array([20, 7, 30])}, '57 frames'),
        ({'length': np.array([58])}, 'disagree'),
        ({'landmarks': np.zeros((58, 51, 2))}, 'shape'),
        ({'landmarks': np.full((58, 68, 2), np.nan)}, 'finite'),
        ({'fps': np.array([30.0, 0.0, 30.0])}, 'fps'),
        ({'intensity': np.zeros(3)}, 'intensity'),
        ({'intensity': np.full(58, np.nan)}, 'intensity must be finite'),
        ({'fps': np.array([30.0, np.inf, 30.0])}, 'fps must be positive and finite'),
        ({'fps': np.array(['30', '30', '30'])}, 'fps must be real numbers, not <U2'),
        ({'landmarks': np.full((58, 68, 2), '1')}, 'landmarks must be real numbers, not <U1'),
        ({'length': np.array(58)}, 'disagree'),
        ({'fps': np.ones((3, 1))}, 'disagree'),
        # Their sum is right: it overflows.
        ({'length': np.array([2**63 - 1, 2**63 - 1, 60])}, 'lengths must be 1 to 58'),
        ({'label': np.array([{}, {}, {}], dtype=object)}, 'Object|pickle'),
    ],
)
def test_damaged_files_are_refused_by_name(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    write_tracks(tmp_path / 'good.npz', made_tracks())
    with np.load(tmp_path / 'good.npz') as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= {name: array for name, array in change.items() if array is not None}
    for name in (name for name, array in change.items() if array is None):
        del arrays[name]
    np.savez(tmp_path / 'bad.npz', allow_pickle=True, **arrays)
    with pytest.raises(TrackFileError, match=f'bad.npz.*({message})'):
        read_tracks(tmp_path / 'bad.npz')


@pytest.fixture(scope='module')
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('tracks')


def npy_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def archive_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in members.items():
            archive.writestr(f'{name}.npy', content)
    return file.getvalue()


def small_members() -> dict[str, bytes]:
    """Return the arrays of a track file of three frames, each as it is in the archive."""
    arrays = {
        'landmarks': np.zeros((3, 68, 2), np.float32),
        'length': np.array([2, 1]),
        'label': np.array(['fear', 'neutral']),
        'subject': np.array(['ann', 'bob']),
        'fps': np.array([30.0, 15.0]),
        'intensity': np.zeros(3),
        'found': np.array([True, False, True]),
    }
    return {name: npy_of(array) for name, array in arrays.items()}


def check_tracks_or_refusal(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        tracks = read_tracks(path)
    except TrackFileError as error:
        assert path.name in str(error) and '\n' not in str(error)
        return
    for track in tracks:
        assert track.landmarks.shape == (len(track.times_s), 68, 2)
        assert np.isfinite(track.landmarks).all() and np.isfinite(track.times_s).all()
        assert isinstance(track.label, str) and isinstance(track.subject, str)


def flipped(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        changed[int(place * len(data))] = value
    return bytes(changed)


flips = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
)
names = st.sampled_from(sorted(small_members()))
KINDS = (
    *('?', 'b', 'B', 'h', 'q', 'Q', 'e', 'f', 'd', 'g', 'F'),
    *('U1', 'U0', 'S3', 'V2', 'M8[s]', 'm8[D]', 'i4,f4', 'O'),
)


@given(changes=flips, kept=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_flipped_and_truncated_files_are_tracks_or_refused(
    scratch: Path, changes: list[tuple[float, int]], kept: float
) -> None:
    data = flipped(archive_of(small_members()), changes)
    check_tracks_or_refusal(scratch / 'flipped.npz', data[: round(kept * len(data))])


@given(name=names, changes=flips)
def test_flipped_arrays_with_right_checksums_are_tracks_or_refused(
    scratch: Path, name: str, changes: list[tuple[float, int]]
) -> None:
    members = small_members()
    # The header: 128 bytes at most. Other numbers are only other landmarks.
    members[name] = flipped(members[name][:128], changes) + members[name][128:]
    check_tracks_or_refusal(scratch / 'array.npz', archive_of(members))


@given(
    name=names,
    array=st.one_of(
        st.builds(
            np.zeros,
            st.sampled_from([(), (0,), (1,), (2,), (3,), (2, 1), (3, 68, 2), (1, 3, 68, 2)]),
            st.sampled_from(KINDS),
        ),
        st.sampled_from([np.nan, np.inf, -1.0, 1e300]).map(lambda value: np.full(2, value)),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2).map(np.array),
    ),
)
def test_arrays_of_any_kind_are_tracks_or_refused(
    scratch: Path, name: str, array: np.ndarray
) -> None:
    members = small_members() | {name: npy_of(array)}
    check_tracks_or_refusal(scratch / 'other.npz', archive_of(members))


@pytest.mark.parametrize('shape', [(10**10, 68, 2), (10**18, 68, 2), (-1, 68, 2), (4, 68, 2)])
@pytest.mark.parametrize('kind', ['<f4', '<U0'])
def test_arrays_that_claim_more_than_there_is_take_no_memory(
    scratch: Path, shape: tuple[int, ...], kind: str
) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {'descr': kind, 'fortran_order': False, 'shape': shape}
    )
    path = scratch / 'huge.npz'
    path.write_bytes(archive_of(small_members() | {'landmarks': header.getvalue() + bytes(99)}))
    with pytest.raises(TrackFileError, match='huge.npz.*landmarks.npy claims more than it holds'):
        read_tracks(path)


def test_archives_that_unpack_to_too_much_are_not_unpacked(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scratch / 'bomb.npz'
    path.write_bytes(archive_of(small_members()))
    assert read_tracks(path)
    monkeypatch.setattr(array_archive, 'MAX_BYTES', 2000)
    with pytest.raises(TrackFileError, match='bomb.npz.*at most 2000 are read'):
        read_tracks(path)


def test_pickles_in_disguise_are_refused_and_not_run(scratch: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (scratch / 'sprung',)

    trap: Any = Trap()
    torch.save({'landmarks': trap}, scratch / 'torch.npz')
    pickled = pickle.dumps(trap)
    for name, data in (
        ('pickle.npz', pickled),
        ('array.npz', npy_of(np.array([trap], dtype=object))),
        ('objects.npz', archive_of(
            small_members() | {'label': npy_of(np.array([trap], dtype=object))}
        )),
        ('member.npz', archive_of(small_members() | {'label': pickled})),
    ):
        (scratch / name).write_bytes(data)
        with pytest.raises(TrackFileError, match=name):
            read_tracks(scratch / name)
    with pytest.raises(TrackFileError, match='torch.npz'):
        read_tracks(scratch / 'torch.npz')
    assert not (scratch / 'sprung').exists()
