# SPDX-License-Identifier: Apache-2.0
"""An evaluation answers as the model does, repeats with its seed, and says what does not fit."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faces_made import face_landmarks
from models_made import CLASSES, description_of, small_network
from torch import Tensor, nn

from fer_perception.graph.normalization import normalize_landmarks
from fer_perception.graph.resampling import resample_track
from fer_perception.inference.monte_carlo import MonteCarloDropout
from fer_perception.models.dropout import SeededDropout
from fer_perception.models.model_file import LoadedModel, save_model
from fer_training.cli import main
from fer_training.clips import ClipPreparation, clips_from_tracks
from fer_training.evaluation import evaluate, predict_clips
from fer_training.inputs import NetworkInput, batch_edge_vectors
from fer_training.label_mapping import read_label_mapping, relabel_tracks
from fer_training.reference_format import write_reference_clips
from fer_training.results import read_evaluation_result
from fer_training.tracks import Track, write_tracks

LABELS = ('happiness', 'sadness', 'neutral', 'happiness', 'fear', 'neutral')


def made_tracks(*, labels: tuple[str, ...] = LABELS, frames: int = 24) -> list[Track]:
    return [
        Track(face_landmarks(frames=frames + index, seed=index).astype(np.float32), label,
              f's{index % 2}', 30.0)
        for index, label in enumerate(labels)
    ]


def clip_model(**changes: Any) -> LoadedModel:
    network = small_network(window=0, dropout=0.4)
    settings: dict[str, Any] = {'frame_rate': 0.0, 'clip_frames': 8, 'temperature': 1.5}
    return LoadedModel(network, description_of(network, **(settings | changes)))


def streaming_model(**changes: Any) -> LoadedModel:
    network = small_network(dropout=0.4, **changes)
    return LoadedModel(network, description_of(network, temperature=1.5, warm_up_s=0.2))


def edge_vectors(model: LoadedModel, points: np.ndarray) -> Tensor:
    """Compute edge vectors of normalised landmarks: (T, 68, 2) -> (1, 2, T, E)."""
    vectors = torch.from_numpy(np.moveaxis(points, -1, 0)[None, :, :, 17:].astype(np.float32))
    return batch_edge_vectors(vectors, torch.from_numpy(model.description.edges))


def test_a_clip_model_answers_each_clip_once() -> None:
    model, tracks = clip_model(), made_tracks()
    predictions = evaluate(model, tracks, samples=7, seed=3)
    assert predictions.monte_carlo.shape == (7, 6, 7)
    assert [CLASSES[label] for label in predictions.labels] == list(LABELS)
    clips = clips_from_tracks(
        tracks, classes=CLASSES,
        preparation=ClipPreparation(frames=8, normalization='similarity'),
    )
    features = batch_edge_vectors(
        torch.from_numpy(clips.features), torch.from_numpy(model.description.edges)
    )
    with torch.inference_mode():
        single = (model.network(features) / 1.5).softmax(-1)
    assert predictions.single_pass == pytest.approx(single.numpy(), abs=1e-6)
    drawn = MonteCarloDropout(model.network, samples=7, temperature=1.5, seed=3)(features)
    assert predictions.monte_carlo == pytest.approx(drawn.numpy(), abs=1e-6)
    given_clips = evaluate(model, clips, samples=7, seed=3)
    assert np.array_equal(given_clips.monte_carlo, predictions.monte_carlo)


def test_clips_are_made_as_the_description_says() -> None:
    tracks = made_tracks()
    settings = {'clip_sampling': 'first_and_last', 'clip_displacement': 'first'}
    model = clip_model(**settings, normalization='centred')
    clips = clips_from_tracks(
        tracks, classes=CLASSES,
        preparation=ClipPreparation(
            frames=8, normalization='centred', sampling='first_and_last', displacement='first'
        ),
    )
    assert np.array_equal(
        evaluate(model, tracks, samples=2).single_pass,
        evaluate(model, clips, samples=2).single_pass,
    )


def test_the_seed_alone_decides_the_samples() -> None:
    for model in (clip_model(), streaming_model()):
        torch.manual_seed(1)
        first = evaluate(model, made_tracks(), samples=4, seed=5)
        torch.manual_seed(2)
        again = evaluate(model, made_tracks(), samples=4, seed=5)
        other = evaluate(model, made_tracks(), samples=4, seed=6)
        assert np.array_equal(first.monte_carlo, again.monte_carlo)
        assert not np.array_equal(first.monte_carlo, other.monte_carlo)
        assert np.array_equal(first.single_pass, other.single_pass)
        assert not any(module.training for module in model.network.modules())


@pytest.mark.parametrize('stride', [1, 2])
def test_frames_of_a_streaming_model_are_its_answers_over_time(stride: int) -> None:
    model = streaming_model(strides=(1, stride))
    tracks = made_tracks()
    frames = evaluate(model, tracks, unit='frame', samples=3)
    expected = []
    for track in tracks:
        points = normalize_landmarks(track.landmarks)
        points = resample_track(points, track.times_s, frame_rate=30.0)
        with torch.inference_mode():
            logits = model.network.logits_over_time(edge_vectors(model, points))
        answers = (logits / 1.5).softmax(-1)[0].numpy()  # (T', classes)
        expected.append(answers[6 // stride :])  # warm up: 0.2 s are 6 frames
    assert frames.single_pass == pytest.approx(np.concatenate(expected), abs=1e-5)
    clips = evaluate(model, tracks, unit='clip', samples=3)
    assert clips.single_pass == pytest.approx(
        np.array([answers.mean(0) for answers in expected]), abs=1e-5
    )
    starts = np.cumsum([0, *(len(answers) for answers in expected)])
    for index in range(len(tracks)):
        own = frames.monte_carlo[:, starts[index] : starts[index + 1]].mean(1)  # (S, classes)
        assert clips.monte_carlo[:, index] == pytest.approx(own, abs=1e-6)
    assert frames.names[0] == 'happiness_s0_0@6'


def test_only_frames_that_show_the_expression_count_for_a_clip() -> None:
    model = streaming_model()
    intensity = np.concatenate([np.zeros(12), np.full(6, 0.3), np.ones(6)]).astype(np.float32)
    track = replace(made_tracks()[0], intensity=intensity)
    frames = evaluate(model, [track], unit='frame', samples=2)
    assert [CLASSES[label] for label in frames.labels] == ['neutral'] * 6 + ['happiness'] * 6
    clip = evaluate(model, [track], unit='clip', samples=2)
    assert clip.single_pass[0] == pytest.approx(frames.single_pass[6:].mean(0), abs=1e-6)
    never = replace(track, intensity=np.full(24, 0.3, np.float32))
    with pytest.raises(ValueError, match='happiness_s0_1 never shows'):
        evaluate(model, [track, never], samples=2)


def test_a_track_that_ends_in_the_warm_up_is_answered_by_its_last_frame() -> None:
    model = streaming_model()
    track = made_tracks(labels=('fear',), frames=4)[0]
    answer = evaluate(model, [track], samples=2).single_pass[0]
    points = normalize_landmarks(track.landmarks)
    with torch.inference_mode():
        logits = model.network.logits_over_time(edge_vectors(model, points))
    assert answer == pytest.approx((logits[0, -1] / 1.5).softmax(-1).numpy(), abs=1e-5)
    with pytest.raises(ValueError, match='warm-up of 0.2 s'):
        evaluate(model, [track], unit='frame', samples=2)


class PointNetwork(nn.Module):
    """A network on landmarks, with two streams in one tensor, as the comparison has them."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = SeededDropout(0.3)
        self.head = nn.Linear(2 * 51, 7)

    def deterministic_part(self, points: Tensor) -> Tensor:
        return torch.cat([points, points.roll(1, -1)], -1)  # (N, 2, T, 102)

    def random_part(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(features).mean((1, 2)))
        return logits


