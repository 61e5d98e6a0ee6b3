# SPDX-License-Identifier: Apache-2.0
"""A product of weights with wide rows is right with every kernel, and writes nowhere else."""

import logging
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fer_perception.inference import row_product as module
from fer_perception.inference.row_product import (
    LARGEST_SEED,
    Kernel,
    RandomMask,
    available_kernels,
    description,
    native_is_available,
    repeat_rows,
    row_product,
)

DTYPES = [torch.float32, torch.bfloat16]
GUARD = 7.0  # fills what must not be written


@pytest.fixture(params=list(Kernel), ids=lambda kernel: kernel.name.lower(), scope='module')
def kernel(request: pytest.FixtureRequest) -> Kernel:
    if request.param not in available_kernels():
        if not native_is_available():
            pytest.skip('the library was not compiled')
        pytest.skip(f'this machine has no {request.param.name}')
    return request.param


@dataclass(frozen=True, kw_only=True)
class Product:
    """The arguments of a product; rows, out and mask are views of larger buffers."""

    weight: Tensor
    bias: Tensor | None
    rows: Tensor
    out: Tensor
    buffer: Tensor  # what `out` is a view of
    mask: Tensor | RandomMask | None
    relu: bool

    def compute(self, kernel: Kernel | None = None, threads: int = 1) -> Tensor:
        """Return a copy of `out` after the product."""
        row_product(
            self.weight,
            self.bias,
            self.rows,
            self.out,
            relu=self.relu,
            mask=self.mask,
            kernel=kernel,
            threads=threads,
        )
        return self.out.clone()

    def check(self, out: Tensor, kernel: Kernel) -> None:
        """Fail unless `out` is what float64 gives, rounded once."""
        weight, bias = self.weight, self.bias
        if kernel is Kernel.TORCH:
            weight = weight.to(self.rows.dtype)
            bias = None if bias is None else bias.to(self.rows.dtype)
        expected = weight.double() @ self.rows.double()
        terms = weight.double().abs() @ self.rows.double().abs()
        if bias is not None:
            expected += bias.double()[:, None]
            terms += bias.double().abs()[:, None]
        if self.relu:
            expected.relu_()
        if self.mask is not None:
            assert isinstance(self.mask, Tensor)
            expected *= self.mask
        rounding = 2**-8 if out.dtype == torch.bfloat16 else 0.0  # half of the last place
        error = (out.double() - expected).abs()
        assert bool((error <= rounding * expected.abs() * 1.001 + 1e-5 * terms).all())


def product_made(
    *,
    out_rows: int,
    inner: int,
    columns: int,
    dtype: torch.dtype = torch.float32,
    with_bias: bool = True,
    mask_rows: int | None = None,
    relu: bool = True,
    gaps: tuple[int, int, int] = (0, 0, 0),  # columns left and right of a view, rows about it
    seed: int = 0,
) -> Product:
    generator = torch.Generator().manual_seed(seed)
    left, right, about = gaps

    def view_of(values: Tensor) -> tuple[Tensor, Tensor]:
        count, width = values.shape
        buffer = torch.full((count + 2 * about, left + width + right), GUARD, dtype=dtype)
        view = buffer[about : about + count, left : left + width]
        view.copy_(values)
        return view, buffer

    out, buffer = view_of(torch.full((out_rows, columns), torch.nan))
    mask = None
    if mask_rows is not None:
        kept = torch.rand(mask_rows, columns, generator=generator) < 0.8
        mask, _ = view_of(kept.float())
    return Product(
        weight=torch.randn(out_rows, inner, generator=generator),
        bias=torch.randn(out_rows, generator=generator) if with_bias else None,
        rows=view_of(torch.randn(inner, columns, generator=generator))[0],
        out=out,
        buffer=buffer,
        mask=mask,
        relu=relu,
    )


