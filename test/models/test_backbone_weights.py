# SPDX-License-Identifier: Apache-2.0
"""Published weights load strictly whatever they are wrapped in, and damaged files say why not."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fer_perception.models.backbone_weights import load_resnet50, load_vgg16_bn, read_weights
from fer_perception.models.resnet import ResNet50
from fer_perception.models.tensor_file import ModelFileError
from fer_perception.models.vgg import Vgg16Bn

BLOCKS = (1, 2, 1, 1)
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))


def resnet(*, classes: int = 8631, caffe_layout: bool = False) -> ResNet50:
    torch.manual_seed(3)
    network = ResNet50(classes=classes, width=2, blocks=BLOCKS, caffe_layout=caffe_layout)
    network.train()(torch.rand(4, 3, 64, 64))  # so that the batch norms know something
    return network.eval()


def loaded(path: Path, **options: Any) -> ResNet50:
    return load_resnet50(path, width=2, blocks=BLOCKS, **options).eval()


def caffe_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of a ResNet50 as files converted from its Caffe model do."""
    parts = {'1': '1x1_reduce', '2': '3x3', '3': '1x1_increase'}
    renamed = {}
    for name, tensor in weights.items():
        stem, kind = name.rsplit('.', 1)
        if stem in ('conv1', 'bn1'):
            caffe = 'conv1_7x7_s2' + ('_bn' if stem == 'bn1' else '')
        elif stem == 'fc':
            caffe = 'classifier'
            tensor = tensor[:, :, None, None] if kind == 'weight' else tensor  # a 1x1 convolution
        else:
            layer, block, part = stem.split('.', 2)
            place = '1x1_proj' if part.startswith('downsample') else parts[part[-1]]
            norm = '_bn' if part.startswith('bn') or part.endswith('.1') else ''
            caffe = f'conv{int(layer[-1]) + 1}_{int(block) + 1}_{place}{norm}'
        renamed[f'{caffe}.{kind}'] = tensor
    return renamed


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.pt', '.pkl'])
def test_all_kinds_of_files_load_with_as_many_classes_as_they_have(
    tmp_path: Path, suffix: str
) -> None:
    network = resnet()
    path = tmp_path / f'weights{suffix}'
    if suffix == '.safetensors':
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    again = loaded(path)
    with torch.no_grad():
        assert again(IMAGES).shape == (2, 8631)
        assert torch.equal(again(IMAGES), network(IMAGES))
    assert all(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize('classes', [1000, 2622])
def test_vgg_files_load_with_as_many_classes_as_they_have(tmp_path: Path, classes: int) -> None:
    network = Vgg16Bn(classes=classes, width=2).eval()
    torch.save(network.state_dict(), tmp_path / 'vgg.pth')
    again = load_vgg16_bn(tmp_path / 'vgg.pth', width=2).eval()
    with torch.no_grad():
        assert torch.equal(again(IMAGES), network(IMAGES))


def test_usual_wrappers_prefixes_and_missing_counters_are_understood(tmp_path: Path) -> None:
    network = resnet()
    weights = {
        f'module.{name}': tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith('num_batches_tracked')
    }
    for wrapped in (
        {'state_dict': weights, 'epoch': 7, 'optimizer': {'lr': 0.1}},
        {'model': weights},
    ):
        torch.save(wrapped, tmp_path / 'wrapped.pth')
        again = loaded(tmp_path / 'wrapped.pth')
        with torch.no_grad():
            assert torch.equal(again(IMAGES), network(IMAGES))


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    network = resnet().half()
    torch.save(network.state_dict(), tmp_path / 'half.pth')
    again = loaded(tmp_path / 'half.pth')
    assert again.conv1.weight.dtype == torch.float32
    assert torch.equal(again.conv1.weight, network.conv1.weight.float())


def test_names_of_caffe_are_understood_in_its_layout_only(tmp_path: Path) -> None:
    network = resnet(caffe_layout=True)
    torch.save(caffe_names(network.state_dict()), tmp_path / 'caffe.pth')
    with torch.no_grad():
        again = loaded(tmp_path / 'caffe.pth', caffe_layout=True)
        assert torch.equal(again(IMAGES), network(IMAGES))
    with pytest.raises(ModelFileError, match=r'caffe\.pth has weights .* set caffe_layout'):
        loaded(tmp_path / 'caffe.pth')


def test_a_network_that_reads_blue_first_is_turned(tmp_path: Path) -> None:
    network = resnet()
    torch.save(network.state_dict(), tmp_path / 'bgr.pth')
    turned = loaded(tmp_path / 'bgr.pth', bgr=True)
    with torch.no_grad():
        assert torch.allclose(turned(IMAGES.flip(1)), network(IMAGES), atol=1e-4)
        assert not torch.allclose(turned(IMAGES), network(IMAGES), atol=1e-4)


class Trap:
    """Writes a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_what_needs_unpickling_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    sprung = tmp_path / 'sprung'
    torch.save({'conv1.weight': Trap(sprung)}, tmp_path / 'trap.pth')
    (tmp_path / 'plain.pkl').write_bytes(pickle.dumps({'conv1.weight': Trap(sprung)}))
    arrays = {name: tensor.numpy() for name, tensor in resnet().state_dict().items()}
    (tmp_path / 'resnet50_ft_weight.pkl').write_bytes(pickle.dumps(arrays))
    for name in ('trap.pth', 'plain.pkl', 'resnet50_ft_weight.pkl'):
        with pytest.raises(
            ModelFileError, match=f'{re.escape(name)} .*safetensors.torch.save_file'
        ):
            read_weights(tmp_path / name)
    assert not sprung.exists()


def test_other_networks_are_refused_by_the_first_names(tmp_path: Path) -> None:
    path = tmp_path / 'other.pth'

    def refused(weights: dict[str, Tensor], message: str) -> None:
        torch.save(weights, path)
        with pytest.raises(ModelFileError, match=rf'other\.pth .*{message}'):
            loaded(path)

    weights = resnet(classes=10).state_dict()
    lacking = {k: v for k, v in weights.items() if not k.startswith('layer1.0.conv')}
    first = r'layer1\.0\.conv1\.weight, layer1\.0\.conv2\.weight, layer1\.0\.conv3\.weight$'
    refused(lacking, f'ResNet50: it lacks {first}')
    refused({**weights, 'layer9.bias': torch.zeros(1)}, r'it has besides layer9\.bias$')
    refused(
        {**weights, 'bn1.bias': torch.zeros(5)}, r'wrong shape are bn1\.bias \(5,\) for \(2,\)'
    )
    refused({**weights, 'bn1.bias': torch.tensor([0, float('nan')])}, r'finite .* bn1\.bias')
    refused({**weights, 'bn1.bias': torch.zeros(2, dtype=torch.int32)}, r'finite .* bn1\.bias')
    refused({**weights, 'fc.weight': torch.zeros(10)}, r'no last layer fc\.weight')
    del weights['fc.weight']
    refused(weights, r'no last layer fc\.weight')
    refused(Vgg16Bn(width=2).state_dict(), r'no last layer .* features\.0\.weight')
    refused(ResNet50(classes=3, width=4, blocks=BLOCKS).state_dict(), r'wrong shape are .* more')
    deeper = ResNet50(classes=3, width=2, blocks=(1, 2, 1, 2))
    refused(deeper.state_dict(), r'besides layer4\.1\.conv1\.weight, .* and \d+ more')


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    whole = {}
    for suffix in ('.pth', '.safetensors'):
        path = tmp_path / f'whole{suffix}'
        if suffix == '.pth':
            torch.save(resnet(classes=3).state_dict(), path)
        else:
            save_file(resnet(classes=3).state_dict(), path)
        whole[suffix] = path.read_bytes()
    torch.save(resnet(classes=3).state_dict(), path, _use_new_zipfile_serialization=False)
    whole['.pt'] = path.read_bytes()
    for suffix, content in whole.items():
        path = tmp_path / f'damaged{suffix}'
        for damaged in (b'', content[:7], content[: len(content) // 2], b'no weights at all'):
            path.write_bytes(damaged)
            with pytest.raises(ModelFileError, match=f'damaged{suffix}'):
                loaded(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({}, 'holds no named tensors'),
        ([torch.zeros(1)], 'holds no named tensors'),
        (torch.zeros(3), 'holds no named tensors'),
        ({'epoch': 7}, "holds 'epoch', which is no tensor"),
        ({1: torch.zeros(1)}, 'holds 1, which is no tensor'),
        ({'state_dict': {}}, 'holds no named tensors'),
    ],
)
def test_files_without_named_tensors_are_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / 'file.pth')
    with pytest.raises(ModelFileError, match=message):
        read_weights(tmp_path / 'file.pth')


def test_missing_files_and_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match='does not exist'):
        read_weights(tmp_path / 'nowhere.pth')
    (tmp_path / 'weights.onnx').write_bytes(b'onnx')
    with pytest.raises(ModelFileError, match=r"weights\.onnx must be .* not '\.onnx'"):
        read_weights(tmp_path / 'weights.onnx')
