# SPDX-License-Identifier: Apache-2.0
"""A larger network inherits every tensor of the smaller one, batch norm statistics included."""

import pytest
import torch
from models_made import small_network

from fer_perception.models.pst_bln import Projection, PstBln
from fer_training.carry_over import carry_over


def grown(
    before: tuple[int, ...], after: tuple[int, ...], *, subsets: int = 1
) -> tuple[PstBln, PstBln]:
    settings = {'window': 0, 'subsets': subsets, 'input_norm': True, 'edges': 12}
    smaller = small_network(seed=1, channels=before, **settings)
    larger = small_network(seed=2, channels=after, **settings)
    carry_over(smaller, larger)
    return smaller, larger


@pytest.mark.parametrize('subsets', [1, 3])
@pytest.mark.parametrize(
    ('before', 'after'),
    [((5,), (10,)), ((5,), (5, 5)), ((5, 5), (5, 10)), ((10, 5), (10, 5, 5)), ((3,), (3, 7))],
)
def test_every_old_tensor_fills_its_corner(
    before: tuple[int, ...], after: tuple[int, ...], subsets: int
) -> None:
    smaller, larger = grown(before, after, subsets=subsets)
    old, new = smaller.state_dict(), larger.state_dict()
    assert any(name.endswith('running_var') for name in old)
    for name, tensor in old.items():
        corner = tuple(map(slice, tensor.shape))
        assert torch.equal(new[name][corner], tensor), name


def test_what_is_new_keeps_its_random_start() -> None:
    fresh = small_network(seed=2, channels=(10,), window=0, input_norm=True, edges=12)
    _, larger = grown((5,), (10,))
    for name in ('layers.0.mixing.0.weight', 'layers.0.temporal.weight'):
        assert torch.equal(larger.state_dict()[name][5:], fresh.state_dict()[name][5:])


def test_old_layers_compute_what_they_did_when_a_layer_is_added() -> None:
    smaller, larger = grown((6, 4), (6, 4, 5))
    features = torch.randn(2, 2, 7, 12)
    with torch.no_grad():
        for layer in (0, 1):
            inputs = [network._normalize_input(features) for network in (smaller, larger)]
            for index in range(layer + 1):
                inputs = [
                    network.layers[index](x)
                    for network, x in zip((smaller, larger), inputs, strict=True)
                ]
            assert torch.equal(*inputs)


def test_a_projection_in_place_of_an_identity_starts_as_the_identity() -> None:
    _, larger = grown((5, 5), (5, 10))
    for module in (larger.layers[1].spatial_residual, larger.layers[1].outer_residual):
        assert isinstance(module, Projection)
        features = torch.randn(1, 5, 3, 12)
        with torch.no_grad():
            kept = module[0](features)[:, :5]
        torch.testing.assert_close(kept, features)


def test_an_identity_takes_the_place_of_a_projection_when_widths_agree() -> None:
    smaller, larger = grown((10, 5), (10, 10))
    assert isinstance(smaller.layers[1].outer_residual, Projection)
    assert isinstance(larger.layers[1].outer_residual, torch.nn.Identity)
    left_over = smaller.state_dict().keys() - larger.state_dict().keys()
    assert left_over and all('residual' in name for name in left_over)


def test_a_network_cannot_shrink_or_lose_layers() -> None:
    with pytest.raises(ValueError, match='shrink'):
        grown((10,), (5,))
    with pytest.raises(ValueError, match='no tensor'):
        grown((5, 5), (5,))
