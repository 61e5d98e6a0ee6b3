# SPDX-License-Identifier: Apache-2.0
"""The compiled evaluation gives dlib's points, refuses damaged files, and loses no memory."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shape_models_made import MadeModel, made_model

from fer_perception.faces import Box, FaceDetector, shape_predictor
from fer_perception.faces.place import FacePlace, patch_of
from fer_perception.faces.shape_predictor import (
    CompiledShapePredictor,
    DlibShapePredictor,
    ShapePredictor,
    native_is_available,
    open_shape_predictor,
)

needs_library = pytest.mark.skipif(
    not native_is_available(), reason='the library was not compiled'
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a function that writes a model's file and returns its path."""

    def write(content: bytes) -> Path:
        path = tmp_path / 'model.dat'
        path.write_bytes(content)
        return path

    return write


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Return smooth random pictures, uint8."""
    values = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return np.stack([cv2.GaussianBlur(picture, (5, 5), 0) for picture in values])


def tiled(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image made of patches (P, S, S), and the matrices that take each one to it."""
    count, side = patches.shape[:2]
    to_image = np.tile(np.eye(2, 3), (count, 1, 1))
    to_image[:, 1, 2] = side * np.arange(count)
    return patches.reshape(-1, side), to_image  # (P, S, S) -> (P * S, S)


