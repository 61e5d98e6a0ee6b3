# SPDX-License-Identifier: Apache-2.0
"""A saved model loads exactly; anything else than a whole, matching file is refused by name."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_made import description_of, small_network
from safetensors import safe_open
from safetensors.torch import save_file

from fer_perception.models.dropout import MASK_KINDS
from fer_perception.models.model_file import (
    LoadedModel,
    ModelDescription,
    description_from_metadata,
    description_to_metadata,
    load_model,
    save_model,
)
from fer_perception.models.tensor_file import ModelFileError
from fer_perception.pipeline import SHIPPED_FILE

Change = Callable[[dict[str, torch.Tensor], dict[str, str]], Any]


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('models') / 'model.safetensors'
    network = small_network()
    save_model(path, network, description_of(network, training={'data': 'none', 'f1': 0.5}))
    return path


def rewritten(saved: Path, folder: Path, change: Change) -> Path:
    with safe_open(saved, framework='pt') as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    path = folder / 'changed.safetensors'
    save_file(tensors, path, metadata=metadata)
    return path


def test_save_then_load_is_exact(saved: Path) -> None:
    network = small_network()
    loaded = load_model(saved)
    assert loaded.description == description_of(network, training={'data': 'none', 'f1': 0.5})
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name
    clip = torch.randn(2, 2, 9, 181)
    with torch.no_grad():
        assert torch.equal(loaded.network(clip), network(clip))
    assert not any(module.training for module in loaded.network.modules())


@pytest.mark.parametrize('name', ['small', 'shipped'])
def test_the_same_content_is_the_same_file_to_the_byte(
    name: str, saved: Path, tmp_path: Path
) -> None:
    path = saved if name == 'small' else SHIPPED_FILE
    loaded = load_model(path)
    for again in ('one', 'two'):
        save_model(tmp_path / again, loaded.network, loaded.description)
        assert (tmp_path / again).read_bytes() == path.read_bytes()


def test_the_shipped_model_loads_and_describes_itself(shipped_model: LoadedModel) -> None:
    description = shipped_model.description
    assert description.classes == (
        'neutral', 'anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise'
    )
    assert description.network.padding == 'causal' and description.network.window > 0
    assert description.training['calibration']['temperature'] == description.temperature
    assert description.baseline_s > 0
    assert description.licence


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t, m: t.pop('head.weight'), 'missing: head.weight'),
        (lambda t, m: t.update(extra=torch.zeros(1)), 'unknown: extra'),
        (lambda t, m: t.update({'head.bias': torch.zeros(8)}), 'head.bias'),
        (lambda t, m: t.update({'head.bias': torch.zeros(7).double()}), 'float64'),
        (lambda t, m: t.update({'head.bias': torch.full((7,), torch.nan)}), 'not finite'),
        (lambda t, m: m.update(format_version='1'), 'format_version is 1'),
        (lambda t, m: m.update(format_version='3'), 'format_version is 3'),
        (lambda t, m: m.pop('format_version'), 'format_version is None'),
        (lambda t, m: m.update(architecture='"cnn"'), "'cnn'"),
        (lambda t, m: m.update(colour='"red"'), 'unknown fields: colour'),
        (lambda t, m: m.pop('edge_list'), 'lacks fields: edge_list'),
        (lambda t, m: m.update(classes='["a", "b"]'), 'classes'),
        (lambda t, m: m.update(classes='{not json'), "'classes' is no JSON"),
        (lambda t, m: m.update(frame_rate='"fast"'), 'frame_rate'),
        (lambda t, m: m.update(frame_rate='-30.0'), 'frame_rate'),
        (lambda t, m: m.update(frame_rate='NaN'), 'frame_rate'),
        (lambda t, m: m.update(clip_frames='1.5'), 'clip_frames must be int'),
        (lambda t, m: m.update(temperature='NaN'), 'temperature'),
        (lambda t, m: m.update(baseline_s='-1.0'), 'baseline_s must be 0 or more'),
        (lambda t, m: m.update(baseline_s='10.0'), '4 in_channels, not 2'),
        (lambda t, m: m.update(edge_list='[[17, 18]]'), '1 edges'),
        (lambda t, m: m.update(edge_list='[[1, 2], [3]]'), 'edge_list must hold pairs'),
        (lambda t, m: m.update(edge_list='7'), 'edge_list must be list'),
        (lambda t, m: m.update(edge_list='[[17, "x"]]'), 'edge_list must be int'),
        (lambda t, m: m.update(network='[]'), "'network'"),
        (lambda t, m: change_network(m, blocks=3), 'unknown fields: blocks'),
        (lambda t, m: change_network(m, dropout=2.0), 'dropout'),
        (lambda t, m: change_network(m, dropout_masks='node'), "dropout_masks .* not 'node'"),
        (lambda t, m: change_network(m, dropout_masks=1), 'dropout_masks must be str'),
        (lambda t, m: drop_from_network(m, 'dropout_masks'), 'lacks fields: dropout_masks'),
        (lambda t, m: change_network(m, channels=[4, 'x']), 'channels'),
        (lambda t, m: change_network(m, kernel_size=True), 'kernel_size'),
        (lambda t, m: m.update(classes='[' * 100_000), "'classes' is no JSON"),
        (lambda t, m: m.update(clip_frames='1' * 5000), 'clip_frames'),
        (lambda t, m: m.update(temperature='1' + '0' * 400), 'temperature is too large'),
        (lambda t, m: m.update(warm_up_s='Infinity'), 'warm_up_s must be finite, not inf'),
        (lambda t, m: m.update(frame_rate='1e300'), 'frame_rate is 1e\\+300'),
        (lambda t, m: m.update(training='"none"'), 'training must be dict'),
        (lambda t, m: m.update(licence='"' + 'x' * (1 << 20) + '"'), 'at most 1048576 are read'),
        (lambda t, m: m.update(edge_list=f'[[{10**30}, 18]]'), 'edge list must hold'),
        (lambda t, m: change_network(m, channels=[4] * 101, strides=[1] * 101), 'layers 101'),
        (lambda t, m: change_network(m, channels=[4, 10**20]), 'channels 1000'),
        (lambda t, m: change_network(m, subsets=101), 'subsets 101, at most 100'),
        (lambda t, m: change_network(m, strides=[1, 10**9]), 'strides 1000000000'),
        (lambda t, m: change_network(m, window=10**12), 'window 1000000000000'),
        (lambda t, m: change_network(m, kernel_size=10_000), 'remembers 14480035 numbers'),
    ],
)
def test_every_defect_is_refused_by_name(
    saved: Path, tmp_path: Path, change: Change, message: str
) -> None:
    path = rewritten(saved, tmp_path, change)
    with pytest.raises(ModelFileError, match=message) as refusal:
        load_model(path)
    assert path.name in str(refusal.value)


def change_network(metadata: dict[str, str], **values: object) -> None:
    metadata['network'] = json.dumps(json.loads(metadata['network']) | values)


def drop_from_network(metadata: dict[str, str], name: str) -> None:
    network = json.loads(metadata['network'])
    del network[name]
    metadata['network'] = json.dumps(network)


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_every_kind_of_masks_comes_back(kind: str, tmp_path: Path) -> None:
    network = small_network(dropout_masks=kind)
    save_model(tmp_path / 'model', network, description_of(network))
    loaded = load_model(tmp_path / 'model')
    assert loaded.network.config == network.config
    assert {dropout.kind for dropout in loaded.network.dropouts} == {kind}


def test_pickles_truncated_and_missing_files_are_refused(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    for name, data in (
        ('pickle', pickle.dumps({'head.weight': [1.0]})),
        ('truncated', whole[: len(whole) // 2]),
        ('empty', b''),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=name):
            load_model(path)
    with pytest.raises(ModelFileError, match='does not exist'):
        load_model(tmp_path / 'nowhere')


def test_files_in_disguise_are_refused_and_not_run(saved: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / 'sprung',)

    trap: Any = Trap()
    torch.save({'head.weight': torch.zeros(1), 'trap': trap}, tmp_path / 'torch.safetensors')
    np.save(tmp_path / 'array.npy', np.array([trap], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / 'archive.safetensors', 'w') as archive:
        archive.write(saved, 'model.safetensors')
    (tmp_path / 'pickle.safetensors').write_bytes(pickle.dumps(trap))
    (tmp_path / 'folder.safetensors').mkdir()
    for path in list(tmp_path.iterdir()):
        with pytest.raises(ModelFileError, match=path.name):
            load_model(path)
    assert not (tmp_path / 'sprung').exists()


def test_a_file_that_is_too_large_is_not_read(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / 'large.safetensors'
    path.write_bytes(saved.read_bytes())
    os.truncate(path, (1 << 30) + 1)  # takes no room
    with pytest.raises(ModelFileError, match='large.safetensors .* at most 1073741824 are read'):
        load_model(path)


MEMORY_OF_LOADING = """
import re, sys
from pathlib import Path
from fer_perception.models.model_file import load_model
from fer_perception.models.tensor_file import ModelFileError

