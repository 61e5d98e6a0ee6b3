# SPDX-License-Identifier: Apache-2.0
"""Choose what runs a streaming network: PyTorch or ONNX Runtime, device and precision."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from fer_perception.inference.batched_streaming import BatchedStreamingPstBln
from fer_perception.inference.onnx_clips import CPU, import_runtime
from fer_perception.inference.onnx_streaming import OnnxStreamingPstBln
from fer_perception.inference.stream import StreamingNetwork
from fer_perception.inference.streaming import TorchStreamingPstBln
from fer_perception.models.model_file import LoadedModel, ModelDescription, load_model

BACKENDS = ('auto', 'torch', 'onnxruntime')
DEVICES = ('auto', 'cpu', 'cuda')
PRECISIONS = ('auto', 'fp32', 'bf16')
ONNX_SUFFIX = '.onnx'
GPU_PROVIDERS = ('TensorrtExecutionProvider', 'CUDAExecutionProvider')  # the faster one first
# bf16 is taken by itself only where it moves no probability of a trial clip by more than this.
BF16_BOUND = 0.02
TRIAL_FRAMES = 60


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """Say what a network runs on."""

    backend: str = 'auto'  # 'auto': ONNX Runtime for an ONNX file, PyTorch for a model file
    device: str = 'auto'  # 'auto': CUDA if there, else the CPU
    precision: str = 'auto'  # 'auto': bf16 where the CPU has it and it is close enough to fp32
    samples: int = 100  # Monte Carlo dropout samples
    threads: int = 1  # of ONNX Runtime; those of PyTorch are set for the whole process
    seed: int | None = None  # of the dropout masks; None: another one each time

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        for name, choices in (
            ('backend', BACKENDS),
            ('device', DEVICES),
            ('precision', PRECISIONS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f'{name} must be {", ".join(choices)}, not {getattr(self, name)!r}'
                )


def open_backend(
    model: Path | LoadedModel, config: BackendConfig
) -> tuple[StreamingNetwork[Any], ModelDescription]:
    """Load a model for streaming.

    model: a model file, an ONNX file of a streaming network, or a model that is loaded already.
    Raises ModelFileError for a file that is wrong; ValueError for a model that reads whole clips,
    and for a choice that the file or the machine does not allow, with what to do.
    """
    is_onnx = isinstance(model, Path) and model.suffix.lower() == ONNX_SUFFIX
    if is_onnx != (config.backend == 'onnxruntime') and config.backend != 'auto':
        raise ValueError(
            f"backend is {config.backend!r}, but {model if is_onnx else 'the model'} is "
            + (
                "an ONNX file: use backend 'onnxruntime' or 'auto'"
                if is_onnx
                else "no ONNX file: make one by 'fer_train export --streaming'"
            )
        )
    if is_onnx:
        assert isinstance(model, Path)
        return _open_onnx(model, config)
    loaded = model if isinstance(model, LoadedModel) else load_model(Path(model))
    description = loaded.description
    if description.clip_frames:
        raise ValueError(
            f'the model reads whole clips of {description.clip_frames} frames and cannot follow '
            'a camera: fit or grow one to a frame rate, without --frames'
        )
    if choose_device(config.device) == 'cuda':
        if config.precision == 'bf16':
            raise ValueError("precision 'bf16' is for the CPU; use 'auto' or 'fp32' with CUDA")
        on_cuda = BatchedStreamingPstBln(
            loaded.network, samples=config.samples, seed=config.seed, device='cuda'
        )
        return on_cuda, description
    precision = config.precision
    if precision == 'auto':
        precision = 'bf16' if _bf16_is_good(loaded) else 'fp32'
    on_cpu = TorchStreamingPstBln(
        loaded.network, samples=config.samples, seed=config.seed, precision=precision
    )
    return on_cpu, description


def choose_device(device: str) -> str:
    """Turn 'auto' into the device there is: 'cuda' or 'cpu'.

    Raises ValueError for another name, or for 'cuda' where there is none.
    """
    if device not in DEVICES:
        raise ValueError(f'device must be {", ".join(DEVICES)}, not {device!r}')
    if device == 'cuda' and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but PyTorch finds no CUDA here; use 'auto' or 'cpu'")
    return 'cuda' if device != 'cpu' and torch.cuda.is_available() else 'cpu'


def cpu_has_bf16() -> bool:
    """Tell whether the CPU multiplies matrices of bf16 faster than those of fp32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get('amx_bf16') or capabilities.get('bf16'))


def bf16_deviation(model: LoadedModel) -> float:
    """Measure by how much bf16 moves the probabilities of a trial clip, dropout off.

    The clip is a face graph whose landmarks wander at random: worse than a real face.
    """
    network = model.network
    shape = (network.config.in_channels, TRIAL_FRAMES, network.config.edges)
    clip = np.random.default_rng(1).normal(0.0, 0.3, shape).astype(np.float32)
    fp32, bf16 = (
        softmax(
            TorchStreamingPstBln(network, samples=0, precision=precision).stream().clip(clip)
            / model.description.temperature,
            axis=-1,
        )
        for precision in ('fp32', 'bf16')
    )
    return float(np.abs(fp32 - bf16).max())


def _bf16_is_good(model: LoadedModel) -> bool:
    return cpu_has_bf16() and bf16_deviation(model) <= BF16_BOUND


def _open_onnx(
    path: Path, config: BackendConfig
) -> tuple[StreamingNetwork[Any], ModelDescription]:
    if config.precision == 'bf16':
        raise ValueError("precision 'bf16' is for PyTorch; use 'auto' or 'fp32' with ONNX Runtime")
    providers = [CPU]
    if config.device == 'cuda':
        providers = [*GPU_PROVIDERS, CPU]
    elif config.device == 'auto':  # what this machine lacks would be warned of
        there = import_runtime().get_available_providers()
        providers = [*(name for name in GPU_PROVIDERS if name in there), CPU]
    network = OnnxStreamingPstBln(
        path,
        samples=config.samples,
        seed=config.seed,
        threads=config.threads,
        providers=providers,
    )
    return network, network.model