def starts_made(count: int, *, patches: int, size: int, seed: int = 0) -> np.ndarray:
    """Return starts in and around patches of a size: some reach far beyond, some are a pixel."""
    random = np.random.default_rng(seed)
    corners = random.integers(-size, size, (count, 2))
    sides = random.choice([0, 1, size // 4, size, 4 * size], (count, 2))
    return np.concatenate(
        [random.integers(0, patches, (count, 1)), corners, corners + sides], axis=1
    ).astype(np.int32)


def share_equal(points: np.ndarray, rounded: np.ndarray) -> float:
    """Return the share of points that are those of dlib when they are rounded like them."""
    return float((np.floor(points + 0.5) == rounded).all(axis=2).mean())


@needs_library
@pytest.mark.parametrize(
    'shape',
    [
        {'points': 1},
        {'points': 2, 'depth': 1},
        {'points': 5, 'trees': 200},
        {'points': 24, 'depth': 4, 'trees': 65},  # whole blocks of columns; a block of trees and 1
        {'points': 68, 'depth': 3, 'pixels': 500},
        {'points': 194, 'depth': 6, 'trees': 20},
        {'pixels': 2048},
        {'trees': 0},
        {'forests': 0},
    ],
    ids=str,
)
def test_made_models_give_the_points_of_dlib(
    write: Callable[[bytes], Path], shape: dict[str, int]
) -> None:
    path = write(made_model(**shape, seed=1).to_bytes())
    compiled, dlibs = CompiledShapePredictor(path), DlibShapePredictor(path)
    assert compiled.point_count == dlibs.point_count == shape.get('points', 5)
    grey, to_image = tiled(noise(3, 100, 100))
    starts = starts_made(200, patches=3, size=100)
    points = compiled.fit(grey, to_image, starts, patch_side=100)
    assert points.shape == (200, compiled.point_count, 2) and points.dtype == np.float32
    assert share_equal(points, dlibs.fit(grey, to_image, starts, patch_side=100)) >= 0.99


@needs_library
@pytest.mark.parametrize('threshold', [-300.0, -256.0, -255.0, -0.5, 0.0, 7.0, 254.5, 255.0, 1e9])
def test_a_threshold_divides_as_in_dlib(
    write: Callable[[bytes], Path], threshold: float
) -> None:
    model = made_model(points=2, forests=1, trees=1, depth=1, pixels=2)
    model = model.with_tree([(0, 1, threshold)], [[0.25] * 4, [-0.25] * 4])
    path = write(replace(model, deltas=[[(0.0, 0.0), (0.0, 0.0)]], anchors=[[0, 1]]).to_bytes())
    compiled, dlibs = CompiledShapePredictor(path), DlibShapePredictor(path)
    # All differences of two pixels that there can be.
    patches = np.zeros((511, 101, 101), np.uint8)
    mean = np.floor(np.reshape(model.mean, (2, 2)) * 100 + 0.5).astype(int)
    for patch, difference in zip(patches, range(-255, 256), strict=True):
        for (x, y), value in zip(mean, (max(difference, 0), max(-difference, 0)), strict=True):
            patch[y, x] = value
    starts = np.array([(index, 0, 0, 100, 100) for index in range(511)], np.int32)
    grey, to_image = tiled(patches)
    points = compiled.fit(grey, to_image, starts, patch_side=101)
    assert share_equal(points, dlibs.fit(grey, to_image, starts, patch_side=101)) == 1


@needs_library
def test_faces_of_a_clip_have_the_landmarks_of_dlib(
    landmark_model_path: Path, sample_clip: Path
) -> None:
    compiled = CompiledShapePredictor(landmark_model_path)
    dlibs = DlibShapePredictor(landmark_model_path)
    capture = cv2.VideoCapture(str(sample_clip))
    patches = []
    box: Box | None = None
    for _ in range(12):
        for _ in range(10):
            ok, image = capture.read()
        if not ok:
            break
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        box = box or FaceDetector().detect(grey)[0][0]
        # On the face, beside it, at the border of the image.
        for place in (FacePlace.from_box(box), FacePlace(30, 20, 150, 0.4)):
            to_image = place.to_image(face_side=256, patch_side=384)
            patches.append(patch_of(grey, to_image, side=384))
    random = np.random.default_rng(0)
    starts = np.array(
        [
            (index, left, top, left + side, top + side)
            for index in range(len(patches))
            for left, top, side in [
                *[(*random.integers(50, 80, 2), 255) for _ in range(4)],
                (-90, 300, 255),
                (180, 180, 20),
                (-500, -500, 1000),
            ]
        ],
        np.int32,
    )
    tiles, to_tiles = tiled(np.stack(patches))
    points = compiled.fit(tiles, to_tiles, starts, patch_side=384)
    assert share_equal(points, dlibs.fit(tiles, to_tiles, starts, patch_side=384)) >= 0.99


def reading_model() -> MadeModel:
    """Return a model that moves its second point to the right by the pixel under the first."""
    # The second point lies beyond any patch, where all is black.
    model = made_model(points=2, forests=1, trees=255, depth=1, pixels=2)
    trees = [
        ([(0, 1, threshold - 0.5)], [[0.0, 0.0, 1.0, 0.0], [0.0] * 4])
        for threshold in range(1, 256)
    ]
    return replace(
        model,
        mean=[0.0, 0.0, 500.0, 500.0],
        forests=[trees],
        anchors=[[0, 1]],
        deltas=[[(0.0, 0.0), (0.0, 0.0)]],
    )


@needs_library
@pytest.mark.parametrize('roll', [0.0, 0.3, -2.0])
@pytest.mark.parametrize('side', [20.0, 60.0, 150.0])
def test_pixels_are_those_of_patches_that_are_cut_out(
    write: Callable[[bytes], Path], side: float, roll: float
) -> None:
    model = CompiledShapePredictor(write(reading_model().to_bytes()))
    grey = noise(1, 120, 160)[0]
    # In the image, and over its borders.
    places = [FacePlace(90.3, 50.8, side, roll), FacePlace(10, 115, side, roll)]
    to_image = np.stack([place.to_image(face_side=24, patch_side=40) for place in places])
    rows, columns = np.mgrid[-1:41, -1:41].reshape(2, -1)
    starts = np.stack([columns, rows, columns + 1, rows + 1], axis=1)
    starts = np.concatenate([np.insert(starts, 0, index, axis=1) for index in range(2)])
    points = model.fit(grey, to_image, starts.astype(np.int32), patch_side=40)
    read = (points[:, 1, 0] - starts[:, 1] - 500).reshape(2, 42, 42)
    patches = np.stack([patch_of(grey, matrix, side=40) for matrix in to_image])
    # OpenCV rounds a few values the other way; some versions divide a pixel in 32 parts only.
    assert np.abs(read[:, 1:-1, 1:-1] - patches).max() <= 2
    read[:, 1:-1, 1:-1] = 0
    assert not read.any()  # beyond the patch


@needs_library
def test_a_fit_depends_on_no_other_and_not_on_threads(write: Callable[[bytes], Path]) -> None:
    model = CompiledShapePredictor(write(made_model(trees=100, depth=4, points=30).to_bytes()))
    grey, to_image = tiled(noise(5, 64, 64))
    starts = starts_made(37, patches=5, size=64)
    together = model.fit(grey, to_image, starts, patch_side=64)
    alone = np.concatenate(
        [model.fit(grey, to_image, start[None], patch_side=64) for start in starts]
    )
    assert np.array_equal(together, alone)
    for threads in (2, 5, 64, 1000):
        threaded = model.fit(grey, to_image, starts, patch_side=64, threads=threads)
        assert np.array_equal(threaded, together)
    # Views give the same.
    views = (grey[::-1, ::-1], to_image[::-1], starts[::-1])
    copies = [view.copy() for view in views]
    assert np.array_equal(model.fit(*views, patch_side=64), model.fit(*copies, patch_side=64))


@pytest.fixture(params=[pytest.param('compiled', marks=needs_library), 'dlib'])
def either(request: pytest.FixtureRequest, write: Callable[[bytes], Path]) -> ShapePredictor:
    """Return a model in the compiled library, and in dlib."""
    path = write(made_model().to_bytes())
    kind = CompiledShapePredictor if request.param == 'compiled' else DlibShapePredictor
    return kind(path)


def test_no_fits_are_no_points(either: ShapePredictor) -> None:
    starts = np.zeros((0, 5), np.int32)
    points = either.fit(noise(1, 9, 9)[0], np.zeros((0, 2, 3)), starts, patch_side=9)
    assert points.shape == (0, 5, 2)


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ({'grey': np.zeros((1, 9, 9), np.uint8)}, 'grey'),
        ({'grey': np.zeros((9, 9))}, 'uint8'),
        ({'grey': np.zeros((0, 9), np.uint8)}, 'grey'),
        ({'grey': np.broadcast_to(np.uint8(0), (2**16, 2**15))}, 'fewer'),
        ({'to_image': np.zeros((2, 3))}, 'to_image'),
        ({'to_image': np.zeros((1, 2, 3), np.float32)}, 'float64'),
        ({'starts': np.zeros((1, 4), np.int32)}, 'starts'),
        ({'starts': np.zeros((1, 5))}, 'int32'),
        ({'starts': np.array([(1, 0, 0, 8, 8)], np.int32)}, 'there are 1'),
        ({'starts': np.array([(-1, 0, 0, 8, 8)], np.int32)}, 'there are 1'),
        ({'patch_side': 0}, 'patch_side'),
        ({'patch_side': 2**31}, 'patch_side'),
        ({'threads': 0}, 'threads'),
    ],
)
def test_wrong_arguments_are_refused(
    either: ShapePredictor, arguments: dict[str, object], said: str
) -> None:
    right: dict[str, object] = {
        'grey': np.zeros((9, 9), np.uint8),
        'to_image': np.eye(2, 3)[None],
        'starts': np.array([(0, 0, 0, 8, 8)], np.int32),
        'patch_side': 9,
    }
    with pytest.raises(ValueError, match=said):
        either.fit(**{**right, **arguments})  # type: ignore[arg-type]


