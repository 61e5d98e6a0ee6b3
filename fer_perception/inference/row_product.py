# SPDX-License-Identifier: Apache-2.0
"""The product of a small matrix of weights with wide rows; bias, ReLU and mask in the same pass.

A general matrix product first copies its wide operand into an order of its own, which costs more
than a product with ten rows of weights; then bias, ReLU and mask pass over the result once more
each. Here a library compiled from row_product.cpp reads the rows once. It is optional: where it
was not compiled, torch computes the same.

The compiled library holds a kernel for each kind of vector unit and never runs one that the
machine does not have, so it may have been compiled on another machine.
"""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import torch
from torch import Tensor

from fer_perception.compiled_library import open_compiled_library
from fer_perception.models.dropout import keep_mask, seeded_generator

INTERFACE = 3  # version of the functions in row_product.cpp
RANDOM_BITS = 16  # that decide whether a drawn mask keeps an element
LARGEST_SEED = 2**64 - 1


@dataclass(frozen=True)
class RandomMask:
    """Describe a dropout mask that is drawn while the product is computed.

    An element is kept with probability 1 - rate, the rate rounded to 16 bits. The same seed gives
    the same mask for the same shapes and the same kernel.
    """

    seed: int  # 0 to LARGEST_SEED; use each for one product only
    rate: float  # 0 to 1, the ends excluded

    def __post_init__(self) -> None:
        """Refuse values outside of their ranges."""
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f'seed must be 0 to 2 ** 64 - 1, not {self.seed}')
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f'rate must be between 0 and 1, not {self.rate}')

    @property
    def mixed_seed(self) -> int:
        """The seed with its bits mixed, so that neighbours have nothing in common (SplitMix64)."""
        mixed = (self.seed + 0x9E3779B97F4A7C15) & LARGEST_SEED
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & LARGEST_SEED
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & LARGEST_SEED
        return mixed ^ mixed >> 31

    @property
    def least_kept(self) -> int:
        """The least value of the random bits that keeps an element; 0: all are kept."""
        steps = 2**RANDOM_BITS
        return min(round(self.rate * steps), steps - 1)


class Kernel(IntEnum):
    """What computes a product; a higher one is faster."""

    TORCH = 0
    PORTABLE = 1  # compiled for the plainest processor of its kind: NEON, SSE2
    AVX2 = 2
    AVX512 = 3
    AMX = 4  # for bf16; AVX512 for fp32


@functools.cache
def available_kernels() -> tuple[Kernel, ...]:
    """Return the kernels that this machine can run, the one to use last; TORCH is always one."""
    library = _library()
    if library is None:
        return (Kernel.TORCH,)
    compiled = [
        kernel
        for kernel in Kernel
        if kernel is not Kernel.TORCH and library.row_product_supports(kernel)
    ]
    return (Kernel.TORCH, *compiled)


def native_is_available() -> bool:
    """Tell whether the library was compiled and can be used."""
    return available_kernels()[-1] is not Kernel.TORCH


def description() -> str:
    """Say for logs what computes the products."""
    kernel = available_kernels()[-1]
    if kernel is Kernel.TORCH:
        return 'row products by torch (slower; the compiled library is not there)'
    return f'row products by the compiled library ({kernel.name})'


def row_product(
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    out: Tensor,
    *,
    relu: bool,
    mask: Tensor | RandomMask | None = None,
    threads: int | None = None,
    kernel: Kernel | None = None,
) -> None:
    """Set out[m, n] to mask[m, n] * relu(bias[m] + sum over k of weight[m, k] * rows[k, n]).

    weight: (M, K) float32, contiguous. bias: (M,) float32, contiguous, or None. rows: (K, N),
    out: (M, N) and mask: (M, N), (1, N) or None, all float32 or all bfloat16, columns next to each
    other, rows at any distance; mask holds 0 and 1. All on the CPU. `out` shares no memory with
    `rows` or `mask`. A RandomMask is drawn on the way, which costs next to nothing but by torch.

    Sums are in fp32 and rounded to nearest for bf16; a column with an infinite number may come
    out as NaN. With bf16, torch (but no compiled kernel) rounds weights and bias to bf16 too. Up
    to `threads` threads share the work, None: as many as torch's own products have; the result
    does not depend on it. `kernel` None is the best. No gradients are recorded.

    Raises ValueError if an argument is not as described.
    """
    drawn = mask if isinstance(mask, RandomMask) else None
    given = None if isinstance(mask, RandomMask) else mask
    plan = _plan(
        (weight.shape, weight.stride(), weight.dtype),
        None if bias is None else (bias.shape, bias.stride(), bias.dtype),
        (rows.shape, rows.stride(), rows.dtype),
        (out.shape, out.stride(), out.dtype),
        None if given is None else (given.shape, given.stride(), given.dtype),
        relu=relu,
        threads=torch.get_num_threads() if threads is None else threads,
        kernel=kernel,
    )
    for tensor in (weight, bias, rows, out, given):
        if tensor is not None and not tensor.is_cpu:
            raise ValueError(f'all tensors must be on the CPU, not on {tensor.device}')
    rows_address, out_address = rows.data_ptr(), out.data_ptr()
    if plan.rows.overlaps(plan.out, out_address - rows_address):
        raise ValueError('out must share no memory with rows')
    mask_address = None
    if given is not None:
        mask_address = given.data_ptr()
        if plan.mask.overlaps(plan.out, out_address - mask_address):
            raise ValueError('out must share no memory with mask')
    if plan.multiply is None:
        if drawn is not None:
            given = _draw(drawn, out)
        _multiply_by_torch(weight, bias, rows, out, relu=relu, mask=given)
        return
    failed = plan.multiply(
        plan.numbers,
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        rows_address,
        out_address,
        mask_address,
        0 if drawn is None else drawn.mixed_seed,
        0 if drawn is None else drawn.least_kept,
    )
    if failed:
        raise MemoryError(f'no memory to multiply weights of shape {tuple(weight.shape)}')


