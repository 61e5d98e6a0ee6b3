# SPDX-License-Identifier: Apache-2.0
"""fer_train eval: measure a model on tracks, clips in the reference's format, or face sets."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_perception.evaluation.figures import draw_metrics, draw_sequence
from fer_perception.evaluation.metrics import RecognitionMetrics
from fer_perception.models.model_file import LoadedModel, ModelDescription, load_model
from fer_perception.uncertainty.measures import entropy
from fer_training.clips import Clips
from fer_training.commands.arguments import Commands, positive, positive_number
from fer_training.commands.evaluate_images import answers_of_faces
from fer_training.commands.fit_images import describe_members
from fer_training.commands.options import add_label_options
from fer_training.evaluation import UNITS, answers_of_frames, evaluate, predict_frames_of
from fer_training.face_sets import PARTS
from fer_training.frame_calibration import FrameCalibration
from fer_training.frame_predictions import FramePredictions
from fer_training.image_predictions import abaw_score
from fer_training.label_mapping import read_label_mapping, relabel_tracks
from fer_training.reference_format import read_reference_clips
from fer_training.results import EvaluationResult, Predictions, write_result
from fer_training.streaming_report import write_streaming_report
from fer_training.streaming_requirements import describe_lines
from fer_training.streaming_scores import measure_streaming
from fer_training.track_sources import NEUTRAL, PreparedTrack, TrackFile, TrackSources
from fer_training.tracks import Track, read_tracks


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'eval', help='measure a model: accuracy, calibration and uncertainty'
    )
    parser.add_argument('--model', type=Path, required=True, help='model file (.safetensors)')
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument('--tracks', type=Path, nargs='+', help='labelled tracks (.npz)')
    data.add_argument('--data', type=Path,
                      help='or clips in the reference format (.npy), prepared as for training')
    data.add_argument('--faces', type=Path, metavar='FOLDER',
                      help='or a face set, for image recognisers')
    parser.add_argument('--labels', type=Path, help='labels of --data (.pkl)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all scores')
    add_label_options(parser)
    parser.add_argument('--figures', type=Path, metavar='DIR',
                        help='folder for pictures; of --unit frame also for a report of all that '
                        'a model in the node must reach')
    parser.add_argument('--samples', type=positive, default=100,
                        help='Monte Carlo samples (%(default)s); of --faces for networks with '
                        'dropout')
    parser.add_argument('--lead-errors', type=positive_number, metavar='NUMBER',
                        help='end the sampling of a clip when the lead of its most probable class '
                        'exceeds so many standard errors, such as 3; --samples are the most then')
    parser.add_argument('--seed', type=int, default=0, help='(%(default)s)')
    parser.add_argument('--unit', choices=UNITS,
                        help='what one answer is for; frame: models that stream, or that read '
                        f'images ({UNITS[0]}; frame of part_ensemble and abaw_ensemble)')
    parser.add_argument('--views', type=int, choices=(1, 2), default=1,
                        help='of --faces: 2 reads every face mirrored as well (%(default)s)')
    parser.add_argument('--part', choices=[part for part in PARTS if part],
                        help='of --faces: only the sequences of this part of the data set')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluate, print the main scores, write what was asked for."""
    if options.faces is not None:
        _evaluate_faces(options)
        return
    if options.views != 1 or options.part is not None:
        raise ValueError('--views and --part go with --faces')
    options.unit = options.unit or UNITS[0]
    model = load_model(options.model)
    classes = model.description.classes
    streams = options.tracks is not None and not model.description.clip_frames
    frames: FramePredictions | None = None
    faces: list[np.ndarray] = []
    if streams and options.lead_errors is None:
        tracks = _prepared_tracks(options, model)
        frames = predict_frames_of(
            model, tracks, samples=options.samples, seed=options.seed, progress=True
        )
        faces = [np.moveaxis(track.features, 0, -1) for track in tracks]  # (T, 51, 2)
        predictions = answers_of_frames(frames, model.description, unit=options.unit)
        count = len(frames.tracks.names)
    else:
        data = _read_data(options, classes)
        faces = _faces(data, model.description)
        count = len(data)
        predictions = evaluate(
            model,
            data,
            unit=options.unit,
            samples=options.samples,
            lead_errors=options.lead_errors,
            seed=options.seed,
            progress=True,
        )
    monte_carlo, single_pass = predictions.measure(classes)
    is_adaptive = options.lead_errors is not None
    result = EvaluationResult(
        model=options.model.name,
        data=', '.join(path.name for path in options.tracks or [options.data]),
        unit=options.unit,
        samples=options.samples,
        lead_errors=options.lead_errors,
        mc_samples_mean=float(predictions.sample_counts.mean()) if is_adaptive else None,
        seed=options.seed,
        clips=count,
        classes=classes,
        monte_carlo=monte_carlo,
        single_pass=single_pass,
        abstention_threshold=model.description.abstention_threshold,
        selective=predictions.measure_confident(model.description.abstention_threshold),
    )
    print(_table(result))
    _write(options.json, result)
    by_frame = options.unit == 'frame' and frames is not None
    if by_frame:
        assert frames is not None
        description = model.description
        scores = measure_streaming(
            frames,
            FrameCalibration(
                temperature=description.temperature,
                single_pass_temperature=description.temperature,
                abstention_threshold=description.abstention_threshold,
            ),
            classes=classes,
            frame_rate=description.frame_rate / description.network.total_stride,
        )
        print(describe_lines(scores))
    if options.figures is not None:
        if by_frame:
            command = shlex.join(['fer_train', *sys.argv[1:]])
            write_streaming_report(
                options.figures, scores, title=f'{result.model} on {result.data}', command=command
            )
        else:
            draw_metrics(options.figures, monte_carlo=monte_carlo, single_pass=single_pass)
            _draw_sequences(options.figures, faces, predictions, classes)
        print(f'pictures in {options.figures}')