def test_the_largest_numbers_do_no_harm(either: ShapePredictor) -> None:
    ends = [-(2**31), 2**31 - 1]
    starts = np.array([(0, a, b, c, d) for a in ends for b in ends for c in ends for d in ends])
    points = either.fit(*tiled(noise(1, 9, 9)), starts.astype(np.int32), patch_side=9)
    assert np.isfinite(points).all()


@needs_library
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, 1e300, -1e300])
def test_matrices_that_lead_nowhere_do_no_harm(
    write: Callable[[bytes], Path], value: float
) -> None:
    model = CompiledShapePredictor(write(made_model().to_bytes()))
    starts = starts_made(50, patches=1, size=9)
    for place in range(6):
        to_image = np.eye(2, 3)[None]
        to_image.flat[place] = value
        assert np.isfinite(model.fit(noise(1, 9, 9)[0], to_image, starts, patch_side=9)).all()


# Damaged files

WHOLE = made_model()
TREE = WHOLE.forests[0][0]


@needs_library
@pytest.mark.parametrize(
    ('model', 'said'),
    [
        (replace(WHOLE, version=2), 'version'),
        (replace(WHOLE, mean=[]), 'no points'),
        (replace(WHOLE, mean=WHOLE.mean[:-1]), 'no points'),
        (replace(WHOLE, mean=[float('nan')] * 10), 'infinite or no number'),
        (replace(WHOLE, mean=[1e30] * 10), 'far outside'),
        (WHOLE.with_tree([(0, 20, 0.0)] * 3, TREE[1]), 'pixel'),
        (WHOLE.with_tree([(5000, 0, 0.0)] * 3, TREE[1]), 'pixel'),
        (WHOLE.with_tree([(0, -1, 0.0)] * 3, TREE[1]), 'pixel'),
        (WHOLE.with_tree(TREE[0][:-1], TREE[1]), 'equally deep|not complete'),
        (WHOLE.with_tree([], TREE[1][:1]), 'not complete'),
        (WHOLE.with_tree(TREE[0], TREE[1][:-1]), 'leaves'),
        (WHOLE.with_tree(TREE[0], [leaf[:-2] for leaf in TREE[1]]), 'points'),
        (WHOLE.with_tree(TREE[0], [[float('inf')] * 10] * 4), 'infinite'),
        (replace(WHOLE, anchors=[[5] * 20] * 2), 'point'),
        (replace(WHOLE, anchors=WHOLE.anchors[:1]), 'forests'),
        (replace(WHOLE, anchors=[[], []]), 'pixel'),
        (replace(WHOLE, deltas=WHOLE.deltas[:1]), 'forests'),
        (replace(WHOLE, deltas=[deltas[:-1] for deltas in WHOLE.deltas]), 'offsets'),
    ],
)
def test_a_model_that_does_not_fit_together_is_refused(
    write: Callable[[bytes], Path], model: MadeModel, said: str
) -> None:
    with pytest.raises(ValueError, match=rf'model\.dat.*({said})'):
        CompiledShapePredictor(write(model.to_bytes()))