def test_networks_on_landmarks_are_evaluated_too() -> None:
    torch.manual_seed(1)
    network = PointNetwork().eval()
    clips = clips_from_tracks(
        made_tracks(), classes=CLASSES,
        preparation=ClipPreparation(frames=8, normalization='similarity'),
    )
    predictions = predict_clips(network, clips, network_input=NetworkInput(edges=None), samples=5)
    assert predictions.monte_carlo.shape == (5, 6, 7)
    assert predictions.monte_carlo.std(0).min() > 0
    network.train()
    with pytest.raises(ValueError, match='evaluation mode'):
        predict_clips(network, clips, network_input=NetworkInput(edges=None), samples=5)


def test_data_that_do_not_fit_the_model_are_refused() -> None:
    tracks = made_tracks()
    clips = clips_from_tracks(
        tracks, classes=CLASSES,
        preparation=ClipPreparation(frames=9, normalization='similarity'),
    )
    with pytest.raises(ValueError, match='9 frames, the model reads 8'):
        evaluate(clip_model(), clips)
    with pytest.raises(ValueError, match='needs tracks'):
        evaluate(streaming_model(), clips)
    with pytest.raises(ValueError, match='no answer for each frame'):
        evaluate(clip_model(), tracks, unit='frame')
    with pytest.raises(ValueError, match='of the classes'):
        evaluate(clip_model(), replace(clips, classes=tuple('abcdefg')))
    with pytest.raises(ValueError, match='unknown unit'):
        evaluate(clip_model(), tracks, unit='second')
    for model in (clip_model(), streaming_model()):
        with pytest.raises(ValueError, match='no tracks'):
            evaluate(model, [])