def _evaluate_faces(options: argparse.Namespace) -> None:
    """Evaluate an image recogniser on a face set."""
    if options.labels is not None or options.lead_errors is not None or options.estimate_intensity:
        raise ValueError('--labels, --lead-errors and --estimate-intensity are for landmarks: '
                         'leave them out')
    answers = answers_of_faces(options)
    predictions, classes = answers.predictions, answers.description.classes
    vote, single_pass = predictions.measure(classes)
    result = EvaluationResult(
        model=options.model.name,
        data=options.faces.name,
        unit=answers.unit,
        samples=len(predictions.monte_carlo),
        seed=options.seed,
        clips=answers.sequences,
        classes=classes,
        monte_carlo=vote,
        single_pass=single_pass,
        abstention_threshold=answers.description.abstention_threshold,
        selective=predictions.measure_confident(answers.description.abstention_threshold),
    )
    print(_table(result, samples='all samples'))
    print(f'0.67 macro F1 + 0.33 accuracy: {abaw_score(vote):.4f}')
    print(describe_members(answers.member_accuracies))
    _write(options.json, result)
    if options.figures is not None:
        draw_metrics(options.figures, monte_carlo=vote, single_pass=single_pass)
        _draw_sequences(options.figures, answers.faces, predictions, classes)
        print(f'pictures in {options.figures}')


def _write(path: Path | None, result: EvaluationResult) -> None:
    if path is not None:
        write_result(path, result)
        print(f'all scores in {path}')


def _prepared_tracks(
    options: argparse.Namespace, model: LoadedModel
) -> tuple[PreparedTrack, ...]:
    if options.labels is not None:
        raise ValueError('--labels goes with --data; tracks hold their labels')
    description = model.description
    mapping = read_label_mapping([item for items in options.map for item in items])
    sources = TrackSources(
        files=tuple(TrackFile(path=path) for path in options.tracks),
        mapping=tuple(sorted(mapping.items())),
        classes=description.classes,
        estimates_intensity=options.estimate_intensity,
        frame_rate=description.frame_rate,
        normalization=description.normalization,
    )
    tracks = sources.load(progress=True)[0]
    shown = [track for track in tracks if description.classes[track.label] != NEUTRAL]
    if shown and all((track.targets == track.label).all() for track in shown):
        print('every frame of an expression counts as showing it, from the first on: where the '
              'tracks begin at rest, --estimate-intensity leaves out the frames before it',
              file=sys.stderr)
    return tracks