def most_memory():
    return int(re.search(r'VmHWM:\\s+([0-9]+) kB', Path('/proc/self/status').read_text())[1])

before = most_memory()
try:
    load_model(Path(sys.argv[1]))
except ModelFileError as error:
    print('missing' in str(error), most_memory() - before)
"""


def test_tensors_that_are_not_in_the_file_take_no_memory(saved: Path, tmp_path: Path) -> None:
    def claim(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        tensors.clear()
        change_network(metadata, edges=5000, channels=[1, 1], kernel_size=1)  # U: 200 MB
        metadata['edge_list'] = json.dumps([[17, 18]] * 5000)

    path = rewritten(saved, tmp_path, claim)
    output = subprocess.run(
        [sys.executable, '-c', MEMORY_OF_LOADING, str(path)],
        capture_output=True, text=True, check=True,
    ).stdout
    is_refused, grown_kb = output.split()
    assert is_refused == 'True' and int(grown_kb) < 100_000


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.sampled_from([10**400, -(2**63), 0, 181]),
        st.floats(), st.text(max_size=5), st.sampled_from(['causal', 'similarity', 'element']),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(data=st.data(), value=json_values)
def test_fields_of_any_kind_are_a_description_or_refused(
    saved: Path, data: st.DataObject, value: Any
) -> None:
    with safe_open(saved, framework='pt') as file:
        metadata = dict(file.metadata())
    network = json.loads(metadata['network'])
    name = data.draw(st.sampled_from([*metadata, *(f'network.{name}' for name in network)]))
    if name.startswith('network.'):
        change_network(metadata, **{name.removeprefix('network.'): value})
    else:
        metadata[name] = json.dumps(value)
    try:
        description = description_from_metadata(metadata)
    except (ValueError, TypeError):
        return
    assert description_to_metadata(description).keys() == metadata.keys()


@settings(max_examples=300)
@given(
    places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4),
    values=st.lists(st.integers(0, 255), min_size=4, max_size=4),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_a_file_that_was_changed_anywhere_is_refused(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, places: list[float],
    values: list[int], kept: float,
) -> None:
    original = saved.read_bytes()
    data = bytearray(original)
    for place, value in zip(places, values, strict=False):
        data[int(place**4 * len(data))] = value  # the header is at the front
    data = data[: round(kept * len(data))]
    path = tmp_path_factory.getbasetemp() / 'changed.safetensors'
    path.write_bytes(data)
    if data.split() == original.split():  # nothing but blanks between the fields of the header
        return
    with pytest.raises(ModelFileError, match=path.name):
        load_model(path)


def test_every_bit_of_a_weight_counts(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    path = tmp_path / 'flipped.safetensors'
    for bit in range(8):
        data[-1] ^= 1 << bit
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match='the digest does not agree|not finite'):
            load_model(path)
        data[-1] ^= 1 << bit


def test_what_cannot_be_described_is_not_saved(tmp_path: Path) -> None:
    network = small_network()
    description = description_of(network)
    with pytest.raises(ValueError, match='another network'):
        save_model(tmp_path / 'a', small_network(channels=(3,)), description)
    with pytest.raises(ValueError, match='remembers .* at most'):
        save_model(tmp_path / 'a', small_network(kernel_size=3000), description)
    with torch.no_grad():
        network.head.bias[0] = torch.inf
    with pytest.raises(ValueError, match='head.bias'):
        save_model(tmp_path / 'a', network, description)
    assert not (tmp_path / 'a').exists()


def test_contradictions_in_a_description_are_refused() -> None:
    description = description_of(small_network())
    for field, value in (
        ('classes', ('a',) * 7),
        ('normalization', 'none'),
        ('normalization', 'track'),  # of clips only
        ('abstention_threshold', 1.5),
        ('warm_up_s', -1.0),
        ('clip_frames', 16),  # streams already, at its frame rate
        ('clip_sampling', 'random'),
        ('clip_displacement', 'last'),
        ('frame_rate', 0.0),
    ):
        values = {**vars(description), field: value}
        with pytest.raises(ValueError, match=field):
            ModelDescription(**values)
