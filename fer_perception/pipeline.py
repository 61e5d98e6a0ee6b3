# SPDX-License-Identifier: Apache-2.0
"""From an image to the expressions in it: detect, track, read. Free of ROS."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from fer_perception import models
from fer_perception.assets import asset_path
from fer_perception.faces.detector import FaceDetector
from fer_perception.faces.face import Face
from fer_perception.faces.identifiers import Identifiers
from fer_perception.faces.landmarks import LandmarkPredictor
from fer_perception.faces.place import FacePlace
from fer_perception.faces.tracker import FaceTracker, FaceTrackerConfig
from fer_perception.graph.landmarks import check_landmarks
from fer_perception.inference.backend import BackendConfig, open_backend
from fer_perception.inference.face_reader import FaceReader
from fer_perception.inference.fused_reader import FusedReader
from fer_perception.inference.image_reader import ImageReader
from fer_perception.inference.landmark_reader import LandmarkReader
from fer_perception.inference.recognizer import ExpressionRecognizer
from fer_perception.models.image_architectures import IMAGE_ARCHITECTURES
from fer_perception.models.image_model_file import load_image_model
from fer_perception.results import FaceResult, FrameResult
from fer_perception.uncertainty.estimate import ExpressionEstimate

# The model that comes with the package, of seven classes.
SHIPPED_FILE = Path(models.__file__).with_name('pst_bln_7.safetensors')
LANDMARK_RECOGNIZER = 'pst_bln'
FUSED_RECOGNIZER = 'fused'
RECOGNIZERS = (LANDMARK_RECOGNIZER, *IMAGE_ARCHITECTURES, FUSED_RECOGNIZER)


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Set up the whole way from image to expression."""

    recognizer: str = LANDMARK_RECOGNIZER  # one of RECOGNIZERS; 'fused' is two of them
    model: Path | None = None  # model or ONNX file of PST-BLN; None: the one in the package
    image_model: Path | None = None  # model file of an image recogniser
    image_weight: float = 0.5  # share of the image recogniser in the fused answer, 0 to 1
    image_views: int = 1  # of every face by an image recogniser; 2 reads it mirrored as well
    landmark_model: Path | None = None  # dlib's 68 landmarks; None: $FER_LANDMARK_MODEL or cache
    backend: str = 'auto'  # of the network, see BackendConfig
    device: str = 'auto'  # 'auto' takes CUDA if there, else the CPU
    precision: str = 'auto'  # of the network, see BackendConfig
    mc_samples: int = 100  # Monte Carlo dropout samples a frame
    deadline_ms: float = 0.0  # from image to answer, kept by taking fewer samples; 0: none
    detection_side: int = 640  # longest side of the image that faces are detected on, pixels
    finds_faces: bool = True  # False: faces are only given to `read`; no landmark model is needed
    tracker: FaceTrackerConfig = field(default_factory=FaceTrackerConfig)
    deterministic_ids: bool = False  # count the face ids up instead of drawing them
    seed: int | None = None  # of the dropout masks; None: another one each time
    threads: int = 1  # of PyTorch and the landmark fits; more only pay where cores stand idle

    @property
    def landmark_file(self) -> Path | None:
        """The model file that reads landmarks; None where none does."""
        if self.recognizer not in (LANDMARK_RECOGNIZER, FUSED_RECOGNIZER):
            return None
        return SHIPPED_FILE if self.model is None else self.model

    @property
    def image_file(self) -> Path | None:
        """The model file that reads images; None where none does, or none was said."""
        return None if self.recognizer == LANDMARK_RECOGNIZER else self.image_model


