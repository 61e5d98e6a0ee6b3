# SPDX-License-Identifier: Apache-2.0
"""Evaluation without ROS: every image of a recording through the pipeline, always the same."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.labels import read_labels
from fer_perception.evaluation.observations import ObservationCollector
from fer_perception.evaluation.recording_files import RecordingFile
from fer_perception.pipeline import Pipeline, PipelineConfig, open_reader
from fer_perception.records import expression_records
from fer_perception.sources import BagSource, Source, SourceFrame, open_source

Progress = Callable[[Source], Iterable[SourceFrame]]  # gives a source's frames, showing how far


@dataclass(frozen=True, kw_only=True)
class OfflineReader:
    """Reads recordings, each by a pipeline of its own, so that none depends on another."""

    config: PipelineConfig  # with a seed and deterministic ids, so that the answers repeat
    topic: str | None  # of the images, for bags that have several

    def __call__(self, file: RecordingFile, progress: Progress = iter) -> LabelledRecording:
        """Read every image of a recording.

        Raises LabelError, RecordingFilesError, SourceError, or what Pipeline raises.
        """
        labels = read_labels(file.labels_path())
        collector = ObservationCollector()
        with open_source(file.source, topic=self.topic) as source:
            pipeline = Pipeline(self.config)
            try:
                labels.check_classes(pipeline.recognizer.labels)
                for frame in progress(source):
                    result = pipeline.process(frame.image, frame.stamp_ns)
                    collector.add(frame.stamp_ns, expression_records(result))
            finally:
                pipeline.close()
            return LabelledRecording(
                name=file.name,
                topic=source.topic if isinstance(source, BagSource) else None,
                damaged=source.skipped,
                observations=collector.finish(),
                labels=labels,
            )


def describe_model(config: PipelineConfig) -> dict[str, Any]:
    """Say what answers: the model's file and classes, and everything that the answers depend on.

    Raises what Pipeline raises for a model that cannot be loaded.
    """
    reader = open_reader(config)
    description: dict[str, Any] = {'recognizer': config.recognizer}
    for name, file in (('model', config.landmark_file), ('image_model', config.image_file)):
        if file is not None:
            description[name] = file.name
            description[f'{name}_sha256'] = hashlib.sha256(file.read_bytes()).hexdigest()
    return {
        **description,
        'classes': list(reader.labels),
        'network': reader.description,
        'mc_samples': config.mc_samples,
        'seed': config.seed,
        'warm_up_s': reader.rule.warm_up_s,
        'abstention_threshold': reader.rule.abstention_threshold,
        'confidence_margin': reader.rule.confidence_margin,
        'confidence_hold_s': reader.rule.confidence_hold_s,
    }