def test_labels_are_mapped_dropped_or_named(tmp_path: Path) -> None:
    (tmp_path / 'map.json').write_text(json.dumps({'smile': 'sadness', 'nod': ''}))
    mapping = read_label_mapping([str(tmp_path / 'map.json'), 'smile=happiness'])
    assert mapping == {'smile': 'happiness', 'nod': ''}
    tracks = made_tracks(labels=('smile', 'nod', 'fear'))
    mapped = relabel_tracks(tracks, mapping, classes=CLASSES)
    assert [track.label for track in mapped] == ['happiness', 'fear']
    for given_, message in (
        ({}, 'model lacks: nod, smile.*--map LABEL=CLASS'),
        ({'smile': 'joy', 'nod': ''}, 'smile=joy'),
        ({'smlie': 'fear'}, 'no track has: smlie'),
        ({'smile': '', 'nod': '', 'fear': ''}, 'drops every track'),
    ):
        with pytest.raises(ValueError, match=message):
            relabel_tracks(tracks, given_, classes=CLASSES)


@pytest.mark.parametrize('text', ['[', '[]', '{"a": 1}'])
def test_files_that_are_no_mapping_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / 'map.json').write_text(text)
    with pytest.raises(ValueError, match=r'map\.json'):
        read_label_mapping([str(tmp_path / 'map.json')])
    with pytest.raises(ValueError, match='neither LABEL=CLASS nor'):
        read_label_mapping([str(tmp_path / 'missing')])


