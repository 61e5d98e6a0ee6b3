# SPDX-License-Identifier: Apache-2.0
"""The network has the published sizes, looks only where it may, and refuses nonsense."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from fer_perception.models.pst_bln import PstBln, PstBlnConfig


def small(**changes: object) -> PstBlnConfig:
    config = PstBlnConfig(channels=(4, 4, 6), classes=7, edges=12, window=5, kernel_size=5)
    return replace(config, **changes)  # type: ignore[arg-type]


def test_reference_variant_has_the_papers_parameter_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    grown = PstBln(
        PstBlnConfig.reference(channels=(15, 10, 15, 5, 5, 10), classes=7, edges=312)
    )
    assert grown.parameter_counts() == (10_750, 1_762_942)
    printed = capsys.readouterr().out
    assert '10,750' in printed and '1,762,942' in printed
    given = PstBlnConfig.reference(channels=(8, 16, 16, 32, 32, 64, 64), classes=7, edges=312)
    assert PstBln(given, quiet=True).parameter_counts()[0] == 132_351


def test_layer_computes_equation_1_and_both_residuals() -> None:
    torch.manual_seed(1)
    config = small(channels=(2, 3), strides=(), padding='same', window=0)
    network = PstBln(config, quiet=True).eval()
    layer: Any = network.layers[0]
    features = torch.randn(1, 2, 6, 12)
    with torch.no_grad():
        # One frame and one edge at a time, from the definition.
        bilinear = torch.zeros(1, 2, 6, 12)
        for t, e in product(range(6), range(12)):
            mixed = sum(layer.topology[0, e, s] * features[0, :, t, s] for s in range(12))
            weight = layer.mixing[0].weight[:, :, 0, 0]
            bilinear[0, :, t, e] = weight @ mixed + layer.mixing[0].bias
        spatial = torch.relu(layer.spatial_norm(bilinear) + features)
        temporal = torch.zeros(1, 2, 6, 12)
        for t, k in product(range(6), range(5)):
            if 0 <= t + k - 2 < 6:
                weight = layer.temporal.weight[:, :, k, 0]
                temporal[0, :, t] += weight @ spatial[0, :, t + k - 2]
        temporal += layer.temporal.bias[None, :, None, None]
        expected = torch.relu(layer.temporal_norm(temporal) + features)
        assert torch.allclose(layer(features), expected, atol=1e-5)


@pytest.mark.parametrize('strides', [(1, 1, 1), (1, 2, 1), (2, 2, 1)])
def test_causal_answers_over_time_equal_the_clips_cut_there(strides: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    network = PstBln(small(strides=strides), quiet=True).eval()
    clips = torch.randn(2, 2, 20, 12)
    stride = network.config.total_stride
    with torch.no_grad():
        over_time = network.logits_over_time(clips)
        assert over_time.shape == (2, -(-20 // stride), 7)
        for row in range(over_time.shape[1]):
            cut = network(clips[:, :, : row * stride + 1])
            assert torch.allclose(over_time[:, row], cut, atol=1e-5)


def test_an_answer_depends_on_its_receptive_field_only() -> None:
    torch.manual_seed(3)
    network = PstBln(small(), quiet=True).eval()
    assert network.config.receptive_field == 1 + 3 * 4
    seen = network.config.receptive_field + network.config.window - 1
    clip = torch.randn(1, 2, 40, 12)
    changed = clip.clone()
    changed[:, :, : 40 - seen] = 9.0
    with torch.no_grad():
        assert torch.allclose(network(clip), network(changed), atol=1e-6)
        changed[:, :, 40 - seen] = 9.0
        assert not torch.allclose(network(clip), network(changed), atol=1e-6)


@pytest.mark.parametrize('position', ['after', 'before'])
def test_parts_make_the_whole_and_the_first_draws_nothing(position: str) -> None:
    network = PstBln(small(dropout_position=position), quiet=True)
    network.eval()
    clip = torch.randn(3, 2, 9, 12)
    whole = network(clip)
    assert torch.equal(network.random_part(network.deterministic_part(clip)), whole)
    for dropout in network.dropouts:
        dropout.train()
    first = network.deterministic_part(clip)
    assert torch.equal(first, network.deterministic_part(clip))
    assert not torch.equal(network.random_part(first), network.random_part(first))
    assert (first.shape[1] == 2) == (position == 'before')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'channels': ()}, 'channels'),
        ({'channels': (4, 0)}, 'channels'),
        ({'strides': (1, 1)}, 'strides'),
        ({'dropout': 1.0}, 'dropout'),
        ({'padding': 'valid'}, 'padding'),
        ({'dropout_position': 'between'}, 'dropout_position'),
        ({'dropout_masks': 'node'}, "channel or constant or feature_map, not 'node'"),
        ({'topology_init': 'zero'}, 'topology_init'),
        ({'window': -1}, 'window'),
        ({'subsets': 0}, 'subsets'),
        ({'padding': 'same', 'kernel_size': 4}, 'odd'),
    ],
)
def test_bad_configurations_are_refused_by_field(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_unknown_configuration_keys_are_refused() -> None:
    with pytest.raises(TypeError, match='blocks'):
        PstBlnConfig(channels=(4,), classes=7, edges=12, blocks=3)  # type: ignore[call-arg]


@pytest.mark.parametrize('shape', [(2, 9, 12), (1, 3, 9, 12), (1, 2, 9, 13)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='shape'):
        PstBln(small(), quiet=True)(torch.zeros(shape))