@st.composite
def products(draw: st.DrawFn) -> Product:
    out_rows = draw(st.integers(1, 70))
    return product_made(
        out_rows=out_rows,
        inner=draw(st.integers(1, 130)),
        columns=draw(st.one_of(st.integers(1, 200), st.integers(1000, 3000))),
        dtype=draw(st.sampled_from(DTYPES)),
        with_bias=draw(st.booleans()),
        mask_rows=draw(st.sampled_from([None, 1, out_rows])),
        relu=draw(st.booleans()),
        gaps=draw(st.tuples(st.integers(0, 33), st.integers(0, 33), st.integers(0, 2))),
        seed=draw(st.integers(0, 2**32)),
    )


@settings(deadline=None, max_examples=60)
@given(product=products())
def test_is_what_float64_gives_and_writes_only_its_view(kernel: Kernel, product: Product) -> None:
    product.check(product.compute(kernel), kernel)
    product.out.fill_(GUARD)
    assert bool((product.buffer == GUARD).all())


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(
    ('out_rows', 'inner', 'columns'),
    [(15, 145, 31200), (10, 105, 18100), (5, 60, 18100), (30, 15, 31200), (45, 300, 3121)],
)
def test_is_right_in_the_sizes_of_the_networks(
    kernel: Kernel, dtype: torch.dtype, out_rows: int, inner: int, columns: int
) -> None:
    product = product_made(
        out_rows=out_rows, inner=inner, columns=columns, dtype=dtype, mask_rows=out_rows
    )
    product.check(product.compute(kernel), kernel)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_takes_the_same_row_again_where_a_stride_is_0(kernel: Kernel, dtype: torch.dtype) -> None:
    made = product_made(out_rows=5, inner=6, columns=333, dtype=dtype, mask_rows=1)
    assert isinstance(made.mask, Tensor)
    product = Product(
        weight=made.weight,
        bias=made.bias,
        rows=made.rows[:1].expand(6, -1),
        out=made.out,
        buffer=made.buffer,
        mask=made.mask.expand(5, -1),
        relu=False,
    )
    product.check(product.compute(kernel), kernel)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('columns', [31, 1024, 1025, 31200])
def test_gives_the_same_with_any_number_of_threads(
    kernel: Kernel, dtype: torch.dtype, columns: int
) -> None:
    product = product_made(
        out_rows=17, inner=33, columns=columns, dtype=dtype, mask_rows=17, gaps=(3, 2, 1)
    )
    alone = product.compute(kernel, threads=1)
    for threads in (2, 3, 2):
        product.out.fill_(torch.nan)
        assert torch.equal(product.compute(kernel, threads=threads), alone)


def test_many_callers_at_once_get_what_one_gets(kernel: Kernel) -> None:
    made = [
        product_made(out_rows=8, inner=20, columns=9000, dtype=DTYPES[seed % 2], seed=seed)
        for seed in range(8)
    ]
    alone = [product.compute(kernel) for product in made]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(5):
            together = list(callers.map(lambda product: product.compute(kernel, threads=2), made))
            assert all(map(torch.equal, together, alone))


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')
def test_a_fork_has_threads_of_its_own(kernel: Kernel) -> None:
    program = f"""
import os, torch
from fer_perception.inference.row_product import Kernel, row_product
torch.set_num_threads(1)
rows, out = torch.ones(3, 9000), torch.empty(2, 9000)
def compute():
    out.zero_()
    row_product(
        torch.ones(2, 3), None, rows, out, relu=True, threads=2, kernel=Kernel({kernel.value})
    )
    return bool((out == 3).all())
assert compute()
child = os.fork()
if child == 0:
    os._exit(0 if compute() else 1)
assert os.waitpid(child, 0)[1] == 0
assert compute()
"""
    subprocess.run([sys.executable, '-c', program], check=True, timeout=120)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('columns', [5, 32, 333])