def test_adaptive_samples_are_those_of_each_clip_and_their_number_is_known() -> None:
    model = clip_model()
    with torch.no_grad():  # the first two classes tie in every sample, ahead of all others
        model.network.head.weight[1] = model.network.head.weight[0]
        model.network.head.bias[:2] = 9.0
    tie = evaluate(model, made_tracks(), samples=20, lead_errors=3.0, seed=3)
    assert tie.sample_counts.tolist() == [20] * 6
    assert not np.isnan(tie.monte_carlo).any()
    with torch.no_grad():
        model.network.head.bias[1] = 5.0
    clear = evaluate(model, made_tracks(), samples=20, lead_errors=3.0, seed=3)
    assert clear.sample_counts.tolist() == [10] * 6
    assert clear.monte_carlo.shape == (20, 6, 7)
    assert np.array_equal(clear.single_pass, evaluate(model, made_tracks(), samples=2).single_pass)
    again = evaluate(model, made_tracks(), samples=20, lead_errors=3.0, seed=3)
    assert np.array_equal(clear.monte_carlo, again.monte_carlo, equal_nan=True)


def test_a_lead_that_is_never_clear_changes_nothing() -> None:
    tracks = made_tracks(labels=LABELS * 2)  # 96 frames in all: passes of six samples
    fixed = evaluate(clip_model(), tracks, samples=25, seed=3)
    adaptive = evaluate(clip_model(), tracks, samples=25, seed=3, lead_errors=1e9)
    assert np.array_equal(fixed.monte_carlo, adaptive.monte_carlo)
    assert fixed.measure(CLASSES) == adaptive.measure(CLASSES)


def saved(model: LoadedModel, path: Path) -> list[str]:
    save_model(path, model.network, model.description)
    return ['eval', '--model', str(path), '--samples', '5']


def test_the_command_writes_the_same_result_twice_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = saved(clip_model(), tmp_path / 'm.safetensors')
    write_tracks(tmp_path / 't.npz', made_tracks(labels=('smile', 'nod', 'fear', 'fear')))
    command += ['--tracks', str(tmp_path / 't.npz'), '--map', 'smile=happiness', '--map', 'nod=']
    first, again = tmp_path / 'first.json', tmp_path / 'again.json'
    pictures = ['--figures', str(tmp_path / 'figures')]
    assert main([*command, '--json', str(first), *pictures]) == 0
    assert 'macro F1' in capsys.readouterr().out
    assert main([*command, '--json', str(again)]) == 0
    assert first.read_bytes() == again.read_bytes()
    result = read_evaluation_result(first)
    assert (result.model, result.data, result.samples, result.clips) == (
        'm.safetensors', 't.npz', 5, 3
    )
    assert result.monte_carlo.samples is not None
    assert len(result.monte_carlo.samples.accuracies) == 5
    assert {path.name for path in (tmp_path / 'figures').iterdir()} == {
        'reliability.png', 'risk_coverage.png', 'confusion_matrix.png', 'sample_accuracies.png',
        'sequence_certain.png', 'sequence_uncertain.png',
    }


def test_the_command_samples_adaptively_and_says_how_many_samples_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = clip_model()
    with torch.no_grad():
        model.network.head.bias[2] = 20.0
    command = [*saved(model, tmp_path / 'm.safetensors'), '--samples', '40']
    write_tracks(tmp_path / 't.npz', made_tracks())
    command += ['--tracks', str(tmp_path / 't.npz'), '--json', str(tmp_path / 'r.json')]
    assert main([*command, '--lead-errors', '3', '--figures', str(tmp_path / 'figures')]) == 0
    output = capsys.readouterr().out
    assert 'adaptive: 10.0 samples an answer on average, at most 40' in output
    assert (tmp_path / 'figures' / 'sequence_uncertain.png').exists()
    result = read_evaluation_result(tmp_path / 'r.json')
    assert (result.samples, result.lead_errors, result.mc_samples_mean) == (40, 3.0, 10.0)
    assert main(command) == 0
    assert 'adaptive' not in capsys.readouterr().out
    result = read_evaluation_result(tmp_path / 'r.json')
    assert result.lead_errors is None and result.mc_samples_mean is None


@pytest.mark.parametrize('text', ['0', '-3', 'nan', 'inf', 'many'])
def test_a_lead_that_is_no_positive_number_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ['eval', '--model', 'm', '--tracks', 't', '--json', 'r', '--lead-errors', text]
    with pytest.raises(SystemExit) as refusal:
        main(command)
    assert refusal.value.code == 2
    assert '--lead-errors' in capsys.readouterr().err.splitlines()[-1]


