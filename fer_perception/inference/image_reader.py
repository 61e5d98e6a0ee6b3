# SPDX-License-Identifier: Apache-2.0
"""Reads faces by their images: the features of each frame once, the answer over the last few."""

import copy
from collections import deque
from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fer_perception.graph.resampling import TrackResampler
from fer_perception.inference.backend import (
    BF16_BOUND,
    PRECISIONS,
    choose_device,
    cpu_has_bf16,
)
from fer_perception.inference.face_reader import FaceReader, FaceReading
from fer_perception.inference.image_samples import draw_samples
from fer_perception.inference.sample_budget import SampleBudget
from fer_perception.models.dropout import seeded_generator
from fer_perception.models.image_model_file import LoadedImageModel
from fer_perception.models.image_network import ImageNetwork

MOST_VIEWS = 2  # of every frame: as it is, and mirrored
MOST_GAP_S = 1.0  # after a longer one a face starts anew, as its resampler does
NO_LANDMARKS = np.zeros((1, 2))  # only the ticks of the resampler are wanted


class ImageReader(FaceReader):
    """Cuts every face out of the image and keeps the features of its last frames.

    Samples are Monte Carlo masks (where the network has dropout), times members, times views.
    """

    def __init__(
        self,
        model: LoadedImageModel,
        *,
        device: str = 'auto',
        precision: str = 'auto',
        samples: int = 100,
        views: int = 1,
        seed: int | None = None,
        deadline_ms: float = 0.0,
    ) -> None:
        """Take a model.

        `precision` is that of the features: 'fp32', 'bf16', or 'auto' for bf16 where the CPU has
        it and a trial image's probabilities move by at most BF16_BOUND.
        `samples` are the Monte Carlo masks of a network with dropout; `views` of 2 reads every
        frame mirrored as well. Features dominate the time, so no deadline lowers the samples.
        Raises ValueError for views, a precision or a device that are not there.
        """
        super().__init__(
            labels=model.description.classes,
            rule=model.description.rule,
            budget=SampleBudget(samples, deadline_ms=deadline_ms),
        )
        if not 1 <= views <= MOST_VIEWS:
            raise ValueError(f'image_views must be 1 to {MOST_VIEWS}, not {views}')
        if precision not in PRECISIONS:
            raise ValueError(f'precision must be {", ".join(PRECISIONS)}, not {precision!r}')
        self._device = torch.device(choose_device(device))
        self._network = model.network.to(self._device)
        if precision == 'bf16' and self._device.type != 'cpu':
            raise ValueError("precision 'bf16' is for the CPU; use 'auto' or 'fp32' with CUDA")
        if precision == 'auto' and (self._device.type != 'cpu' or not cpu_has_bf16()):
            precision = 'fp32'
        self._features_of = _frame_features(model, precision)
        self._model = model.description
        self._views = views
        self._generator = seeded_generator(seed, device=self._device)
        self._faces: dict[str, _FaceFrames] = {}

    @property
    def description(self) -> str:
        """Say what runs where, in words, for logs."""
        network = self._network
        counts = {'frame': network.frames, 'member': len(network.members), 'view': self._views}
        sizes = ', '.join(f'{n} {name}{"s"[: n > 1]}' for name, n in counts.items())
        return (
            f'{self._model.architecture}, {network.image_size}x{network.image_size} pixels, '
            f'{sizes}; torch {self._features_of.precision} on {self._device.type}'
        )

    def update(
        self,
        faces: Mapping[str, np.ndarray],
        time_s: float,
        *,
        image: np.ndarray | None = None,
        elapsed_ms: float = 0.0,
    ) -> dict[str, list[FaceReading]]:
        """Add a frame of several faces, see FaceReader. Raises ValueError without an image."""
        if image is None:
            raise ValueError(f'{self._model.architecture} reads images: landmarks are not enough')
        due = {
            face_id: steps
            for face_id in faces
            if (steps := self._face(face_id).count_steps(time_s))
        }
        if not due:
            return {}
        features = self._features([faces[face_id] for face_id in due], image)  # (n, V, F)
        for (face_id, steps), own in zip(due.items(), features, strict=True):
            self._faces[face_id].push(own, steps)
        sequences = torch.stack([self._faces[face_id].sequence() for face_id in due])
        samples, weights = self._samples(sequences)  # (S, n, C), (S,)
        return {
            face_id: [self._faces[face_id].reading(samples[:, index], weights)]
            for index, face_id in enumerate(due)
        }

    def keep_only(self, face_ids: Collection[str]) -> None:
        """Free the frames of all other faces."""
        for face_id in self._faces.keys() - set(face_ids):
            del self._faces[face_id]

    def _face(self, face_id: str) -> '_FaceFrames':
        if face_id not in self._faces:
            self._faces[face_id] = _FaceFrames(
                frames=self._network.frames, frame_rate=self._model.frame_rate
            )
        return self._faces[face_id]

    @torch.inference_mode()
    def _features(self, faces: list[np.ndarray], image: np.ndarray) -> Tensor:
        """Compute the features (n, V, F) of n faces in V views."""
        normalization = self._model.normalization
        crops = np.stack(
            [
                normalization.numbers(
                    normalization.pixels(self._model.crop.cut(image, landmarks)[0])
                )
                for landmarks in faces
            ]
        )
        pixels = torch.from_numpy(crops).to(self._device)  # (n, 3, H, W)
        views = torch.stack([pixels, pixels.flip(-1)][: self._views], 1)  # (n, V, 3, H, W)
        features = self._features_of(views.flatten(0, 1))  # (n * V, F)
        return features.unflatten(0, (len(faces), self._views))

    @torch.inference_mode()
    def _samples(self, sequences: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Draw samples (S, n, C) with weights (S,) of sequences (n, T, V, F)."""
        n = len(sequences)
        by_view = sequences.permute(2, 0, 1, 3).flatten(0, 1)  # (V * n, T, F)
        samples, weights = draw_samples(
            self._network,
            by_view,
            samples=self.budget.most,
            temperature=self._model.temperature,
            generator=self._generator,
        )
        drawn = samples.unflatten(1, (self._views, n)).transpose(0, 1)  # (V, S, n, C)
        repeated = weights.repeat(self._views) / self._views  # (V * S,)
        return drawn.flatten(0, 1).cpu().numpy(), repeated.cpu().numpy()


class _FrameFeatures:
    """The part of a network that reads each frame, in a precision of its own."""

    def __init__(self, network: ImageNetwork, precision: str) -> None:
        self.precision = precision
        self._type = torch.bfloat16 if precision == 'bf16' else torch.float32
        # A copy in bf16: converting the weights at every frame would cost more than it saves.
        self._network = copy.deepcopy(network).to(self._type) if precision == 'bf16' else network
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Tensor) -> Tensor:
        """Compute features: (N, 3, H, W) to (N, F) float32."""
        ordered = images.to(self._type, memory_format=torch.channels_last)
        return self._network.frame_features(ordered).float()


@torch.inference_mode()
def _frame_features(model: LoadedImageModel, precision: str) -> _FrameFeatures:
    """Prepare the features; 'auto' is bf16 if a trial image's probabilities stay nearly alike."""
    network, size = model.network, model.network.image_size
    exact = _FrameFeatures(network, 'fp32')
    if precision == 'fp32':
        return exact
    fast = _FrameFeatures(network, 'bf16')
    if precision == 'bf16':
        return fast
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 4.0 - 2.0
    image = functional.interpolate(noise, (size, size), mode='bilinear')
    answers = []
    for features_of in (exact, fast):
        sequence = features_of(image).expand(1, network.frames, -1)  # (1, T, F)
        logits = network.random_part(sequence) / model.description.temperature
        answers.append(network.probabilities(logits))
    return fast if float((answers[0] - answers[1]).abs().max()) <= BF16_BOUND else exact


class _FaceFrames:
    """What is remembered of one face."""

    def __init__(self, *, frames: int, frame_rate: float) -> None:
        self._rate = frame_rate
        # Its ticks tell which frames are read; a network of single images reads all of them.
        self._ticks = TrackResampler(frame_rate=frame_rate) if frame_rate else None
        self._features: deque[Tensor] = deque(maxlen=frames)  # (V, F) each
        self._start_s = self._last_s = 0.0

    def count_steps(self, time_s: float) -> int:
        """Count the steps that a frame completes; it starts anew after a gap, or back in time."""
        if not self._features or not 0.0 <= time_s - self._last_s <= MOST_GAP_S:
            self._features.clear()
            self._start_s = time_s
        self._last_s = time_s
        return 1 if self._ticks is None else len(self._ticks.push(time_s, NO_LANDMARKS))

    def push(self, features: Tensor, steps: int) -> None:
        """Add the features (V, F) of a frame that stands for so many steps."""
        self._features.extend([features] * steps)

    def sequence(self) -> Tensor:
        """Return the last T frames (T, V, F), the oldest repeated while there are fewer."""
        missing = (self._features.maxlen or 0) - len(self._features)
        return torch.stack([self._features[0]] * missing + list(self._features))

    def reading(self, samples: np.ndarray, weights: np.ndarray) -> FaceReading:
        """Make the reading of the latest frame: samples (S, C), weights (S,)."""
        return FaceReading(
            samples=samples,
            weights=weights,
            time_s=self._last_s - self._start_s,
            window_s=len(self._features) / self._rate if self._rate else 0.0,
        )
