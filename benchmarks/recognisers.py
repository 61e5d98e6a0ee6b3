# SPDX-License-Identifier: Apache-2.0
"""Measure the four recognisers side by side: what a new frame of one face costs each.

    python benchmarks/recognisers.py --out recognisers.json

The images and landmarks are those of the sample clip; finding them is not counted, cutting the
face out of the image is. The image recognisers have their papers' sizes and random weights, which
take the same time as trained ones; PST-BLN is the model of the package. Every row reads its frames
at the rate at which it answers, one after the other, and the rows take turns.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from clips import sample_frames
from tqdm import tqdm

from fer_perception.faces.crop import FaceCrop, ImageNormalization
from fer_perception.inference.backend import BackendConfig, open_backend
from fer_perception.inference.face_reader import FaceReader
from fer_perception.inference.image_reader import ImageReader
from fer_perception.inference.landmark_reader import LandmarkReader
from fer_perception.models.abaw_ensemble import AbawEnsembleConfig
from fer_perception.models.fer_gcn import FerGcnConfig
from fer_perception.models.image_architectures import (
    ImageConfig,
    architecture_name,
    build_image_network,
)
from fer_perception.models.image_model_file import ImageModelDescription, LoadedImageModel
from fer_perception.models.model_file import load_model
from fer_perception.models.part_ensemble import PartEnsembleConfig
from fer_perception.pipeline import SHIPPED_FILE, Pipeline, PipelineConfig
from fer_training.complexity import measure_complexity, pst_bln_operations

CLASSES = ('neutral', 'anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise')
FRAME_RATE = 30.0
FRAMES_PER_TURN = 6


@dataclass(frozen=True, kw_only=True)
class Row:
    """Say what one recogniser reads and costs."""

    recogniser: str
    reads: str
    parameters: int
    flops_frame: int  # of a new frame, the answer included
    samples: str
    runs: str  # what runs where
    median_ms: float = 0.0
    p95_ms: float = 0.0


Frames = list[tuple[np.ndarray, np.ndarray]]  # images and landmarks


def main() -> None:
    """Measure all rows, print them and, where asked, write them."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    frames = tracked_frames()
    rows = []
    for precision in ('fp32', 'auto'):
        rows.append(landmark_row(precision, options.samples))
        for config in (
            FerGcnConfig(classes=len(CLASSES)),
            PartEnsembleConfig(classes=len(CLASSES)),
            AbawEnsembleConfig(classes=len(CLASSES)),
        ):
            rows.append(image_row(config, precision, options.samples))
    times: list[list[float]] = [[] for _ in rows]
    for turn in tqdm(range(options.turns + 1), desc='turns', leave=False, disable=None):
        for (_, work), own in zip(rows, times, strict=True):
            spent = work(frames, turn)
            if turn:  # the first one does not count
                own.extend(spent)
    results = [
        replace(row, median_ms=statistics.median(own), p95_ms=float(np.quantile(own, 0.95)))
        for (row, _), own in zip(rows, times, strict=True)
    ]
    print(f'{platform.processor() or platform.machine()}, {options.threads} thread(s)')
    for row in results:
        print(
            f'{row.recogniser:14} {row.reads:28} {row.parameters / 1e6:8.2f} M '
            f'{row.flops_frame / 1e9:8.3f} GFLOPs  {row.samples:30} '
            f'{row.median_ms:7.1f} ms (p95 {row.p95_ms:.1f})  {row.runs}'
        )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps([asdict(row) for row in results], indent=1) + '\n')


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--samples', type=int, default=100, help='(%(default)s)')
    parser.add_argument('--threads', type=int, default=1, help='of the CPU (%(default)s)')
    parser.add_argument('--turns', type=int, default=5, help='of all rows (%(default)s)')
    parser.add_argument('--out', type=Path, help='JSON file (the table is printed anyway)')
    return parser.parse_args()


def tracked_frames() -> Frames:
    """Find the face in every frame of the sample clip."""
    pipeline = Pipeline(PipelineConfig(mc_samples=1, deterministic_ids=True))
    try:
        found = []
        for index, image in enumerate(sample_frames()):
            result = pipeline.process(image, round(index * 1e9 / FRAME_RATE))
            found += [(image, face.face.landmarks) for face in result.faces]
    finally:
        pipeline.close()
    return found


Work = Callable[[Frames, int], list[float]]


def landmark_row(precision: str, samples: int) -> tuple[Row, Work]:
    """Prepare the model of the package."""
    loaded = load_model(SHIPPED_FILE)
    network, model = open_backend(
        loaded, BackendConfig(device='cpu', precision=precision, samples=samples, seed=1)
    )
    row = Row(
        recogniser='pst_bln',
        reads='68 landmarks, each frame',
        parameters=sum(loaded.network.parameter_counts()[1:]),
        flops_frame=pst_bln_operations(loaded.network.config, samples=samples).total,
        samples=f'{samples} masks',
        runs=network.description,
    )
    return row, reading(LandmarkReader(network, model), period_s=1.0 / model.frame_rate)


def image_row(config: ImageConfig, precision: str, samples: int) -> tuple[Row, Work]:
    """Prepare an image recogniser of its paper's size, with random weights."""
    torch.manual_seed(1)
    network = build_image_network(config).eval()
    complexity = measure_complexity(network)
    rate = FRAME_RATE if network.frames > 1 else 0.0
    description = ImageModelDescription(
        network=config,
        classes=CLASSES,
        crop=FaceCrop(size=config.image_size),
        normalization=ImageNormalization(grey=isinstance(config, PartEnsembleConfig)),
        frame_rate=rate,
    )
    reader = ImageReader(
        LoadedImageModel(network, description), device='cpu', precision=precision,
        samples=samples, seed=1,
    )
    masks = f'{samples} masks x ' if config.dropout else ''
    answers = samples if config.dropout else 1
    row = Row(
        recogniser=architecture_name(config),
        reads=f'{config.image_size}x{config.image_size} pixels, '
        f'{network.frames} frame{"s"[: network.frames > 1]}',
        parameters=complexity.parameters,
        flops_frame=complexity.frame.total + answers * complexity.answer.total,
        samples=f'{masks}{len(network.members)} member{"s"[: len(network.members) > 1]}',
        runs=reader.description,
    )
    return row, reading(reader, period_s=1.0 / FRAME_RATE)


def reading(reader: FaceReader, *, period_s: float) -> Work:
    """Time the frames of a turn, one by one."""

    def work(frames: Frames, turn: int) -> list[float]:
        spent = []
        for step in range(FRAMES_PER_TURN):
            index = turn * FRAMES_PER_TURN + step
            image, landmarks = frames[index % len(frames)]
            started = time.perf_counter()
            answer = reader.update({'face': landmarks}, index * period_s, image=image)
            spent.append((time.perf_counter() - started) * 1e3)
            assert answer, 'every frame must be answered'
        return spent

    return work


if __name__ == '__main__':
    main()
