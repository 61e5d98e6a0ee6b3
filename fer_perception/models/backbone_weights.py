# SPDX-License-Identifier: Apache-2.0
"""Published weights of VGG16-BN and ResNet50, read from a file and checked. Nothing is unpickled.

The files of ImageNet have torchvision's names. Those of VGGFace2's ResNet50 have them too
(converted to safetensors, if they are plain pickles), or the names of its Caffe model.
"""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fer_perception.models.resnet import RESNET50_BLOCKS, ResNet50
from fer_perception.models.tensor_file import ModelFileError, check_model_path, read_tensors
from fer_perception.models.vgg import Vgg16Bn

TORCH_SUFFIXES = ('.pth', '.pt', '.pkl')
WRAPPERS = ('state_dict', 'model')  # under which training programs keep the weights
PREFIX = 'module.'  # of networks that were trained on several devices
SHOWN = 3  # names in a message

# Of the crops 0..1 that VGGFace2's networks from Caffe read, which take 0..255 less the mean
VGGFACE2_MEAN = (131.0912 / 255, 103.8827 / 255, 91.4953 / 255)  # red, green, blue
VGGFACE2_DEVIATION = (1 / 255, 1 / 255, 1 / 255)

CAFFE_NAME = re.compile(
    r'conv(?P<layer>[2-5])_(?P<block>\d+)_(?P<part>1x1_reduce|3x3|1x1_increase|1x1_proj)'
    r'(?P<norm>_bn)?\.(?P<kind>\w+)'
)
CAFFE_PARTS = {'1x1_reduce': '1', '3x3': '2', '1x1_increase': '3'}
CAFFE_FIRST = 'conv1_7x7_s2.weight'


def load_vgg16_bn(path: Path, *, width: int = 64) -> Vgg16Bn:
    """Load a VGG16-BN with as many classes as its file has.

    Raises ModelFileError naming the file and what is wrong in it.
    """
    tensors = read_weights(path)
    classes = _classes(path, tensors, last_layer='classifier.6')
    with torch.device('meta'):
        network = Vgg16Bn(classes=classes, width=width)
    _fill(path, network, tensors)
    return network