def repeat_rows(
    rows: Tensor,
    out: Tensor,
    *,
    mask: RandomMask | None = None,
    kernel: Kernel | None = None,
) -> None:
    """Set out[m, n] to mask[m, n] * rows[m // repeats, n], repeats = M of out / M of rows.

    rows: (M, N), out: (M * repeats, N), both float32 or both bfloat16, on the CPU, columns next to
    each other, rows at any distance; they share no memory. `kernel` None is the best. Raises
    ValueError if an argument is not as described.
    """
    if rows.ndim != 2 or out.ndim != 2 or not rows.numel() or rows.shape[1] != out.shape[1]:
        raise ValueError(
            f'rows must be (M, N) and out (M * repeats, N), not {tuple(rows.shape)} and '
            f'{tuple(out.shape)}'
        )
    repeats, rest = divmod(len(out), len(rows))
    if rest or not repeats:
        raise ValueError(f'out must have a multiple of the {len(rows)} rows, not {len(out)}')
    if rows.dtype != out.dtype or rows.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(
            f'rows and out must both be torch.float32 or torch.bfloat16, not {rows.dtype} and '
            f'{out.dtype}'
        )
    columns = rows.shape[1]
    for name, tensor in (('rows', rows), ('out', out)):
        if not tensor.is_cpu or (columns > 1 and tensor.stride(1) != 1):
            raise ValueError(f'{name} must be on the CPU, its columns of stride 1')
    kernel = available_kernels()[-1] if kernel is None else kernel
    library = library_with(kernel)
    if library is None:
        wide = rows.repeat_interleave(repeats, dim=0)  # (M * repeats, N)
        out.copy_(wide if mask is None else wide * _draw(mask, out))
        return
    numbers = (rows.stride(0), out.stride(0), len(out), repeats, columns, kernel)
    function = (
        library.repeat_rows_bf16 if rows.dtype == torch.bfloat16 else library.repeat_rows_fp32
    )
    function(
        (ctypes.c_int64 * len(numbers))(*numbers),
        rows.data_ptr(),
        out.data_ptr(),
        0 if mask is None else mask.mixed_seed,
        0 if mask is None else mask.least_kept,
    )


def library_with(kernel: Kernel) -> ctypes.CDLL | None:
    """Return the compiled library, or None if the kernel is torch.

    Raises ValueError if this machine cannot run the kernel.
    """
    if kernel not in (available := available_kernels()):
        raise ValueError(
            f'kernel {kernel.name} cannot run here, only {", ".join(k.name for k in available)}'
        )
    return None if kernel is Kernel.TORCH else _library()


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Load the compiled library; None if there is none that can be used."""
    library = open_compiled_library(Path(__file__), interface=INTERFACE, instead='torch')
    if library is None:
        return None
    for function in (library.row_product_fp32, library.row_product_bf16):
        function.argtypes = [
            ctypes.POINTER(ctypes.c_int64),
            *[ctypes.c_void_p] * 5,
            *[ctypes.c_uint64, ctypes.c_uint32],
        ]
    for function in (library.repeat_rows_fp32, library.repeat_rows_bf16):
        function.argtypes = [
            ctypes.POINTER(ctypes.c_int64),
            *[ctypes.c_void_p] * 2,
            *[ctypes.c_uint64, ctypes.c_uint32],
        ]
    library.layer_pack_topology.argtypes = [
        ctypes.c_void_p, *[ctypes.c_int64] * 2, ctypes.c_void_p
    ]
    library.layer_pack_topology.restype = None
    library.layer_step_bf16.argtypes = [
        ctypes.POINTER(ctypes.c_int64),
        *[ctypes.c_void_p] * 8,
        *[ctypes.c_uint64, ctypes.c_uint32],
    ]
    return library


def _draw(mask: RandomMask, out: Tensor) -> Tensor:
    generator = seeded_generator(mask.mixed_seed, device=out.device)
    return keep_mask(out.shape, mask.rate, device=out.device, generator=generator)


@torch.no_grad()
def _multiply_by_torch(
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    out: Tensor,
    *,
    relu: bool,
    mask: Tensor | None,
) -> None:
    """Compute a product by torch."""
    weight = weight.to(rows.dtype)
    if bias is None:
        torch.mm(weight, rows, out=out)
    else:
        torch.addmm(bias.to(rows.dtype)[:, None], weight, rows, out=out)
    if relu:
        out.relu_()
    if mask is not None:
        out.mul_(mask)


Layout = tuple[torch.Size, tuple[int, ...], torch.dtype]  # shape, strides, type of a tensor


@dataclass(frozen=True, kw_only=True)
class _Extent:
    """The memory of a matrix, in bytes: `rows` rows of `width`, `step` from one to the next."""

    rows: int
    width: int
    step: int
    length: int  # from the first byte to behind the last

    @classmethod
    def of(cls, layout: Layout) -> '_Extent':
        (rows, columns), (stride, _), dtype = layout
        width, step = columns * dtype.itemsize, stride * dtype.itemsize
        return cls(rows=rows, width=width, step=step, length=(rows - 1) * step + width)

    def overlaps(self, other: '_Extent', distance: int) -> bool:
        """Tell whether a matrix `distance` bytes further on, as wide as this, shares a byte."""
        if distance >= self.length or -distance >= other.length:
            return False
        # Views that interleave, as columns of one buffer do: look at each row of the other.
        for row in range(other.rows):
            start = distance + row * other.step
            before = start // self.step if self.step else 0
            for index in (before, before + 1):
                nearest = min(max(index, 0), self.rows - 1)
                if abs(start - nearest * self.step) < self.width:
                    return True
        return False


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What follows from the layouts of a product's arguments, whatever their values."""

    multiply: Callable[..., int] | None  # None: torch
    numbers: 'ctypes.Array[ctypes.c_int64]'  # strides, sizes and choices
    rows: _Extent
    out: _Extent
    mask: _Extent