class Pipeline:
    """Reads images one after the other; every model is loaded once, when it is built.

    Faces are found in the images, or given by somebody else who found them.
    """

    def __init__(self, config: PipelineConfig) -> None:
        """Load the models.

        Raises FileNotFoundError, ValueError (ModelFileError for a model file) or
        fer_perception.assets.AssetError with a line that says what to do.
        """
        torch.set_num_threads(config.threads)
        self._recognizer = ExpressionRecognizer(open_reader(config))
        self._tracker = _tracker(config) if config.finds_faces else None
        self._estimates: dict[str, ExpressionEstimate] = {}

    @property
    def recognizer(self) -> ExpressionRecognizer:
        """The recogniser; its decision rule and budget may be changed between two images."""
        return self._recognizer

    def process(self, image: np.ndarray, stamp_ns: int) -> FrameResult:
        """Read the faces of the next image.

        image: (H, W, 3) uint8 BGR; stamp_ns: its time in nanoseconds. If time goes backwards, all
        faces start anew. Raises ValueError for an array that is no BGR image, RuntimeError if the
        configuration says that faces are not to be found.
        """
        if self._tracker is None:
            raise RuntimeError('this pipeline finds no faces: finds_faces is off')
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f'a BGR image (H, W, 3) of uint8 is needed, not {image.shape}')
        started = time.perf_counter()
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        faces = self._tracker.update(grey, stamp_ns * 1e-9)
        height, width = image.shape[:2]
        return self._read(
            faces, stamp_ns, (width, height), tracked=self._tracker.tracked_ids, started=started,
            image=image,
        )

    def read(
        self,
        faces: Mapping[str, np.ndarray],
        stamp_ns: int,
        *,
        image_size: tuple[int, int],
        tracked_ids: Collection[str],
    ) -> FrameResult:
        """Read faces that somebody else found in the next image.

        faces: landmarks (68, 2) in pixels of each face id; stamp_ns: the image's time in
        nanoseconds; image_size: its width and height in pixels; tracked_ids: of all faces that may
        come again, the others are forgotten. After a gap of more than a second, or if time goes
        backwards, a face starts anew. Raises ValueError for landmarks that are no face.
        """
        started = time.perf_counter()
        given = [
            Face(
                face_id,
                FacePlace.from_landmarks(check_landmarks(points)).box,
                points.astype(np.float32),
            )
            for face_id, points in faces.items()
        ]
        return self._read(
            given, stamp_ns, image_size, tracked={*tracked_ids, *faces}, started=started
        )

    def _read(
        self,
        faces: Sequence[Face],
        stamp_ns: int,
        image_size: tuple[int, int],
        *,
        tracked: Collection[str],
        started: float,
        image: np.ndarray | None = None,
    ) -> FrameResult:
        """Read faces; started: when work on their image began, by the performance counter."""
        self._recognizer.keep_only(tracked)
        for face_id in self._estimates.keys() - set(tracked):
            del self._estimates[face_id]
        updates = self._recognizer.update(
            {face.face_id: face.landmarks for face in faces},
            stamp_ns * 1e-9,
            image=image,
            elapsed_ms=(time.perf_counter() - started) * 1e3,
        )
        self._estimates.update(updates)
        results = tuple(
            FaceResult(
                face, self._estimates.get(face.face_id), updated=face.face_id in updates
            )
            for face in faces
        )
        return FrameResult(
            stamp_ns=stamp_ns,
            image_size=image_size,
            faces=results,
            processing_ms=(time.perf_counter() - started) * 1e3,
        )

    def reset(self) -> None:
        """Forget all faces."""
        if self._tracker is not None:
            self._tracker.reset()
        self._recognizer.keep_only(())
        self._estimates.clear()

    def close(self) -> None:
        """End the thread that searches for faces; afterwards no image may be given any more."""
        if self._tracker is not None:
            self._tracker.close()


def _tracker(config: PipelineConfig) -> FaceTracker:
    return FaceTracker(
        config=config.tracker,
        detector=FaceDetector(max_side=config.detection_side),
        predictor=LandmarkPredictor(
            config.landmark_model or asset_path('landmark_model'), threads=config.threads
        ),
        identifiers=Identifiers(deterministic=config.deterministic_ids),
    )


def open_reader(config: PipelineConfig) -> FaceReader:
    """Load the models that read faces.

    Raises FileNotFoundError, ImportError or ValueError (ModelFileError for a model file) with a
    line that says what to do.
    """
    recognizer = config.recognizer
    if recognizer not in RECOGNIZERS:
        raise ValueError(f'recognizer must be {", ".join(RECOGNIZERS)}, not {recognizer!r}')
    if recognizer != LANDMARK_RECOGNIZER and not config.finds_faces:
        raise ValueError(
            f'recognizer {recognizer!r} reads images, but only landmarks are given '
            f'(hri_mode attached): use {LANDMARK_RECOGNIZER!r}'
        )
    if recognizer == LANDMARK_RECOGNIZER:
        return _landmark_reader(config)
    if recognizer == FUSED_RECOGNIZER:
        return FusedReader(
            _landmark_reader(config), _image_reader(config), image_weight=config.image_weight
        )
    return _image_reader(config)


def _landmark_reader(config: PipelineConfig) -> LandmarkReader:
    assert config.landmark_file is not None
    network, model = open_backend(
        config.landmark_file,
        BackendConfig(
            backend=config.backend,
            device=config.device,
            precision=config.precision,
            samples=config.mc_samples,
            threads=config.threads,
            seed=config.seed,
        ),
    )
    return LandmarkReader(network, model, deadline_ms=config.deadline_ms)


def _image_reader(config: PipelineConfig) -> ImageReader:
    if config.image_file is None:
        raise ValueError(
            f'recognizer {config.recognizer!r} needs image_model, a file made by fer_train fit: '
            'none comes with the package'
        )
    model = load_image_model(config.image_file)
    found = model.description.architecture
    if config.recognizer not in (found, FUSED_RECOGNIZER):
        raise ValueError(
            f'recognizer is {config.recognizer!r}, but {config.image_file} is of {found!r}'
        )
    return ImageReader(
        model,
        device=config.device,
        precision=config.precision,
        samples=config.mc_samples,
        views=config.image_views,
        seed=config.seed,
        deadline_ms=config.deadline_ms,
    )
