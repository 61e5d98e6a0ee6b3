# SPDX-License-Identifier: Apache-2.0
"""Pictures of recognisers show what they are given, and fer_train explain writes them."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from face_sets_made import MadeSequence, write_face_set
from image_models_made import small_image_model

from fer_perception.models.image_model_file import LoadedImageModel, save_image_model

pytest.importorskip('matplotlib', reason='the pictures need matplotlib')

from fer_perception.evaluation.figures import new_figure, save_figure  # noqa: E402
from fer_training.commands import explain  # noqa: E402
from fer_training.face_sets import read_face_set  # noqa: E402
from fer_training.image_dataset import FaceImages  # noqa: E402
from fer_training.recogniser_figures import (  # noqa: E402
    grad_cam_figure,
    localization_figure,
    plot_found_landmarks,
    plot_heat_map,
    plot_intensity_weights,
)

PARTS = ('eyebrows', 'eyes', 'nose', 'mouth', 'jaw')


def picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None and min(image.shape[:2]) > 150 and float(image.std()) > 5
    return image


def made_images(count: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_a_row_for_each_face_and_a_column_for_each_member_and_their_union(tmp_path: Path) -> None:
    maps = np.random.default_rng(1).random((2, 5, 24, 24))
    figure = grad_cam_figure(made_images(2), maps, members=PARTS, titles=['a', 'cost $1, $2'])
    assert len(figure.axes) == 2 * (1 + 5 + 1)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:7] == ['a', *PARTS, 'union'] and titles[7] == 'cost $1, $2'
    union = figure.axes[6].images[1].get_array()
    np.testing.assert_allclose(np.asarray(union), maps[0].max(0))
    save_figure(figure, tmp_path / 'maps.png')
    picture(tmp_path / 'maps.png')


def test_a_single_member_needs_no_union() -> None:
    maps = np.zeros((1, 1, 24, 24))
    figure = grad_cam_figure(made_images(1), maps, members=('fer_gcn',), titles=['a'])
    assert [axes.get_title() for axes in figure.axes] == ['a', 'fer_gcn']


def test_a_heat_map_is_seen_where_it_is_hot_only(tmp_path: Path) -> None:
    image = np.full((24, 24, 3), 128, np.uint8)
    heat = np.zeros((24, 24))
    heat[:, :12] = 1.0
    for name, given in (('plain', None), ('hot', heat)):
        figure = new_figure(width=3, height=3)
        plot_heat_map(figure.axes[0], image, given)
        save_figure(figure, tmp_path / f'{name}.png')
    plain, hot = (picture_of(tmp_path / f'{name}.png') for name in ('plain', 'hot'))
    changed = (plain != hot).any(-1)
    columns = np.flatnonzero(changed.any(0))
    assert len(columns) and columns.max() < plain.shape[1] * 0.52
    with pytest.raises(ValueError, match='heat'):
        plot_heat_map(new_figure(width=3, height=3).axes[0], image, heat[:5])


def picture_of(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image


def test_maps_of_other_members_are_refused() -> None:
    with pytest.raises(ValueError, match='maps'):
        grad_cam_figure(made_images(2), np.zeros((2, 4, 24, 24)), members=PARTS, titles=['', ''])


def test_intensity_weights_are_drawn_through_a_sigmoid() -> None:
    weights = np.array([0.1, 0.2, 0.7])
    figure = new_figure(width=6, height=4)
    plot_intensity_weights(figure.axes[0], {'_made $': weights, 'other': weights[:2]})
    line = figure.axes[0].lines[0]
    expected = [(step, 1 / (1 + np.exp(-w))) for step, w in enumerate(weights, start=1)]
    np.testing.assert_allclose(np.asarray(line.get_xydata()), np.array(expected))
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ['made $', 'other']


def test_landmarks_lie_where_they_were_found() -> None:
    figure = new_figure(width=3, height=3)
    points = np.array([[0.0, 0.0], [1.0, 0.5]])  # the corner of the crop, and its right side
    plot_found_landmarks(figure.axes[0], made_images(1)[0], {'nose': points})
    (line,) = figure.axes[0].lines
    found = np.asarray(line.get_xydata())
    np.testing.assert_allclose(found, np.array([[-0.5, -0.5], [23.5, 11.5]]))


def test_landmarks_are_compared_moment_by_moment(tmp_path: Path) -> None:
    found = {part: np.random.default_rng(2).random((3, 4, 2)) for part in PARTS}
    figure = localization_figure(made_images(3), {'before': found, 'after': found})
    assert [axes.get_title() for axes in figure.axes] == ['before', '', '', 'after', '', '']
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == list(PARTS)
        assert len({line.get_color() for line in axes.lines}) == 5
    save_figure(figure, tmp_path / 'landmarks.png')
    picture(tmp_path / 'landmarks.png')


def saved(path: Path, architecture: str, *, seed: int = 1, **changes: object) -> LoadedImageModel:
    if architecture == 'part_ensemble':
        changes = {'padding': 'same'} | changes
    model = small_image_model(
        architecture, seed=seed, classes=('neutral', 'happiness'), **changes
    )
    save_image_model(path, model.network, model.description)
    return model


def write_clips(folder: Path, *, frame_rate: float = 25.0) -> Path:
    write_face_set(
        folder,
        [
            MadeSequence(labels=('neutral',) * 8, label='neutral', frame_rate=frame_rate),
            MadeSequence(labels=('',) * 3, frame_rate=frame_rate),
        ],
    )
    return folder


def explained(tmp_path: Path, *arguments: str) -> set[str]:
    """Run the command and return the names of the files that it wrote."""
    out = tmp_path / 'explained'
    parser = explain_parser()
    options = parser.parse_args(
        ['explain', '--model', str(tmp_path / 'm.safetensors'), '--faces',
         str(tmp_path / 'set'), '--out', str(out), '--count', '2', *arguments]
    )
    options.run(options)
    names = {path.name for path in out.iterdir()}
    for name in names:
        picture(out / name)
    return names


def explain_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    explain.add_parser(parser.add_subparsers())
    return parser


def test_each_recogniser_is_explained_by_its_own_pictures(tmp_path: Path) -> None:
    write_clips(tmp_path / 'set')
    saved(tmp_path / 'm.safetensors', 'fer_gcn')
    assert explained(tmp_path) == {'grad_cam.png', 'intensity_weights.png'}
    saved(tmp_path / 'm.safetensors', 'abaw_ensemble')
    (tmp_path / 'explained' / 'intensity_weights.png').unlink()
    assert explained(tmp_path, '--expression', 'happiness') == {'grad_cam.png'}


def test_a_part_ensemble_is_compared_with_what_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path / 'set', frame_rate=0.0)  # stills are enough
    model = saved(tmp_path / 'm.safetensors', 'part_ensemble')
    names = explained(tmp_path, '--before', str(tmp_path / 'm.safetensors'))
    assert names == {'grad_cam.png', 'landmarks.png'}
    before, after = (
        line for line in capsys.readouterr().out.splitlines() if 'fine-tuning,' in line
    )
    assert before.split(': ')[1] == after.split(': ')[1]  # the same file
    assert all(part in after for part in PARTS)
    # What is printed is the mean absolute difference from the set's landmarks (equation 1).
    face_set = read_face_set(tmp_path / 'set')
    frames = explain.choose_frames(face_set, model.network, count=2)
    faces = FaceImages.of(
        face_set, model.description.crop, model.description.normalization
    )
    batch = faces.read(frames)
    with torch.no_grad():
        found = model.network.localize(batch.images[:, 0])[2].numpy()  # type: ignore[operator]
    total = 0.0
    for face in range(2):
        for place, landmark in enumerate(range(27, 36)):
            for axis in range(2):
                total += abs(
                    found[face, place, axis] - float(batch.landmarks[face, 0, landmark, axis])
                )
    assert f'nose {total / (2 * 9 * 2):.4f}' in after


def test_frames_are_spread_over_the_set_and_stay_within_their_sequences(tmp_path: Path) -> None:
    face_set = read_face_set(write_clips(tmp_path / 'set'))  # 8 frames and 3
    gcn = small_image_model('fer_gcn').network
    frames = explain.choose_frames(face_set, gcn, count=5)
    assert frames.tolist() == [[0, 1, 3, 4, 6, 7], [8, 8, 9, 9, 10, 10]]
    abaw = small_image_model('abaw_ensemble').network
    frames = explain.choose_frames(face_set, abaw, count=11)
    assert frames.shape == (11, 5)
    assert frames[:, 2].tolist() == list(range(11))
    assert frames[0].tolist() == [0, 0, 0, 1, 2] and frames[8].tolist() == [8, 8, 8, 9, 10]
    assert frames[7].tolist() == [5, 6, 7, 7, 7]


@pytest.mark.parametrize(
    ('architecture', 'arguments', 'said'),
    [
        ('part_ensemble', ('--expression', 'joy'), "no expression 'joy', only neutral, happiness"),
        ('fer_gcn', ('--before', 'm.safetensors'), 'both models must be of part_ensemble'),
        ('fer_gcn', (), 'do not follow each other in time, such as s0'),
    ],
)
def test_questions_without_an_answer_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clips(tmp_path / 'set', frame_rate=0.0)
    saved(tmp_path / 'm.safetensors', architecture)
    with pytest.raises(ValueError, match=said):
        explained(tmp_path, *arguments)
    assert not (tmp_path / 'explained').exists()


def test_ensembles_of_other_kinds_are_not_compared(tmp_path: Path) -> None:
    write_clips(tmp_path / 'set')
    saved(tmp_path / 'm.safetensors', 'part_ensemble', kind='baseline')
    assert explained(tmp_path) == {'grad_cam.png'}
    saved(tmp_path / 'parts.safetensors', 'part_ensemble')
    with pytest.raises(ValueError, match='another network'):
        explained(tmp_path, '--before', str(tmp_path / 'parts.safetensors'))
    with pytest.raises(ValueError, match='baseline'):
        explained(tmp_path, '--before', str(tmp_path / 'm.safetensors'))