@needs_library
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_refused_or_a_model(
    write: Callable[[bytes], Path], data: st.DataObject
) -> None:
    content = bytearray(WHOLE.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = write(bytes(content[: data.draw(st.integers(0, len(content)))] +
                       data.draw(st.binary(max_size=20))))
    try:
        model = CompiledShapePredictor(path)
    except ValueError as error:
        assert 'damaged' in str(error) and 'memory' not in str(error)
        return
    starts = starts_made(8, patches=1, size=20)
    points = model.fit(*tiled(noise(1, 20, 20)), starts, patch_side=20)
    assert np.isfinite(points).all()


def run_limited(program: str, *arguments: str) -> None:
    """Run a program in a process of its own that may take 64 MiB more than NumPy and dlib do."""
    start = """
import resource, sys
from pathlib import Path
from fer_perception.faces.shape_predictor import CompiledShapePredictor
def memory():
    return int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (memory() + 2**26,) * 2)
"""
    subprocess.run([sys.executable, '-c', start + program, *arguments], check=True, timeout=300)


needs_limits = pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='this system cannot limit memory'
)


@needs_library
@needs_limits
def test_no_truncated_file_and_no_size_in_one_takes_memory(
    write: Callable[[bytes], Path], tmp_path: Path
) -> None:
    large = tmp_path / 'large.dat'
    # Sizes as large as the reader believes, with nothing behind them, then larger ones.
    column, forests = b'\x82\x00\x20\x81\x01', b'\x02\xe8\x03'
    large.write_bytes(b'\x01\x01' + column + b'\x01\x00\x01\x00' * 8192 + forests +
                      b'\x03\xa0\x86\x01' + b'\x02\xff\x0f')
    huge = tmp_path / 'huge.dat'
    huge.write_bytes(b'\x01\x01' + b'\x88' + b'\xff' * 7 + b'\x3f\x81\x01')
    run_limited("""
path, whole, others = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes(), sys.argv[2:]
CompiledShapePredictor(path)
def is_refused(path):
    try:
        CompiledShapePredictor(path)
    except ValueError as error:
        return 'damaged' in str(error) and 'memory' not in str(error)
    return False
for length in range(0, len(whole), 3):
    path.write_bytes(whole[:length])
    assert is_refused(path), length
path.write_bytes(whole + b'0')
assert is_refused(path)
for other in others:
    assert is_refused(Path(other)), other
""", str(write(WHOLE.to_bytes())), str(large), str(huge))


@needs_library
@needs_limits
def test_models_that_are_gone_leave_no_memory(write: Callable[[bytes], Path]) -> None:
    # Each takes 40 KiB: without the memory of those before, the limit would be reached.
    whole = str(write(made_model(trees=50).to_bytes()))
    damaged = Path(whole).with_name('damaged.dat')
    damaged.write_bytes(Path(whole).read_bytes()[:-1])
    run_limited("""
import numpy as np
grey, to_image = np.zeros((9, 9), np.uint8), np.eye(2, 3)[None]
starts = np.zeros((50, 5), np.int32)
for _ in range(4000):
    model = CompiledShapePredictor(Path(sys.argv[1]))
    model.fit(grey, to_image, starts, patch_side=9, threads=2)
    try:
        CompiledShapePredictor(Path(sys.argv[2]))
    except ValueError:
        pass
""", whole, str(damaged))


# Without the library


@pytest.mark.parametrize('damaged', [False, True])
def test_without_the_library_dlib_fits(
    write: Callable[[bytes], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damaged: bool,
) -> None:
    path = write(made_model().to_bytes())
    library = tmp_path / f'_shape_predictor{sysconfig.get_config_var("EXT_SUFFIX")}'
    if damaged:
        library.write_bytes(b'not a library')
    monkeypatch.setattr(shape_predictor, '__file__', str(tmp_path / 'shape_predictor.py'))
    shape_predictor._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not native_is_available()
            assert isinstance(open_shape_predictor(path), DlibShapePredictor)
        assert (str(library) in caplog.text) == damaged
        with pytest.raises(RuntimeError, match='compiled'):
            CompiledShapePredictor(path)
    finally:
        shape_predictor._library.cache_clear()
