# SPDX-License-Identifier: Apache-2.0
"""fer_train explain: show what an image recogniser looks at."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fer_perception.evaluation.figures import new_figure, save_figure
from fer_perception.faces.crop import ImageNormalization
from fer_perception.models.fer_gcn import FerGcn
from fer_perception.models.image_model_file import LoadedImageModel, load_image_model
from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.part_ensemble import PartEnsemble
from fer_training.commands.arguments import Commands, positive
from fer_training.face_sets import FaceSet, read_face_set
from fer_training.grad_cam import member_grad_cams, normalize_maps
from fer_training.image_dataset import FaceImages, ImageBatch
from fer_training.image_stages import landmark_loss
from fer_training.recogniser_figures import (
    grad_cam_figure,
    localization_figure,
    plot_intensity_weights,
)

EPILOG = """examples:
  fer_train explain --model parts.safetensors --faces faces/sfew --out explained
  fer_train explain --model parts.safetensors --before landmarks.safetensors --faces faces/sfew \\
      --out explained
  fer_train explain --model gcn.safetensors --faces faces/ck --out explained --expression happiness

Writes grad_cam.png: a row for each face with the places where each member finds the expression;
for fer_gcn intensity_weights.png: how much each step of a sequence counts; for part_ensemble
landmarks.png: the landmarks that its parts still find, and found before the fine-tuning.
The pictures show faces: keep them as private as the data."""

PIXEL = 255.0


@dataclass(frozen=True, kw_only=True)
class ExplainedFaces:
    """Hold what the recogniser says of some sequences, and where it finds it."""

    images: np.ndarray  # (N, H, W, 3) uint8: the frame of each that is shown
    maps: np.ndarray  # (N, M, H, W) over that frame, each 0 to 1
    titles: list[str]  # what was answered
    batch: ImageBatch  # images and landmarks of all frames


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'explain',
        help='show what an image recogniser looks at',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--model', type=Path, required=True, help='model file (.safetensors)')
    parser.add_argument('--faces', type=Path, required=True, metavar='FOLDER',
                        help='face set that fer_train prepare or extract has made')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder for the pictures')
    parser.add_argument('--count', type=positive, default=6,
                        help='faces to show, spread over the set (%(default)s)')
    parser.add_argument('--expression', metavar='NAME',
                        help='expression to look for in all faces; else what each is taken for')
    parser.add_argument('--before', type=Path, metavar='FILE',
                        help='the part_ensemble before it was fine-tuned, to compare landmarks')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read the model and the faces, write the pictures and say where they are."""
    model = load_image_model(options.model)
    network = model.network.requires_grad_(False)
    expression = _class_index(options.expression, model.description.classes)
    before = None if options.before is None else _network_before(options.before, network)
    face_set = read_face_set(options.faces)
    faces = FaceImages.of(face_set, model.description.crop, model.description.normalization)
    frames = choose_frames(face_set, network, count=options.count)
    explained = explain_faces(model, faces, frames, expression=expression)
    paths = [options.out / 'grad_cam.png']
    save_figure(
        grad_cam_figure(
            explained.images, explained.maps, members=network.members, titles=explained.titles
        ),
        paths[-1],
    )
    if isinstance(network, FerGcn):
        paths.append(options.out / 'intensity_weights.png')
        figure = new_figure(width=6.4, height=4.2)
        weights = network.intensity_weights().numpy()
        plot_intensity_weights(figure.axes[0], {face_set.data_set: weights})
        save_figure(figure, paths[-1])
    if isinstance(network, PartEnsemble) and network.config.kind != 'baseline':
        paths.append(options.out / 'landmarks.png')
        networks = {'after fine-tuning': network}
        if before is not None:
            networks = {'before fine-tuning': before} | networks
        draw_localization(paths[-1], networks, explained)
    print(f'written: {", ".join(map(str, paths))}')


def choose_frames(face_set: FaceSet, network: ImageNetwork, *, count: int) -> np.ndarray:
    """Choose what is shown, spread over a set: (N, T) frames of it, N at most `count`.

    FER-GCN sees whole sequences, all others consecutive frames about a middle one. Raises
    ValueError for stills where the network reads sequences.
    """
    t = network.frames
    stills = [sequence.name for sequence in face_set.sequences if not sequence.frame_rate]
    if t > 1 and stills:
        raise ValueError(
            f'the network reads sequences of {t} frames, but {face_set.data_set} has images that '
            f'do not follow each other in time, such as {stills[0]}'
        )
    if isinstance(network, FerGcn):
        chosen = _spread(len(face_set.sequences), count)
        return np.stack(
            [
                np.rint(np.linspace(sequence.start, sequence.stop - 1, t)).astype(int)
                for sequence in (face_set.sequences[index] for index in chosen)
            ]
        )
    starts = np.array([sequence.start for sequence in face_set.sequences])
    stops = np.array([sequence.stop for sequence in face_set.sequences])
    middle = _spread(len(face_set.labels), count)
    own = np.searchsorted(starts, middle, side='right') - 1  # sequence of each
    frames = middle[:, None] + np.arange(t) - t // 2  # (N, T)
    return np.clip(frames, starts[own, None], stops[own, None] - 1)