def _read_data(options: argparse.Namespace, classes: tuple[str, ...]) -> Clips | list[Track]:
    if options.tracks is not None:
        if options.labels is not None:
            raise ValueError('--labels goes with --data; tracks hold their labels')
        mapping = read_label_mapping([item for items in options.map for item in items])
        tracks = [track for path in options.tracks for track in read_tracks(path)]
        return relabel_tracks(tracks, mapping, classes=classes)
    if options.labels is None:
        raise ValueError('--data needs --labels, the .pkl file that belongs to it')
    if options.map:
        raise ValueError('--map goes with --tracks; labels of --data are indices of classes')
    return read_reference_clips(options.data, options.labels, classes=classes)


def _table(result: EvaluationResult, *, samples: str = 'MC dropout') -> str:
    def line(name: str, scores: Sequence[float | None]) -> str:
        cells = ('-' if score is None else f'{score:.4f}' for score in scores)
        return f'{name:<22}' + ''.join(f'{cell:>10}' for cell in cells)

    def scores(metrics: RecognitionMetrics) -> list[float | None]:
        return [
            metrics.accuracy,
            metrics.macro_f1,
            metrics.expected_calibration_error,
            metrics.negative_log_likelihood,
            metrics.area_under_risk_coverage,
            metrics.error_detection_auroc.predictive_entropy,
        ]

    columns = ('accuracy', 'macro F1', 'ECE', 'NLL', 'AURC', 'err AUROC')
    lines = [
        f'{result.model} on {result.clips} clips of {result.data}, '
        f'{result.monte_carlo.count} answers ({result.unit})',
        ' ' * 22 + ''.join(f'{column:>10}' for column in columns),
        line(f'{samples}, {result.samples}', scores(result.monte_carlo)),
        line('single pass', scores(result.single_pass)),
    ]
    lines.append(_describe_confident(result))
    if result.mc_samples_mean is not None:
        lines.append(f'adaptive: {result.mc_samples_mean:.1f} samples an answer on average, at '
                     f'most {result.samples}')
    if (single := result.monte_carlo.samples) is not None:
        lines.append(f'single samples: accuracy {single.mean:.4f} '
                     f'± {single.standard_deviation:.4f}')
    return '\n'.join(lines)


def _describe_confident(result: EvaluationResult) -> str:
    scores = result.selective
    wrong = '' if scores.risk is None else f', {scores.risk:.1%} of those wrong'
    return (f'CONFIDENT, from {result.abstention_threshold:.3f} on: {scores.coverage:.1%} of the '
            f'answers{wrong}')


def _faces(data: Clips | list[Track], description: ModelDescription) -> list[np.ndarray]:
    """Return the landmarks (F, 68 or 51, 2) of every clip, or nothing if they hold no faces."""
    if not isinstance(data, Clips):
        return [track.found_landmarks for track in data]
    if not data.holds_landmarks or description.clip_displacement != 'none':
        return []
    return [np.moveaxis(features, 0, -1) for features in data.features]  # (T, 51, 2)


def _draw_sequences(
    folder: Path,
    faces: Sequence[np.ndarray],
    predictions: Predictions,
    classes: Sequence[str],
) -> None:
    """Draw the least and the most certain clip, where there are faces to draw."""
    if not faces:
        return
    certainty = -entropy(predictions.ensemble)
    for name, index in (('uncertain', certainty.argmin()), ('certain', certainty.argmax())):
        landmarks = faces[int(index)]
        frames = np.linspace(0, len(landmarks) - 1, 3).round().astype(int)
        draw_sequence(
            folder / f'sequence_{name}.png',
            landmarks=landmarks[frames],
            frames=[f'frame {frame + 1} of {len(landmarks)}' for frame in frames],
            samples=predictions.samples_of(int(index)),
            classes=classes,
            label=classes[predictions.labels[index]],
        )
