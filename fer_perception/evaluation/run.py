# SPDX-License-Identifier: Apache-2.0
"""What fer_evaluate does: find recordings, have them answered, score the answers, report."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from tqdm import tqdm

from fer_perception.evaluation.evaluation import Evaluation, Failure, attempt, evaluate
from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.offline import OfflineReader, describe_model
from fer_perception.evaluation.processes import ProcessError, WorkProcesses
from fer_perception.evaluation.recording_files import RecordingFile, find_recordings
from fer_perception.evaluation.report_tables import number, summary
from fer_perception.evaluation.thresholds import Threshold, check_thresholds, read_thresholds
from fer_perception.evaluation.untrusted_text import one_line
from fer_perception.pipeline_arguments import pipeline_config
from fer_perception.sources import Source, SourceFrame

Outcome = LabelledRecording | Failure


def run(options: argparse.Namespace) -> Evaluation:
    """Evaluate as the command line of fer_evaluate says; write the report and say what is in it.

    Recordings that cannot be evaluated are told on standard error; if none can, there is no
    report. Raises AssetError, ImportError, NodeError, OSError or ValueError for what stands in the
    way of all of them.
    """
    if options.out is not None:
        # Before the work, which may be long: matplotlib is there, and the folder can be written.
        from fer_perception.evaluation.report import write_report

        options.out.mkdir(parents=True, exist_ok=True)
    thresholds = read_thresholds(options.thresholds) if options.thresholds else ()
    files = find_recordings(options.recording, options.labels)
    answer = _play if options.live else _read
    outcomes, settings = answer(files, options, thresholds)
    evaluation = evaluate(outcomes, live=options.live, settings=settings, thresholds=thresholds)
    for failure in evaluation.failures:
        print(f'fer_evaluate: {one_line(failure.name)}: {failure.error}', file=sys.stderr)
    if evaluation.recordings:
        _tell(evaluation)
        if options.out is not None:
            for path in write_report(options.out, evaluation):
                print(f'written: {path}')
    return evaluation


def _read(
    files: Sequence[RecordingFile], options: argparse.Namespace, thresholds: Sequence[Threshold]
) -> tuple[list[Outcome], dict[str, Any]]:
    """Read recordings offline, several in processes of their own; return the settings as well."""
    config = pipeline_config(options, deterministic_ids=True, seed=options.seed)
    settings = describe_model(config)
    check_thresholds(thresholds, classes=settings['classes'], live=False)
    reader = OfflineReader(config=config, topic=options.topic)
    if len(files) == 1:
        return [attempt(partial(reader, progress=_progress), files[0])], settings
    outcomes: dict[int, Outcome] = {}
    with WorkProcesses(partial(attempt, reader), files, jobs=options.jobs) as processes:
        for index, outcome in _bar(processes, total=len(files), unit='recording'):
            if isinstance(outcome, ProcessError):
                outcome = Failure(name=files[index].name, error=str(outcome))
            outcomes[index] = outcome
    return [outcomes[index] for index in sorted(outcomes)], settings


def _play(
    files: Sequence[RecordingFile], options: argparse.Namespace, thresholds: Sequence[Threshold]
) -> tuple[list[Outcome], dict[str, Any]]:
    """Play recordings to a running node, one after the other; return the settings as well."""
    from fer_perception.evaluation.live import NodeUnderTest  # needs ROS

    check_thresholds(thresholds, classes=None, live=True)
    settings = {
        'image_topic': options.image_topic,
        'expressions_topic': f'{options.namespace.rstrip("/")}/expressions',
        'compressed': options.compressed,
    }
    with NodeUnderTest(**settings, topic=options.topic) as node:
        node.find(options.wait)
        outcomes = [attempt(partial(node, progress=_progress), file) for file in files]
    return outcomes, settings


def _progress(source: Source) -> Iterable[SourceFrame]:
    frames: Iterable[SourceFrame] = _bar(source, total=source.frame_count, unit='frame')
    return frames


def _bar(items: Any, *, total: int | None, unit: str) -> Any:
    return tqdm(items, total=total, unit=unit, disable=not sys.stderr.isatty())


def _tell(evaluation: Evaluation) -> None:
    print(summary(evaluation))
    for metric in evaluation.metrics:
        measured = metric.value(evaluation.pooled)
        if measured is not None:
            print(f'{one_line(metric.name):<32}{number(measured)}')
    for result in evaluation.thresholds:
        print(one_line(str(result)))
