# SPDX-License-Identifier: Apache-2.0
"""What the learner says while it works: lines, curves, and files of an evaluation."""

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fer_training.tensorboard_log import TensorBoardLog


@contextmanager
def training_log(
    folder: str | os.PathLike[str] | None, *, experiment: str, silent: bool
) -> Iterator[tuple[Callable[[str], None], TensorBoardLog | None]]:
    """Print lines unless silent; with a folder, write them to log.txt there, and curves too."""

    def say(line: str) -> None:
        if not silent:
            print(line)

    if not folder:
        yield say, None
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (
        (Path(folder) / 'log.txt').open('a') as file,
        TensorBoardLog(Path(folder) / f'{experiment}_tensorboard') as curves,
    ):

        def log(line: str) -> None:
            say(line)
            file.write(f'{line}\n')
            file.flush()

        yield log, curves


def evaluation_line(result: dict[str, Any]) -> str:
    """Say in one line what an evaluation found."""
    return (
        f'evaluation after epoch {result["epoch"] + 1}: loss {result["loss"]:.4f}, '
        f'accuracy {result["accuracy"]:.3f}'
    )


def write_scores(path: Path, names: Sequence[str], scores: np.ndarray) -> str:
    """Pickle a dictionary of lists; where names repeat, the number of the sample follows them."""
    labelled: dict[str, list[float]] = {}
    for index, (name, row) in enumerate(zip(names, scores.tolist(), strict=True)):
        labelled[name if name not in labelled else f'{name}#{index}'] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(labelled, protocol=4))
    return str(path)


def write_answers(path: Path, answers: np.ndarray, labels: np.ndarray) -> str:
    """Write a line 'answer,label' for every sample."""
    return _write(path, [f'{a},{label}' for a, label in zip(answers, labels, strict=True)])


def write_wrong_answers(path: Path, answers: np.ndarray, labels: np.ndarray) -> str:
    """Write a line 'index,answer,label' for every sample that was answered wrongly."""
    wrong = np.flatnonzero(answers != labels)
    return _write(path, [f'{index},{answers[index]},{labels[index]}' for index in wrong])


def _write(path: Path, lines: Sequence[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines), 'utf-8')
    return str(path)