def explain_faces(
    model: LoadedImageModel, faces: FaceImages, frames: np.ndarray, *, expression: int | None
) -> ExplainedFaces:
    """Ask a model about sequences and map where it finds the answer, or the given class.

    frames: (N, T) of the face set.
    """
    network, classes = model.network, model.description.classes
    # FER-GCN is shown where the intensity is greatest, the others where they answer.
    shown = network.frames // 2
    if isinstance(network, FerGcn):
        shown = int(network.intensity_weights().argmax())
    images, maps, titles, batches = [], [], [], []
    for row in tqdm(frames, desc='explain', unit='face'):
        batch = faces.read(row[None])
        with torch.no_grad():
            probabilities = network.probabilities(network(batch.images))[0]  # (C,)
        answer = int(probabilities.argmax())
        looked_for = answer if expression is None else expression
        found = member_grad_cams(network, batch.images, torch.tensor([looked_for]))
        title = f'{classes[answer]} {probabilities[answer]:.0%}'
        if looked_for != answer:
            title = f'{classes[looked_for]} {probabilities[looked_for]:.0%}\n(taken for {title})'
        images.append(_picture(batch.images[0, shown], faces.normalization))
        maps.append(normalize_maps(found[0, :, shown]).numpy())
        titles.append(title)
        batches.append(batch)
    return ExplainedFaces(
        images=np.stack(images),
        maps=np.stack(maps),
        titles=titles,
        batch=ImageBatch(*(torch.cat(parts) for parts in zip(*batches, strict=True))),
    )


def draw_localization(
    path: Path, networks: dict[str, PartEnsemble], explained: ExplainedFaces
) -> None:
    """Draw the landmarks that the networks find, below dlib's, and print how far they are off."""
    landmarks = explained.batch.landmarks[:, 0]  # (N, 68, 2)
    rows: dict[str, dict[str, np.ndarray]] = {}
    for moment, network in networks.items():
        with torch.no_grad():
            found = network.localize(explained.batch.images[:, 0])
        targets = [landmarks[:, list(own)] for own in network.config.landmarks]  # (N, P, 2) each
        rows.setdefault("dlib's", _by_member(network, targets))
        rows[moment] = _by_member(network, found)
        errors = [
            f'{member} {float(landmark_loss(points, target).mean):.4f}'
            for member, points, target in zip(network.members, found, targets, strict=True)
        ]
        print(
            f'{moment}, mean absolute difference from dlib over {len(landmarks)} faces, sides of '
            f'the crop: {", ".join(errors)}'
        )
    save_figure(localization_figure(explained.images, rows), path)


def _by_member(network: ImageNetwork, values: list[Tensor]) -> dict[str, np.ndarray]:
    return {
        member: value.numpy() for member, value in zip(network.members, values, strict=True)
    }


def _class_index(expression: str | None, classes: tuple[str, ...]) -> int | None:
    if expression is None:
        return None
    if expression not in classes:
        raise ValueError(
            f'the model knows no expression {expression!r}, only {", ".join(classes)}'
        )
    return classes.index(expression)


def _network_before(path: Path, after: ImageNetwork) -> PartEnsemble:
    before = load_image_model(path).network
    if not isinstance(before, PartEnsemble) or not isinstance(after, PartEnsemble):
        raise ValueError('--before compares landmarks: both models must be of part_ensemble')
    if before.config != after.config:
        raise ValueError(f'{path} is of another network than the model: {before.config}')
    if before.config.kind == 'baseline':
        raise ValueError('--before compares landmarks, but a baseline network finds none')
    return before


def _picture(numbers: Tensor, normalization: ImageNormalization) -> np.ndarray:
    """Turn what a network reads back into a picture: (3, H, W) to (H, W, 3) uint8."""
    values = np.moveaxis(numbers.numpy(), 0, -1)  # (H, W, 3)
    values = values * np.array(normalization.deviation) + np.array(normalization.mean)
    return (values * PIXEL).round().clip(0, PIXEL).astype(np.uint8)


def _spread(total: int, count: int) -> np.ndarray:
    """Choose `count` of `total` numbers in equal distances, all where there are fewer."""
    count = min(count, total)
    return np.rint((np.arange(count) + 0.5) * total / count - 0.5).astype(int)