def load_resnet50(
    path: Path,
    *,
    width: int = 64,
    blocks: tuple[int, int, int, int] = RESNET50_BLOCKS,
    caffe_layout: bool = False,
    bgr: bool = False,
) -> ResNet50:
    """Load a ResNet50 with as many classes as its file has.

    caffe_layout: see ResNet50; what such a network reads is normalised by VGGFACE2_MEAN and
    VGGFACE2_DEVIATION. bgr: the file's network reads blue, green and red; the one that is
    returned reads red, green and blue. Raises ModelFileError naming the file and what is wrong
    in it.
    """
    tensors = read_weights(path)
    if CAFFE_FIRST in tensors:
        if not caffe_layout:
            raise ModelFileError(
                f'{path} has weights of a network from Caffe: set caffe_layout for the network'
            )
        tensors = _without_caffe_names(tensors)
    classes = _classes(path, tensors, last_layer='fc')
    with torch.device('meta'):
        network = ResNet50(classes=classes, width=width, blocks=blocks, caffe_layout=caffe_layout)
    _fill(path, network, tensors)
    if bgr:
        with torch.no_grad():
            network.conv1.weight.copy_(network.conv1.weight.flip(1))
    return network


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a file, on the processor, without the usual wrappers.

    path: .safetensors, or .pth, .pt and .pkl as torch.save writes them. Raises ModelFileError
    for a file that is neither, or that would have to be unpickled.
    """
    check_model_path(path)
    if path.suffix == '.safetensors':
        content: Any = read_tensors(path).tensors
    elif path.suffix in TORCH_SUFFIXES:
        content = _read_torch(path)
    else:
        raise ModelFileError(
            f'{path} must be .safetensors, {", ".join(TORCH_SUFFIXES)}, not {path.suffix!r}'
        )
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise ModelFileError(f'{path} holds no named tensors')
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ModelFileError(f'{path} holds {name!r}, which is no tensor')
    if all(name.startswith(PREFIX) for name in content):
        content = {name[len(PREFIX) :]: tensor for name, tensor in content.items()}
    return dict(content)


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about plain pickles, of which the error tells more
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f'{path} does not hold tensors alone: to read it could run a program that it holds, '
            'and so it is refused. If you trust who made it, read it with Python once '
            "(pickle.load(file, encoding='latin1') for the published VGGFace2 files), and write "
            'its tensors with safetensors.torch.save_file'
        ) from error
    except Exception as error:  # a damaged file makes the reader fail in many ways
        raise ModelFileError(f'{path} is no readable file of PyTorch: {error}') from error


def _without_caffe_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of VGGFace2's ResNet50 from its Caffe names to torchvision's."""
    renamed = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition('.')
        if stem == 'classifier':
            renamed[f'fc.{kind}'] = tensor.flatten(1) if kind == 'weight' else tensor
        elif stem in ('conv1_7x7_s2', 'conv1_7x7_s2_bn'):
            renamed[f'{"bn1" if stem.endswith("_bn") else "conv1"}.{kind}'] = tensor
        elif match := CAFFE_NAME.fullmatch(name):
            if match['part'] == '1x1_proj':
                place = f'downsample.{1 if match["norm"] else 0}'
            else:
                place = f'{"bn" if match["norm"] else "conv"}{CAFFE_PARTS[match["part"]]}'
            block = f'layer{int(match["layer"]) - 1}.{int(match["block"]) - 1}'
            renamed[f'{block}.{place}.{match["kind"]}'] = tensor
        else:
            renamed[name] = tensor
    return renamed


def _classes(path: Path, tensors: dict[str, Tensor], *, last_layer: str) -> int:
    weight = tensors.get(f'{last_layer}.weight')
    if weight is None or weight.ndim != 2 or not weight.shape[0]:
        raise ModelFileError(
            f'{path} has no last layer {last_layer}.weight of shape (classes, features); its '
            f'first tensors are {_shown(list(tensors))}'
        )
    return weight.shape[0]


def _fill(path: Path, network: Vgg16Bn | ResNet50, tensors: dict[str, Tensor]) -> None:
    """Give a network on the meta device the tensors of a file, strictly.

    Files older than PyTorch 0.4.1 do not count batches; that is filled in.
    """
    expected = network.state_dict()
    tensors = dict(tensors)
    for name, wanted in expected.items():
        if name.endswith('.num_batches_tracked'):
            tensors[name] = tensors.get(name, torch.zeros((), dtype=torch.int64))
        elif name in tensors and tensors[name].is_floating_point():
            tensors[name] = tensors[name].to(wanted.dtype)
    problems = []
    if missing := [name for name in expected if name not in tensors]:
        problems.append(f'it lacks {_shown(missing)}')
    if unknown := [name for name in tensors if name not in expected]:
        problems.append(f'it has besides {_shown(unknown)}')
    wrong = [
        f'{name} {tuple(tensors[name].shape)} for {tuple(wanted.shape)}'
        for name, wanted in expected.items()
        if name in tensors and tensors[name].shape != wanted.shape
    ]
    if wrong:
        problems.append(f'of wrong shape are {_shown(wrong)}')
    if problems:
        kind = type(network).__name__
        raise ModelFileError(f'{path} is of another network than {kind}: {"; ".join(problems)}')
    for name, wanted in expected.items():
        if tensors[name].dtype != wanted.dtype or not torch.isfinite(tensors[name]).all():
            raise ModelFileError(f'{path} holds no finite numbers in {name}')
    network.load_state_dict(tensors, strict=True, assign=True)


def _shown(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ', '.join(names[:SHOWN]) + (f' and {more} more' if more > 0 else '')