def test_nan_stays_nan(kernel: Kernel, dtype: torch.dtype, columns: int) -> None:
    rows = torch.ones(4, columns, dtype=dtype)
    rows[2, columns // 2] = torch.nan
    out = torch.empty(3, columns, dtype=dtype)
    mask = torch.zeros(1, columns, dtype=dtype)
    row_product(-torch.ones(3, 4), None, rows, out, relu=True, mask=mask, kernel=kernel)
    assert bool(out[:, columns // 2].isnan().all())
    assert int(out.isnan().sum()) == 3 and float(out.nansum()) == 0.0


def test_rounds_bf16_to_nearest_and_ties_to_even(kernel: Kernel) -> None:
    # Sums of a number and half of its last place, and a little less or more.
    values = [1.0, 1.0078125, 1.0, 1.0, -1.0078125, 1.0, 3.0e38]
    added = [2**-8, 2**-8, 2**-8 - 2**-15, 2**-8 + 2**-15, -(2**-8), 0.0, 0.0]
    rows = torch.tensor([values, added]).bfloat16()
    out = torch.empty(1, len(values), dtype=torch.bfloat16)
    row_product(torch.ones(1, 2), None, rows, out, relu=False, kernel=kernel)
    assert torch.equal(out[0], (rows[0].float() + rows[1].float()).bfloat16())


def test_leaves_the_products_of_torch_right(kernel: Kernel) -> None:
    # Both may use the matrix unit, which has to be told the shapes of what it multiplies.
    left, right = torch.ones(40, 70).bfloat16(), torch.ones(70, 300).bfloat16()
    product = product_made(out_rows=5, inner=50, columns=500, dtype=torch.bfloat16)
    for _ in range(3):
        assert bool((left @ right == 70).all())
        product.check(product.compute(kernel), kernel)


def drawn_mask(
    seed: int, rate: float, kernel: Kernel, dtype: torch.dtype, *, rows: int, columns: int
) -> Tensor:
    """Return a mask that a product draws: bool of (rows, columns)."""
    out = torch.full((rows, columns), torch.nan, dtype=dtype)
    row_product(
        torch.ones(rows, 1), None, torch.ones(1, columns, dtype=dtype), out,
        relu=False, mask=RandomMask(seed, rate), kernel=kernel,
    )
    assert bool(((out == 0) | (out == 1)).all())
    return out == 1


@pytest.mark.parametrize('dtype', DTYPES)
@settings(max_examples=15)
@given(
    seed=st.integers(0, LARGEST_SEED),
    rate=st.floats(0.01, 0.99),
    rows=st.integers(1, 20),
    columns=st.integers(1, 200),
)
def test_a_drawn_mask_falls_on_the_product_and_repeats(
    kernel: Kernel, dtype: torch.dtype, seed: int, rate: float, rows: int, columns: int
) -> None:
    product = product_made(out_rows=rows, inner=5, columns=columns, dtype=dtype, seed=1)
    whole = product.compute(kernel)
    mask = drawn_mask(seed, rate, kernel, dtype, rows=rows, columns=columns)
    masked = replace(product, mask=RandomMask(seed, rate))
    assert torch.equal(masked.compute(kernel), torch.where(mask, whole, torch.zeros_like(whole)))
    assert torch.equal(masked.compute(kernel, threads=2), masked.out)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('rate', [0.01, 0.2, 0.5, 0.93])
def test_drawn_masks_are_unbiased_and_independent(
    kernel: Kernel, dtype: torch.dtype, rate: float
) -> None:
    """Every statistic within five standard errors: one of all fails in ten thousand runs."""
    seeds = torch.Generator().manual_seed(1)
    masks = torch.stack(
        [
            drawn_mask(
                int(torch.randint(2**62, (), generator=seeds)), rate, kernel, dtype,
                rows=15, columns=1999,
            )
            for _ in range(30)
        ]
    ).float()  # (draws, rows, columns)
    error = (rate * (1 - rate)) ** 0.5
    rounding = 2.0**-17  # of the rate to 16 bits
    deviation = masks - (1 - rate)
    assert abs(float(deviation.mean())) < 5 * error / masks.numel() ** 0.5 + rounding
    for axis in range(3):  # no draw, no row and no column keeps more than another
        others = tuple(other for other in range(3) if other != axis)
        means = deviation.mean(others)
        bound = 6.5 * error / (masks.numel() / len(means)) ** 0.5 + rounding
        assert float(means.abs().max()) < bound
    for axis in range(3):  # neighbours of every kind, the other half of the word included
        for distance in (1, 2, 8, 16, 32):
            if distance < masks.shape[axis]:
                length = masks.shape[axis] - distance
                product = deviation.narrow(axis, 0, length) * deviation.narrow(
                    axis, distance, length
                )
                correlation = float(product.mean()) / error**2
                assert abs(correlation) < 5.5 / product.numel() ** 0.5, (axis, distance)


def test_seeds_that_are_neighbours_draw_unlike_masks(kernel: Kernel) -> None:
    first, *others = (
        drawn_mask(seed, 0.5, kernel, torch.bfloat16, rows=10, columns=2000)
        for seed in (5, 6, 5 + 2**32, LARGEST_SEED)
    )
    for other in others:
        agreement = float((first == other).float().mean())
        assert abs(agreement - 0.5) < 5 * 0.5 / 20_000**0.5


@pytest.mark.parametrize(
    ('seed', 'rate', 'message'),
    [(-1, 0.5, 'not -1'), (2**64, 0.5, 'seed'), (1, 0.0, 'rate'), (1, 1.0, 'not 1.0')],
)
def test_masks_that_cannot_be_drawn_are_refused(seed: int, rate: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomMask(seed, rate)


def test_uses_the_best_kernel_and_says_so() -> None:
    product = product_made(out_rows=7, inner=40, columns=500, dtype=torch.bfloat16)
    best = available_kernels()[-1]
    assert torch.equal(product.compute(), product.compute(best))
    assert native_is_available() == (best is not Kernel.TORCH)
    assert best.name.lower() in description().lower()


def test_without_the_library_torch_computes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caches = (module._library, module.available_kernels, module._plan)
    monkeypatch.setattr(module, '__file__', str(tmp_path / 'row_product.py'))
    library = tmp_path / f'_row_product{sysconfig.get_config_var("EXT_SUFFIX")}'
    try:
        for damaged in (False, True):
            for cache in caches:
                cache.cache_clear()
            caplog.clear()
            if damaged:
                library.write_bytes(b'not a library')
            with caplog.at_level(logging.WARNING):
                assert not native_is_available()
            assert (str(library) in caplog.text) == damaged
            assert 'torch' in description()
            product = product_made(out_rows=3, inner=4, columns=200)
            product.check(product.compute(), Kernel.TORCH)
            with pytest.raises(ValueError, match='kernel AVX2 cannot run here, only TORCH'):
                product.compute(Kernel.AVX2)
    finally:
        for cache in caches:
            cache.cache_clear()


WEIGHT, BIAS, ROWS, OUT = torch.ones(3, 4), torch.ones(3), torch.ones(4, 200), torch.ones(3, 200)


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'weight': torch.ones(12)}, r'weight must be \(M, K\)'),
        ({'weight': torch.ones(0, 4)}, r'weight must be \(M, K\)'),
        ({'weight': WEIGHT.double()}, 'weight must be .* torch.float32, not .* torch.float64'),
        ({'weight': torch.ones(4, 3).T}, 'weight must be contiguous'),
        ({'bias': torch.ones(4)}, r'bias must be \(3,\)'),
        ({'bias': BIAS.bfloat16()}, 'bias must be .* torch.float32'),
        ({'bias': torch.ones(6)[::2]}, 'bias must be .* contiguous'),
        ({'rows': torch.ones(5, 200)}, r'rows must be \(4, N\).* not \(5, 200\)'),
        ({'rows': torch.ones(4, 0)}, r'rows must be \(4, N\), N 1 or more'),
        ({'rows': torch.ones(4, 200).half()}, 'rows must be .* not .* torch.float16'),
        ({'rows': torch.ones(200, 4).T}, r'rows must have columns of stride 1, .* \(1, 4\)'),
        ({'rows': torch.ones(4, 200, device='meta')}, 'must be on the CPU, not on meta'),
        ({'out': torch.ones(3, 199)}, r'out must be \(3, 200\)'),
        ({'out': OUT.bfloat16()}, 'out must be .* of torch.float32, not .* torch.bfloat16'),
        ({'out': torch.ones(3, 400)[:, ::2]}, 'out must have columns of stride 1'),
        ({'out': torch.ones(1, 200).expand(3, -1)}, 'rows of out must not share memory'),
        ({'mask': torch.ones(2, 200)}, r'mask must be \(3, 200\) or \(1, 200\)'),
        ({'mask': torch.ones(3, 200, dtype=torch.bool)}, 'mask must be .* not .* torch.bool'),
        ({'mask': torch.ones(200, 3).T}, 'mask must have columns of stride 1'),
        ({'threads': 0}, 'threads must be 1 or more, not 0'),
        ({'out': ROWS[1:]}, 'out must share no memory with rows'),
        ({'mask': OUT}, 'out must share no memory with mask'),
    ],
)
def test_refuses_what_does_not_fit(changed: dict[str, object], message: str) -> None:
    arguments = {'weight': WEIGHT, 'bias': BIAS, 'rows': ROWS, 'out': OUT} | changed
    for _ in range(2):  # what was refused once is not remembered as right
        with pytest.raises(ValueError, match=message):
            row_product(relu=True, **arguments)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_finds_every_overlap_and_no_other(data: st.DataObject) -> None:
    memory = torch.zeros(400)
    columns = data.draw(st.integers(1, 12))

    def view(name: str, *, least_stride: int) -> Tensor:
        count = data.draw(st.integers(1, 6), label=f'{name}: rows')
        stride = data.draw(st.integers(least_stride, 40), label=f'{name}: stride')
        start = data.draw(st.integers(0, 120), label=f'{name}: start')
        return memory.as_strided((count, columns), (stride, 1), start)

    rows, out = view('rows', least_stride=0), view('out', least_stride=columns)
    rows.fill_(1.0)
    shared = bool(out.any())
    weight = torch.ones(len(out), len(rows))
    if shared:
        with pytest.raises(ValueError, match='out must share no memory with rows'):
            row_product(weight, None, rows, out, relu=True)
    else:
        row_product(weight, None, rows, out, relu=True)
        assert bool((out == len(rows)).all()) and bool((rows == 1.0).all())


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@given(
    rows=st.integers(1, 5),
    repeats=st.integers(1, 9),
    columns=st.integers(1, 100),
    extra=st.integers(0, 40),
    seed=st.none() | st.integers(0, LARGEST_SEED),
)
@settings(max_examples=40, deadline=None)
def test_rows_are_repeated_each_with_its_own_mask(
    kernel: Kernel,
    dtype: torch.dtype,
    rows: int,
    repeats: int,
    columns: int,
    extra: int,
    seed: int | None,
) -> None:
    source = torch.randn(rows, columns).to(dtype)
    buffer = torch.full((rows * repeats, columns + extra), GUARD, dtype=dtype)
    out = buffer[:, :columns]
    mask = None if seed is None else RandomMask(seed, 0.4)
    repeat_rows(source, out, mask=mask, kernel=kernel)
    expected = source.repeat_interleave(repeats, dim=0)
    if mask is not None:
        kept = torch.empty(out.shape, dtype=dtype)
        ones = torch.ones(1, columns, dtype=dtype)
        row_product(torch.ones(len(out), 1), None, ones, kept, relu=False, mask=mask,
                    kernel=kernel)
        expected = expected * kept
    assert torch.equal(out, expected)
    assert (buffer[:, columns:] == GUARD).all()


def test_repeating_refuses_what_does_not_fit() -> None:
    rows, out = torch.ones(2, 5), torch.ones(4, 5)
    for wrong in (torch.ones(5), torch.ones(2, 4), torch.ones(0, 5)):
        with pytest.raises(ValueError, match='must be'):
            repeat_rows(wrong, out)
    with pytest.raises(ValueError, match='multiple of the 2 rows, not 3'):
        repeat_rows(rows, out[:3])
    with pytest.raises(ValueError, match='must both be'):
        repeat_rows(rows, out.bfloat16())
    with pytest.raises(ValueError, match='columns of stride 1'):
        repeat_rows(rows, torch.ones(5, 4).T)
