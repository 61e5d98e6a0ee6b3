# SPDX-License-Identifier: Apache-2.0
"""Measure 100 Monte Carlo samples per new frame: the reference's loop, windows, streaming.

    python benchmarks/streaming.py --out streaming.json

All rows of a table are measured in one run and in turns, so that their ratios mean something.
Loop: the reference's way, 100 passes of its network (our implementation) over the whole window
for every new frame. Windows: the same samples in batches. Streaming: one new column of every
layer. The networks that stream are causal and, at a cost to them, without the reference's strides.
For several faces the step of the network stands beside the whole way from landmarks in pixels.
Peak: the best rate of one large matrix product of the same type in the same run.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fer_perception.graph.edges import load_edge_list
from fer_perception.graph.head_pose import mean_face
from fer_perception.graph.landmarks import LANDMARK_COUNT
from fer_perception.inference.backend import BackendConfig, cpu_has_bf16, open_backend
from fer_perception.inference.landmark_reader import LandmarkReader
from fer_perception.inference.monte_carlo import MonteCarloDropout, only_dropout_active
from fer_perception.inference.row_product import RandomMask
from fer_perception.inference.row_product import description as row_product_description
from fer_perception.inference.stream import StreamingNetwork
from fer_perception.inference.streaming import TorchStreamingPstBln
from fer_perception.models.model_file import LoadedModel, ModelDescription, load_model
from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_perception.pipeline import SHIPPED_FILE

CHANNELS = (15, 10, 15, 5, 5, 10)  # a topology that the paper grew
CLASSES = tuple(f'class {index}' for index in range(7))
EDGE_LISTS = ('edges_312_reference', 'edges_181')
WINDOWS = (5, 30, 150)  # frames
TIMED_SAMPLES = 5  # of the loop and of windows; their time is in proportion to the samples
TIMED_STEPS = 10  # of a stream in one turn
PEAK_SIZES = (1024, 2048)
FACES = (1, 2, 4, 8, 16)

Measurement = Callable[[], float]  # milliseconds for one new frame


@dataclass(frozen=True)
class Spread:
    """Hold what the turns of one measurement gave, in milliseconds."""

    median: float
    low: float  # quartiles
    high: float


class WithoutMasks(TorchStreamingPstBln):
    """The same step but for its masks, to see what they cost."""

    def draw_masks(self) -> list[Tensor | RandomMask]:
        """Return none for each dropout."""
        return [None] * len(self.config.channels)  # type: ignore[list-item]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--samples', type=int, default=100, help='(%(default)s)')
    parser.add_argument('--threads', type=int, default=1, help='of the CPU (%(default)s)')
    parser.add_argument('--turns', type=int, default=9, help='of all rows (%(default)s)')
    parser.add_argument('--shipped', action='store_true', help='measure the shipped model alone')
    parser.add_argument('--out', type=Path, help='JSON file (the tables are printed anyway)')
    return parser.parse_args()


def measure(
    measurements: Mapping[str, Measurement], *, turns: int, title: str
) -> dict[str, Spread]:
    """Run all measurements in turns, the first of which does not count."""
    times: dict[str, list[float]] = {name: [] for name in measurements}
    for turn in tqdm(range(turns + 1), desc=title, leave=False, disable=None):
        for name, measurement in measurements.items():
            spent_ms = measurement()
            if turn:
                times[name].append(spent_ms)
    return {
        name: Spread(statistics.median(values), *np.quantile(values, (0.25, 0.75)).tolist())
        for name, values in times.items()
    }


def milliseconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def loop(network: PstBln, *, frames: int, samples: int) -> Measurement:
    """Time the passes of a loop over a window, each with masks of its own."""
    clip = 0.3 * torch.randn(1, network.config.in_channels, frames, network.config.edges)

    def passes() -> None:
        with only_dropout_active(network), torch.inference_mode():
            for _ in range(TIMED_SAMPLES):
                network(clip).softmax(-1)

    return lambda: milliseconds(passes) * samples / TIMED_SAMPLES


def windows(network: PstBln, *, frames: int, samples: int) -> Measurement:
    """Time the samples of a window as batches."""
    clip = 0.3 * torch.randn(1, network.config.in_channels, frames, network.config.edges)
    sampler = MonteCarloDropout(network, samples=TIMED_SAMPLES * 4)
    return lambda: milliseconds(lambda: sampler(clip)) * samples / (TIMED_SAMPLES * 4)


def streaming(network: StreamingNetwork[Any], *, faces: int = 1) -> Measurement:
    """Time the steps of one stream, or of several faces."""
    streams = [network.stream() for _ in range(faces)]
    shape = (faces, network.config.in_channels, network.config.edges)
    frames = 0.3 * np.random.default_rng(1).normal(size=shape).astype(np.float32)

    def steps() -> None:
        for _ in range(TIMED_STEPS):
            network.step(streams, frames)

    return lambda: milliseconds(steps) / TIMED_STEPS


def reading(
    network: StreamingNetwork[Any], description: ModelDescription, *, faces: int
) -> Measurement:
    """Time the way from the landmarks of all faces of an image to their samples."""
    reader = LandmarkReader(network, description)
    generator = np.random.default_rng(1)
    image = 0

    def images() -> None:
        nonlocal image
        for _ in range(TIMED_STEPS):
            noise = generator.normal(size=(faces, LANDMARK_COUNT, 2))
            landmarks = 300.0 + 40.0 * mean_face()[:, :2] + noise  # pixels
            image += 1
            reader.update(
                {str(face): landmarks[face] for face in range(faces)},
                image / description.frame_rate,
            )

    return lambda: milliseconds(images) / TIMED_STEPS


def clip(network: StreamingNetwork[Any], *, frames: int) -> Measurement:
    """Time a whole clip that is read frame by frame from a reset state."""
    stream = network.stream()
    shape = (network.config.in_channels, frames, network.config.edges)
    vectors = 0.3 * np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return lambda: milliseconds(lambda: stream.clip(vectors))


def product(size: int, dtype: torch.dtype) -> Measurement:
    """Time one large matrix product."""
    first, second = (torch.randn(size, size).to(dtype) for _ in range(2))
    out = torch.empty_like(first)
    return lambda: milliseconds(lambda: torch.mm(first, second, out=out))


def operations(config: PstBlnConfig, samples: int) -> float:
    """Count the multiplications and additions of one step, in their cheaper order."""
    total = 0
    width = config.in_channels
    for index, channels in enumerate(config.channels):
        streams = samples if index or config.dropout_position == 'before' else 1
        columns = streams * config.edges
        topology = config.subsets * config.edges * min(width, channels)
        mixing = config.subsets * channels * width
        residuals = 2 * channels * width if channels != width else 0
        temporal = config.kernel_size * channels * channels
        total += 2 * columns * (topology + mixing + residuals + temporal)
        width = channels
    return float(total)


def networks_that_stream(
    model: LoadedModel, *, samples: int, threads: int, folder: Path
) -> dict[str, StreamingNetwork[Any]]:
    """Build the backends that this machine has."""
    network = model.network
    built: dict[str, StreamingNetwork[Any]] = {
        'streaming fp32': TorchStreamingPstBln(network, samples=samples, precision='fp32'),
        'streaming fp32, no masks': WithoutMasks(network, samples=samples, precision='fp32'),
    }
    if cpu_has_bf16():
        built |= {
            'streaming bf16': TorchStreamingPstBln(network, samples=samples, precision='bf16'),
            'streaming bf16, no masks': WithoutMasks(network, samples=samples, precision='bf16'),
        }
    try:
        from fer_training.onnx_step_export import export_step_network

        path = folder / 'step.onnx'
        export_step_network(network, model.description, path)
        config = BackendConfig(device='cpu', samples=samples, threads=threads)
        built['streaming, ONNX Runtime fp32'] = open_backend(path, config)[0]
    except ImportError as error:
        print(f'no row for ONNX Runtime: {error}', file=sys.stderr)
    return built


def table(
    options: argparse.Namespace, *, title: str, model: LoadedModel, reference: PstBln, frames: int
) -> dict[str, Any]:
    """Measure and print all ways to answer a new frame of one network and window."""
    samples = options.samples
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        built = networks_that_stream(
            model, samples=samples, threads=options.threads, folder=folder
        )
        measurements: dict[str, Measurement] = {
            'loop': loop(reference, frames=frames, samples=samples),
            'windows': windows(model.network, frames=frames, samples=samples),
            **{name: streaming(network) for name, network in built.items()},
        }
        if frames == min(WINDOWS):
            measurements |= {
                f'whole clip, {name}': clip(network, frames=frames)
                for name, network in built.items()
                if 'no masks' not in name
            }
        times = measure(measurements, turns=options.turns, title=title)
    print(f'\n{title}, {samples} samples, ms for each new frame\n')
    print('| | median | quartiles | times faster than the loop |\n|---|---|---|---|')
    for name, spread in times.items():
        ratio = times['loop'].median / spread.median
        print(f'| {name} | {spread.median:.2f} | {spread.low:.2f} to {spread.high:.2f} '
              f'| {ratio:.0f} |')
    return {
        'title': title,
        'frames': frames,
        'channels': model.network.config.channels,
        'edges': model.network.config.edges,
        'milliseconds': {name: asdict(spread) for name, spread in times.items()},
        'faster_than_loop': {
            name: times['loop'].median / spread.median for name, spread in times.items()
        },
        'bytes_per_face': {name: network.bytes_per_face for name, network in built.items()},
        'operations_per_step': operations(model.network.config, samples),
    }


def peaks(turns: int) -> dict[str, float]:
    """Measure the best rate of large matrix products, in 10^9 operations a second."""
    types = {'fp32': torch.float32}
    if cpu_has_bf16():
        types['bf16'] = torch.bfloat16
    rates = {}
    for name, dtype in types.items():
        times = measure(
            {str(size): product(size, dtype) for size in PEAK_SIZES}, turns=turns, title='peak'
        )
        rates[name] = max(2 * int(size) ** 3 / times[size].low / 1e6 for size in times)
    return rates


def random_model(edge_list: str, *, window: int) -> LoadedModel:
    """Make the causal network of the paper's topology with three subsets."""
    edges = load_edge_list(edge_list)
    torch.manual_seed(1)
    config = PstBlnConfig(
        channels=CHANNELS, classes=len(CLASSES), edges=len(edges), subsets=3, window=window
    )
    description = ModelDescription(
        network=config,
        edge_list=tuple((a, b) for a, b in edges.tolist()),
        classes=CLASSES,
        normalization='centred',
        frame_rate=30.0,
    )
    return LoadedModel(PstBln(config, quiet=True).eval(), description)


