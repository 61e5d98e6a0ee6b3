# SPDX-License-Identifier: Apache-2.0
"""fer_train eval: measure a model on tracks, or on clips in the reference's format."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_perception.evaluation.figures import draw_metrics, draw_sequence
from fer_perception.evaluation.metrics import RecognitionMetrics
from fer_perception.models.model_file import ModelDescription, load_model
from fer_perception.uncertainty.measures import entropy
from fer_training.clips import Clips
from fer_training.commands.arguments import Commands, positive, positive_number
from fer_training.evaluation import UNITS, evaluate
from fer_training.label_mapping import read_label_mapping, relabel_tracks
from fer_training.reference_format import read_reference_clips
from fer_training.results import EvaluationResult, Predictions, write_result
from fer_training.tracks import Track, read_tracks


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'eval', help='measure a model: accuracy, calibration and uncertainty, as JSON'
    )
    parser.add_argument('--model', type=Path, required=True, help='model file (.safetensors)')
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument('--tracks', type=Path, help='labelled tracks (.npz)')
    data.add_argument('--data', type=Path,
                      help='or clips in the reference format (.npy), prepared as for training')
    parser.add_argument('--labels', type=Path, help='labels of --data (.pkl)')
    parser.add_argument('--json', type=Path, required=True, help='result file to write')
    parser.add_argument('--map', action='append', nargs='+', default=[],
                        metavar='LABEL=CLASS',
                        help='class of the model for a label of --tracks, LABEL= drops it; or a '
                        'JSON file with such pairs')
    parser.add_argument('--figures', type=Path, metavar='DIR', help='folder for pictures')
    parser.add_argument('--samples', type=positive, default=100,
                        help='Monte Carlo samples (%(default)s)')
    parser.add_argument('--lead-errors', type=positive_number, metavar='NUMBER',
                        help='end the sampling of a clip when the lead of its most probable class '
                        'exceeds so many standard errors, such as 3; --samples are the most then')
    parser.add_argument('--seed', type=int, default=0, help='(%(default)s)')
    parser.add_argument('--unit', choices=UNITS, default=UNITS[0],
                        help='what one answer is for; frame: streaming models only (%(default)s)')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluate, write the result and the pictures, print the main scores."""
    model = load_model(options.model)
    classes = model.description.classes
    data = _read_data(options, classes)
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
        data=(options.tracks or options.data).name,
        unit=options.unit,
        samples=options.samples,
        lead_errors=options.lead_errors,
        mc_samples_mean=float(predictions.sample_counts.mean()) if is_adaptive else None,
        seed=options.seed,
        clips=len(data),
        classes=classes,
        monte_carlo=monte_carlo,
        single_pass=single_pass,
    )
    write_result(options.json, result)
    print(_table(result))
    print(f'all scores in {options.json}')
    if options.figures is not None:
        draw_metrics(options.figures, monte_carlo=monte_carlo, single_pass=single_pass)
        if options.unit == 'clip':
            _draw_sequences(options.figures, _faces(data, model.description), predictions, classes)
        print(f'pictures in {options.figures}')


def _read_data(options: argparse.Namespace, classes: tuple[str, ...]) -> Clips | list[Track]:
    if options.tracks is not None:
        if options.labels is not None:
            raise ValueError('--labels goes with --data; tracks hold their labels')
        mapping = read_label_mapping([item for items in options.map for item in items])
        return relabel_tracks(read_tracks(options.tracks), mapping, classes=classes)
    if options.labels is None:
        raise ValueError('--data needs --labels, the .pkl file that belongs to it')
    if options.map:
        raise ValueError('--map goes with --tracks; labels of --data are indices of classes')
    return read_reference_clips(options.data, options.labels, classes=classes)


def _table(result: EvaluationResult) -> str:
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
        line(f'MC dropout, {result.samples}', scores(result.monte_carlo)),
        line('single pass', scores(result.single_pass)),
    ]
    if result.mc_samples_mean is not None:
        lines.append(f'adaptive: {result.mc_samples_mean:.1f} samples an answer on average, at '
                     f'most {result.samples}')
    if (samples := result.monte_carlo.samples) is not None:
        lines.append(f'single samples: accuracy {samples.mean:.4f} '
                     f'± {samples.standard_deviation:.4f}')
    return '\n'.join(lines)


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