def test_a_streaming_model_is_not_sampled_adaptively() -> None:
    with pytest.raises(ValueError, match='streams: only models of whole clips'):
        evaluate(streaming_model(), made_tracks(), lead_errors=3.0)


def test_the_command_measures_every_frame_of_a_streaming_model(tmp_path: Path) -> None:
    command = saved(streaming_model(), tmp_path / 'm.safetensors')
    write_tracks(tmp_path / 't.npz', made_tracks())
    command += ['--tracks', str(tmp_path / 't.npz'), '--json', str(tmp_path / 'r.json')]
    assert main([*command, '--unit', 'frame']) == 0
    result = read_evaluation_result(tmp_path / 'r.json')
    assert result.clips == 6
    assert result.monte_carlo.count == sum(24 + index - 6 for index in range(6))


def test_the_command_says_the_main_scores_and_writes_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [*saved(streaming_model(), tmp_path / 'm.safetensors'), '--tracks', 't.npz']
    write_tracks(tmp_path / 't.npz', made_tracks())
    before = set(tmp_path.iterdir())
    assert main(command) == 0
    assert set(tmp_path.iterdir()) == before
    said = capsys.readouterr()
    assert re.search(r'CONFIDENT, from 0\.500 on: [\d.]+% of the answers', said.out)
    assert 'all scores' not in said.out


def test_frames_before_an_expression_are_not_counted_as_it_unnoticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = saved(streaming_model(), tmp_path / 'm.safetensors')
    hint = '--estimate-intensity leaves out the frames before'
    command += ['--tracks', str(tmp_path / 't.npz')]
    write_tracks(tmp_path / 't.npz', made_tracks())
    assert main(command) == 0 and hint in capsys.readouterr().err
    assert main([*command, '--estimate-intensity']) == 0 and hint not in capsys.readouterr().err
    write_tracks(tmp_path / 't.npz', made_tracks(labels=('neutral', 'neutral')))
    assert main(command) == 0 and hint not in capsys.readouterr().err


def test_the_command_reads_the_references_format(tmp_path: Path) -> None:
    command = saved(clip_model(), tmp_path / 'm.safetensors')
    clips = clips_from_tracks(
        made_tracks(), classes=CLASSES,
        preparation=ClipPreparation(frames=8, normalization='similarity'),
    )
    write_reference_clips(tmp_path / 'c.npy', tmp_path / 'c.pkl', clips)
    command += ['--json', str(tmp_path / 'r.json'), '--data', str(tmp_path / 'c.npy')]
    assert main([*command, '--labels', str(tmp_path / 'c.pkl')]) == 0
    result = read_evaluation_result(tmp_path / 'r.json')
    predictions = evaluate(clip_model(), made_tracks(), samples=5)
    assert result.monte_carlo == predictions.measure(CLASSES)[0]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--tracks', 't.npz'], 'lacks: nod, smile; .*--map'),
        (['--tracks', 'missing.npz'], 'does not exist'),
        (['--tracks', 't.npz', '--labels', 'c.pkl'], '--labels goes with --data'),
        (['--data', 'c.npy'], '--data needs --labels'),
        (['--data', 'c.npy', '--labels', 'c.pkl', '--map', 'a=b'], '--map goes with --tracks'),
        (['--tracks', 't.npz', '--map', 'nod=', 'smile=', '--unit', 'frame'], 'each frame'),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    command = saved(clip_model(), tmp_path / 'm.safetensors')
    write_tracks(tmp_path / 't.npz', made_tracks(labels=('smile', 'nod', 'fear')))
    assert main([*command, *arguments, '--json', 'r.json']) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert re.search(message, error)
    assert not (tmp_path / 'r.json').exists()
