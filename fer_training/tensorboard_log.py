# SPDX-License-Identifier: Apache-2.0
"""Curves of training for TensorBoard."""

from pathlib import Path
from types import TracebackType

from fer_training.fitting import EpochRecord
from fer_training.growth import GrowthStep


class TensorBoardLog:
    """Writes curves to a folder; `tensorboard --logdir FOLDER` shows them. A context manager."""

    def __init__(self, folder: Path) -> None:
        """Open the folder. Raises ImportError if TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "curves need TensorBoard: pip install 'fer_perception[training]'"
            ) from error
        self._writer = SummaryWriter(str(folder))
        self._epochs = 0

    def __enter__(self) -> 'TensorBoardLog':
        """Return the log."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what is left and close."""
        self._writer.close()

    def epoch(self, record: EpochRecord) -> None:
        """Add an epoch; epochs of several fits follow one another."""
        self._epochs += 1
        self._writer.add_scalar('training/loss', record.loss, self._epochs)
        self._writer.add_scalar('training/accuracy', record.accuracy, self._epochs)
        self._writer.add_scalar('training/learning_rate', record.learning_rate, self._epochs)

    def step(self, step: GrowthStep) -> None:
        """Add a step of growth."""
        self._writer.add_scalar('growth/loss', step.loss, step.step)
        self._writer.add_scalar('growth/layers', len(step.accepted), step.step)
        self._writer.add_scalar('growth/channels', sum(step.accepted), step.step)
        self.values('validation', dict(step.validation), step.step)

    def values(self, group: str, values: dict[str, float], step: int) -> None:
        """Add named values."""
        for name, value in values.items():
            self._writer.add_scalar(f'{group}/{name}', value, step)