def report_shares(table: dict[str, Any], peak: dict[str, float]) -> dict[str, dict[str, float]]:
    """Print what share of the peak a step reaches, and what its masks take of it."""
    shares = {}
    for precision, rate in peak.items():
        name = f'streaming {precision}'
        step_ms = table['milliseconds'][name]['median']
        without_ms = table['milliseconds'][f'{name}, no masks']['median']
        reached = table['operations_per_step'] / step_ms / 1e6
        shares[precision] = {'peak': reached / rate, 'masks': 1.0 - without_ms / step_ms}
        print(
            f'{table["title"]}, {precision}: {reached:.0f} of {rate:.0f} GFLOP/s '
            f'({reached / rate:.0%}); masks take {1.0 - without_ms / step_ms:.0%}; '
            f'{table["bytes_per_face"][name] / 1e6:.0f} MB a face'
        )
    return shares


def main() -> int:
    """Measure everything; return the exit code."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    peak = peaks(options.turns)
    tables = []
    for edge_list in () if options.shipped else EDGE_LISTS:
        edges = len(load_edge_list(edge_list))
        reference = PstBln(
            PstBlnConfig.reference(channels=CHANNELS, classes=len(CLASSES), edges=edges),
            quiet=True,
        ).eval()
        for window in WINDOWS:
            tables.append(
                table(
                    options,
                    title=f'{list(CHANNELS)}, E={edges}, T={window}',
                    model=random_model(edge_list, window=window),
                    reference=reference,
                    frames=window,
                )
            )
    shipped = load_model(SHIPPED_FILE)
    tables.append(
        table(
            options,
            title=f'shipped model {list(shipped.network.config.channels)}, '
            f'E={shipped.network.config.edges}, T={shipped.network.config.window}',
            model=shipped,
            reference=shipped.network,
            frames=shipped.network.config.window,
        )
    )
    print()
    shares = {item['title']: report_shares(item, peak) for item in tables}
    network, _ = open_backend(
        shipped, BackendConfig(device='cpu', samples=options.samples, threads=options.threads)
    )
    by_faces = measure(
        {f'step of {faces}': streaming(network, faces=faces) for faces in FACES}
        | {
            f'landmarks of {faces}': reading(network, shipped.description, faces=faces)
            for faces in FACES
        },
        turns=options.turns,
        title='faces',
    )
    print(f'\nshipped model, {network.description}, ms for all faces of an image\n')
    print('| | median | quartiles |\n|---|---|---|')
    for name, spread in by_faces.items():
        print(f'| {name} | {spread.median:.2f} | {spread.low:.2f} to {spread.high:.2f} |')
    result = {
        'machine': platform.processor() or platform.machine(),
        'torch': torch.__version__,
        'threads': options.threads,
        'samples': options.samples,
        'row_product': row_product_description(),
        'peak_gflops': peak,
        'tables': tables,
        'shares': shares,
        'faces': {name: asdict(spread) for name, spread in by_faces.items()},
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + '\n', 'utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
