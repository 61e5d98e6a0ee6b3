# SPDX-License-Identifier: Apache-2.0
"""From an image to the expressions in it: detect, track, read. Free of ROS."""

import time
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import torch

from fer_perception.assets import asset_path
from fer_perception.faces.detector import FaceDetector
from fer_perception.faces.face import Face
from fer_perception.faces.identifiers import Identifiers
from fer_perception.faces.landmarks import LandmarkPredictor
from fer_perception.faces.tracker import FaceTracker, FaceTrackerConfig
from fer_perception.inference.recognizer import ExpressionRecognizer
from fer_perception.models.model_file import LoadedModel, load_model
from fer_perception.results import FaceResult, FrameResult
from fer_perception.uncertainty.estimate import ExpressionEstimate

DEVICES = ('auto', 'cpu', 'cuda')
SHIPPED_MODEL = 'pst_bln_7.safetensors'  # seven classes; in fer_perception/models


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Set up the whole way from image to expression."""

    model: Path | None = None  # model file; None: the one in the package
    landmark_model: Path | None = None  # dlib's 68 landmarks; None: $FER_LANDMARK_MODEL or cache
    device: str = 'auto'  # 'auto' takes CUDA if there, else the CPU
    mc_samples: int = 100  # Monte Carlo dropout samples a frame
    detection_side: int = 640  # longest side of the image that faces are detected on, pixels
    tracker: FaceTrackerConfig = field(default_factory=FaceTrackerConfig)
    deterministic_ids: bool = False  # count the face ids up instead of drawing them
    seed: int | None = None  # of the dropout masks; None: another one each time
    threads: int = 1  # of PyTorch in this process; more only pay where cores stand idle


class Pipeline:
    """Reads images one after the other; every model is loaded once, when it is built."""

    def __init__(self, config: PipelineConfig) -> None:
        """Load the models.

        Raises FileNotFoundError, ValueError (ModelFileError for a model file) or
        fer_perception.assets.AssetError with a line that says what to do.
        """
        self.device = choose_device(config.device)
        torch.set_num_threads(config.threads)
        if config.model is None:
            self.model = shipped_model(device=self.device)
        else:
            self.model = load_model(config.model, device=self.device)
        self._recognizer = ExpressionRecognizer(
            self.model, mc_samples=config.mc_samples, seed=config.seed
        )
        self._tracker = FaceTracker(
            config=config.tracker,
            detector=FaceDetector(max_side=config.detection_side),
            predictor=LandmarkPredictor(config.landmark_model or asset_path('landmark_model')),
            identifiers=Identifiers(deterministic=config.deterministic_ids),
        )
        self._estimates: dict[str, ExpressionEstimate] = {}

    @property
    def recognizer(self) -> ExpressionRecognizer:
        """The recogniser, whose decision rule may be replaced between two images."""
        return self._recognizer

    def process(self, image: np.ndarray, stamp_ns: int) -> FrameResult:
        """Read the faces of the next image.

        image: (H, W, 3) uint8 BGR; stamp_ns: its time in nanoseconds. If time goes backwards, all
        faces start anew. Raises ValueError for an array that is no BGR image.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f'a BGR image (H, W, 3) of uint8 is needed, not {image.shape}')
        started = time.perf_counter()
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        faces = self._tracker.update(grey, stamp_ns * 1e-9)
        tracked = self._tracker.tracked_ids
        self._recognizer.keep_only(tracked)
        for face_id in self._estimates.keys() - tracked:
            del self._estimates[face_id]
        results = tuple(self._read(face, stamp_ns * 1e-9) for face in faces)
        height, width = image.shape[:2]
        return FrameResult(
            stamp_ns=stamp_ns,
            image_size=(width, height),
            faces=results,
            processing_ms=(time.perf_counter() - started) * 1e3,
        )

    def reset(self) -> None:
        """Forget all faces."""
        self._tracker.reset()
        self._recognizer.keep_only(())
        self._estimates.clear()

    def _read(self, face: Face, time_s: float) -> FaceResult:
        estimate = self._recognizer.update(face.face_id, face.landmarks, time_s)
        if estimate is not None:
            self._estimates[face.face_id] = estimate
        return FaceResult(
            face, self._estimates.get(face.face_id), updated=estimate is not None
        )


def choose_device(device: str) -> str:
    """Turn 'auto' into the device there is: 'cuda' or 'cpu'.

    Raises ValueError for another name, or for 'cuda' where there is none.
    """
    if device not in DEVICES:
        raise ValueError(f'device must be {", ".join(DEVICES)}, not {device!r}')
    if device == 'cuda' and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but PyTorch finds no CUDA here; use 'auto' or 'cpu'")
    return 'cuda' if device != 'cpu' and torch.cuda.is_available() else 'cpu'


def shipped_model(*, device: str) -> LoadedModel:
    """Load the model that comes with the package."""
    file = resources.files('fer_perception.models').joinpath(SHIPPED_MODEL)
    with resources.as_file(file) as path:
        return load_model(path, device=device)
