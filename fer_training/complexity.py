# SPDX-License-Identifier: Apache-2.0
"""How much a recogniser costs, whatever it runs on: parameters and operations (FLOPs).

Wadhawan and Gandhi, "Landmark-Aware and Part-based Ensemble Transfer Learning Network for Facial
Expression Recognition from Static images", section IV-E: an addition and a multiplication are two
operations, and only convolutions (7), dense layers (8) and max pooling (9) count; batch norms are
folded into the convolutions, activations and average pooling neglected. Beyond the paper:

- Convolutions with a stride count their input map's width and height divided by it, as (9) does.
- Recurrent layers count as the dense layers that their weights are, in every step.
- Products of matrices (attention, graphs) count as (8): twice the values that are multiplied.

Shapes: N sequences, T frames of each, H x W pixels, C channels or classes, E edges.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.pst_bln import PstBlnConfig

BYTES_PER_VALUE = 4  # float32
MATRIX_PRODUCTS = {  # what `a @ b` and its other names become
    torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__
}


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Count operations (FLOPs) by what they are for."""

    convolution: int = 0  # equation 7
    dense: int = 0  # equation 8
    pooling: int = 0  # equation 9
    recurrent: int = 0
    products: int = 0  # of matrices, in attention and graphs

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, item.name) for item in fields(self))

    @property
    def convolution_share(self) -> float:
        """The share that convolutions have in all of them, 0 to 1."""
        return self.convolution / self.total if self.total else 0.0

    def __add__(self, other: 'Operations') -> 'Operations':
        """Add the counts kind by kind."""
        return self._by_kind(lambda name: getattr(self, name) + getattr(other, name))

    def times(self, factor: int) -> 'Operations':
        """Count everything so many times."""
        return self._by_kind(lambda name: factor * getattr(self, name))

    def _by_kind(self, count: Callable[[str], int]) -> 'Operations':
        return Operations(**{item.name: count(item.name) for item in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """What an image recogniser costs."""

    parameters: int  # that answers need
    statistics: int  # running means and variances of its batch norms, which Keras counts too
    frames: int  # of a sequence, T
    frame: Operations  # that the features of one frame take
    answer: Operations  # that one answer takes, once the features of its frames are there

    @property
    def stored_values(self) -> int:
        """Parameters and running statistics."""
        return self.parameters + self.statistics

    @property
    def stored_bytes(self) -> int:
        """The memory of all of them in float32, bytes."""
        return BYTES_PER_VALUE * self.stored_values

    @property
    def new_frame(self) -> Operations:
        """What a stream pays for a new frame: its features, and an answer."""
        return self.frame + self.answer

    @property
    def sequence(self) -> Operations:
        """What one sequence takes from its images to the answer."""
        return self.frame.times(self.frames) + self.answer


def measure_complexity(network: ImageNetwork) -> Complexity:
    """Measure an image recogniser by running it on one black sequence."""
    device = next(network.parameters()).device
    size = network.image_size
    image = torch.zeros(1, 3, size, size, device=device)
    features = torch.zeros(1, network.frames, network.feature_size, device=device)
    return Complexity(
        parameters=network.parameter_count(),
        statistics=count_statistics(network),
        frames=network.frames,
        frame=count_operations(network, lambda: network.frame_features(image)),
        answer=count_operations(network, lambda: network.random_part(features)),
    )


def count_statistics(network: nn.Module) -> int:
    """Count the running means and variances of the batch norms."""
    return sum(
        buffer.numel()
        for name, buffer in network.named_buffers()
        if name.endswith(('running_mean', 'running_var'))
    )


def count_operations(network: nn.Module, run: Callable[[], object]) -> Operations:
    """Count the operations of a network's modules, and all products of matrices, while it runs.

    It runs in evaluation mode, without gradients; afterwards all is as it was before.
    """
    counter = _Counter()
    with _evaluation_mode(network), counter.watching(network), torch.no_grad():
        run()
    return Operations(**{name: round(count) for name, count in counter.counts.items()})


def pst_bln_operations(config: PstBlnConfig, *, samples: int) -> Operations:
    """Count what a stream of PST-BLN computes for one new frame, on average.

    samples: Monte Carlo samples, 0 for dropout turned off. What lies before the first dropout is
    computed once for all of them. In each layer U counts as products, R and W, the temporal
    convolution and the outer residual as convolutions; where there are fewer channels out than
    in, U comes last (see inference/folding.py). Layers behind strides run in some frames only.
    Raises ValueError for a network that cannot stream.
    """
    if config.padding != 'causal' or not config.window:
        raise ValueError("only a network with padding 'causal' and a window streams")
    streams = max(samples, 1)
    shared_layers = 1 if config.dropout_position == 'after' else 0
    counts = {'convolution': 0.0, 'products': 0.0}
    in_channels, due = config.in_channels, 1.0  # share of the frames that reach a layer
    for index, (channels, stride) in enumerate(zip(config.channels, config.strides, strict=True)):
        own = (1 if index < shared_layers else streams) * config.edges
        narrow = min(in_channels, channels)  # channels that meet U
        counts['products'] += 2 * config.subsets * narrow * config.edges * own * due
        counts['convolution'] += 2 * (1 + config.subsets) * in_channels * channels * own * due
        due /= stride
        counts['convolution'] += 2 * config.kernel_size * channels**2 * own * due
        if index or config.first_outer_residual:
            counts['convolution'] += 2 * in_channels * channels * own * due
        in_channels = channels
    return Operations(
        **{name: round(count) for name, count in counts.items()},
        dense=2 * in_channels * config.classes * streams,
    )


class _Counter(TorchFunctionMode):
    """Counts operations of the modules it watches, and of all products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {item.name: 0.0 for item in fields(Operations)}

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Count everything that is computed meanwhile."""
        hooks = [module.register_forward_hook(self._add) for module in network.modules()]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count a product of matrices: each value of the result is a sum over a row."""
        result = func(*args, **(kwargs or {}))
        if func in MATRIX_PRODUCTS:
            self.counts['products'] += 2 * result.numel() * args[0].shape[-1]
        return result

    def _add(self, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        given = inputs[0]
        if isinstance(module, nn.Conv2d):
            height, width = _strided(given, module.stride)
            values = module.weight.numel()  # C_i k^2 C_o
            self.counts['convolution'] += 2 * len(given) * values * height * width
        elif isinstance(module, nn.Linear):
            rows = given.numel() // module.in_features
            self.counts['dense'] += 2 * rows * module.in_features * module.out_features
        elif isinstance(module, nn.MaxPool2d):
            height, width = _strided(given, module.stride)
            self.counts['pooling'] += len(given) * given.shape[1] * height * width
        elif isinstance(module, nn.RNNBase):
            steps = math.prod(given.shape[:-1])  # N T
            weights = sum(
                parameter.numel()
                for name, parameter in module.named_parameters()
                if name.startswith('weight')
            )
            self.counts['recurrent'] += 2 * steps * weights


def _strided(maps: Tensor, stride: int | tuple[int, ...]) -> tuple[float, float]:
    """Return height and width of input maps (N, C, H, W), each divided by the stride."""
    down, across = (stride, stride) if isinstance(stride, int) else stride
    return maps.shape[2] / down, maps.shape[3] / across


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