@functools.lru_cache(maxsize=1024)  # checks take longer than a small product
def _plan(
    weight: Layout,
    bias: Layout | None,
    rows: Layout,
    out: Layout,
    mask: Layout | None,
    *,
    relu: bool,
    threads: int,
    kernel: Kernel | None,
) -> _Plan:
    """Check that the arguments of a product fit together; ValueError if they do not."""
    kernel = available_kernels()[-1] if kernel is None else kernel
    library = library_with(kernel)
    if threads < 1:
        raise ValueError(f'threads must be 1 or more, not {threads}')
    shape, strides, dtype = weight
    if len(shape) != 2 or 0 in shape or dtype != torch.float32:
        raise ValueError(f'weight must be (M, K) of torch.float32, not {_said(weight)}')
    out_rows, inner = shape
    if (inner > 1 and strides[1] != 1) or (out_rows > 1 and strides[0] != inner):
        raise ValueError(f'weight must be contiguous, not {_said(weight)}')
    if bias is not None:
        shape, strides, dtype = bias
        if shape != (out_rows,) or dtype != torch.float32 or (out_rows > 1 and strides != (1,)):
            raise ValueError(
                f'bias must be ({out_rows},) of torch.float32, contiguous, not {_said(bias)}'
            )
    shape, _, dtype = rows
    if len(shape) != 2 or shape[0] != inner or not shape[1]:
        raise ValueError(f'rows must be ({inner}, N), N 1 or more, not {_said(rows)}')
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f'rows must be torch.float32 or torch.bfloat16, not {_said(rows)}')
    columns = shape[1]
    if out[0] != (out_rows, columns) or out[2] != dtype:
        raise ValueError(f'out must be ({out_rows}, {columns}) of {dtype}, not {_said(out)}')
    if mask is not None and (
        mask[0] not in ((out_rows, columns), (1, columns)) or mask[2] != dtype
    ):
        raise ValueError(
            f'mask must be ({out_rows}, {columns}) or (1, {columns}) of {dtype}, '
            f'not {_said(mask)}'
        )
    for name, layout in (('rows', rows), ('out', out), ('mask', mask)):
        if layout is not None and columns > 1 and layout[1][1] != 1:
            raise ValueError(f'{name} must have columns of stride 1, not {_said(layout)}')
    if out_rows > 1 and out[1][0] < columns:
        raise ValueError(f'rows of out must not share memory, as they do in {_said(out)}')

    multiply = None
    if library is not None:
        bf16 = dtype == torch.bfloat16
        multiply = library.row_product_bf16 if bf16 else library.row_product_fp32
    mask_stride = 0 if mask is None or mask[0][0] == 1 else mask[1][0]
    numbers = (rows[1][0], out[1][0], mask_stride, out_rows, inner, columns, relu, kernel, threads)
    return _Plan(
        multiply=multiply,
        numbers=(ctypes.c_int64 * len(numbers))(*numbers),
        rows=_Extent.of(rows),
        out=_Extent.of(out),
        mask=_Extent.of(rows if mask is None else mask),
    )


def _said(layout: Layout) -> str:
    """Describe a tensor in an error message."""
    shape, strides, dtype = layout
    return f'{tuple(shape)} of {dtype} with strides {strides}'
