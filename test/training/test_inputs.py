# SPDX-License-Identifier: Apache-2.0
"""What networks read: edge vectors or landmarks, and augmentation that keeps a face a face."""

import numpy as np
import pytest
import torch
from faces_made import face_landmarks
from torch import Tensor

from fer_perception.graph.baseline import Baseline
from fer_perception.graph.edges import edge_vectors, load_edge_list
from fer_perception.graph.landmarks import INNER_LANDMARKS, mirror_landmarks
from fer_perception.graph.normalization import normalize_landmarks
from fer_training.inputs import Augmentation, NetworkInput

EDGES = torch.from_numpy(load_edge_list())


def faces(count: int = 3, frames: int = 6) -> np.ndarray:
    return np.stack(
        [normalize_landmarks(face_landmarks(frames=frames, seed=seed)) for seed in range(count)]
    )


def features(landmarks: np.ndarray) -> Tensor:
    inner = landmarks[..., INNER_LANDMARKS, :].astype(np.float32)  # (N, T, 51, 2)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(inner, -1, 1)))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_edge_vectors_are_those_of_the_runtime() -> None:
    landmarks = faces()
    given = NetworkInput(edges=EDGES)(features(landmarks))
    expected = edge_vectors(landmarks, EDGES.numpy())
    np.testing.assert_allclose(given.numpy(), expected, atol=1e-6)


def test_without_edges_landmarks_pass_and_so_do_edge_vectors_with_them() -> None:
    points, vectors = features(faces()), torch.randn(2, 2, 4, 181)
    assert torch.equal(NetworkInput(edges=None)(points), points)
    assert torch.equal(NetworkInput(edges=EDGES)(vectors, generator()), vectors)
    with pytest.raises(ValueError, match='not of 312'):
        NetworkInput(edges=EDGES)(torch.zeros(1, 2, 3, 312))
    with pytest.raises(ValueError, match='not of 181'):
        NetworkInput(edges=None)(vectors)


def test_mirroring_is_that_of_landmarks_and_takes_about_half() -> None:
    landmarks = faces(40, 2)
    points = features(landmarks)
    mirrored = Augmentation()(points, generator())
    flipped = (mirrored != points).flatten(1).any(1)
    assert 10 < int(flipped.sum()) < 30
    expected = features(mirror_landmarks(landmarks))
    assert torch.equal(mirrored[flipped], expected[flipped])


def test_rotation_keeps_lengths_and_stretch_keeps_time() -> None:
    points = features(faces())
    turned = Augmentation(mirror=False, rotation=0.5)(points, generator())
    assert not torch.allclose(turned, points)
    assert torch.allclose(turned.norm(dim=1), points.norm(dim=1), atol=1e-5)
    stretched = Augmentation(mirror=False, stretch=0.2)(points, generator())
    ratio = (stretched / points).nan_to_num(nan=1.0)
    assert torch.allclose(ratio[:, :, :1, 1:2].expand_as(ratio)[:, 0, :, 1],
                          ratio[:, 0, :, 1], atol=1e-4)


def test_another_person_moves_as_this_one_does() -> None:
    points = features(faces(200))
    moved = Augmentation(mirror=False, person=0.1)(points, generator())
    shift = moved - points
    assert torch.allclose(shift[:, :, :1].expand_as(shift), shift, atol=1e-6)  # in all frames
    own = shift[:, :, 0]  # (N, 2, 51)
    assert float(own.std()) == pytest.approx(0.1 * (1 + 1 / 4) ** 0.5, rel=0.1)
    brow, nose = own[..., 0:5], own[..., 10:19]
    assert float(brow.mean(-1).std()) > 0.08  # a part moves as a whole, others otherwise
    assert abs(float((brow.mean(-1) * nose.mean(-1)).mean())) < 0.003


def test_parts_move_more_or_less_than_they_did_from_where_they_began() -> None:
    points = features(faces(200))
    moved = Augmentation(mirror=False, movement=0.3)(points, generator())
    assert torch.equal(moved[:, :, 0], points[:, :, 0])  # the person's own face at first
    before, after = points - points[:, :, :1], moved - points[:, :, :1]
    known = before.abs() > 1e-3
    logs = torch.where(known, (after / before).log(), torch.nan)
    assert not logs[known].isnan().any()  # nothing moves the other way
    for part in (slice(0, 10), slice(10, 19), slice(19, 31), slice(31, 51)):
        factors = logs[..., part].nanmedian(-1).values.nanmedian(-1).values  # (N, 2)
        spread = logs[..., part] - factors[:, :, None, None]
        assert float(spread[~spread.isnan()].abs().max()) < 0.02  # as a whole, in all frames
        assert float(factors.std()) == pytest.approx(0.3, rel=0.15)
    brows, mouth = (logs[..., part].nanmedian(-1).values.nanmedian(-1).values
                    for part in (slice(0, 10), slice(31, 51)))
    assert abs(float((brows * mouth).mean())) < 0.02  # each for itself


def test_cropping_in_time_keeps_the_order_and_the_range() -> None:
    ramp = torch.linspace(0, 1, 12)[None, None, :, None].expand(5, 2, 12, 51)
    cropped = Augmentation(mirror=False, time_crop=0.3)(ramp, generator())
    assert cropped.shape == ramp.shape
    assert (cropped.diff(dim=2) > 0).all()
    assert (cropped >= 0).all() and (cropped <= 1).all()
    assert (cropped[:, :, 0] > 0).any() and (cropped[:, :, -1] < 1).any()
    still = torch.ones(2, 2, 1, 51)  # clips of one frame have nothing to crop
    assert torch.equal(Augmentation(mirror=False, time_crop=0.3)(still, generator()), still)


def test_the_same_generator_gives_the_same_and_none_gives_no_augmentation() -> None:
    network_input = NetworkInput(
        edges=EDGES, augmentation=Augmentation(rotation=0.1, stretch=0.1, time_crop=0.1)
    )
    points = features(faces())
    first, again = (network_input(points, generator()) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(network_input(points), NetworkInput(edges=EDGES)(points))


@pytest.mark.parametrize(
    'bad',
    [{'rotation': -0.1}, {'stretch': -1.0}, {'person': -0.1}, {'movement': -0.1},
     {'time_crop': 0.5}, {'time_crop': -0.1}],
)
def test_values_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Augmentation(**bad)  # type: ignore[arg-type]


def test_a_network_sees_the_baseline_as_a_stream_does() -> None:
    points = features(faces(9))
    vectors = NetworkInput(edges=EDGES)(points)
    given = NetworkInput(edges=EDGES, baseline_frames=6)(points)
    assert given.shape == (len(points), 4, *vectors.shape[2:])
    for vector, result in zip(vectors, given, strict=True):
        np.testing.assert_array_equal(result, Baseline(frames=6).push(vector.numpy()))
