# SPDX-License-Identifier: Apache-2.0
"""Landmarks become expressions, wherever the face is and whatever the camera's rate."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from faces_made import face_landmarks, transformed
from hypothesis import given, settings
from hypothesis import strategies as st
from models_made import description_of, small_network

from fer_perception.graph.baseline import Baseline
from fer_perception.graph.edges import edge_vectors
from fer_perception.graph.normalization import normalize_landmarks
from fer_perception.inference.landmark_reader import LandmarkReader
from fer_perception.inference.monte_carlo import MonteCarloDropout
from fer_perception.inference.recognizer import ExpressionRecognizer
from fer_perception.inference.sample_budget import LEAST_SAMPLES
from fer_perception.inference.streaming import TorchStreamingPstBln
from fer_perception.models.model_file import LoadedModel
from fer_perception.uncertainty.estimate import DecisionRule, ExpressionEstimate, ExpressionState


def model(**changes: Any) -> LoadedModel:
    network = small_network()
    return LoadedModel(network, description_of(network, warm_up_s=0.1, **changes))


def recognizer_of(
    loaded: LoadedModel,
    *,
    mc_samples: int,
    seed: int | None = None,
    deadline_ms: float = 0.0,
    rule: DecisionRule | None = None,
) -> ExpressionRecognizer:
    network = TorchStreamingPstBln(loaded.network, samples=mc_samples, seed=seed)
    reader = LandmarkReader(network, loaded.description, deadline_ms=deadline_ms)
    return ExpressionRecognizer(reader, rule=rule)


def read(
    recognizer: ExpressionRecognizer, landmarks: np.ndarray, frame_rate: float = 30.0
) -> list[ExpressionEstimate | None]:
    recognizer.keep_only(())
    return [
        recognizer.update({'a0000': frame}, index / frame_rate).get('a0000')
        for index, frame in enumerate(landmarks)
    ]


@settings(deadline=None, max_examples=25)
@given(
    scale=st.floats(0.2, 10.0),
    roll=st.floats(-1.5, 1.5),
    x=st.floats(-1000.0, 1000.0),
    y=st.floats(-1000.0, 1000.0),
)
def test_translation_scale_and_roll_leave_the_probabilities_unchanged(
    shipped_model: LoadedModel, scale: float, roll: float, x: float, y: float
) -> None:
    landmarks = face_landmarks(frames=20)
    moved = transformed(landmarks, scale=scale, roll=roll, shift=(x, y))
    pairs = [
        read(recognizer_of(shipped_model, mc_samples=3, seed=1), track)
        for track in (landmarks, moved)
    ]
    for here, there in zip(*pairs, strict=True):
        assert here is not None and there is not None
        assert np.abs(here.probabilities - there.probabilities).max() < 1e-4


def test_state_warms_up_and_evidence_grows_to_the_window() -> None:
    estimates = read(
        recognizer_of(
            model(),
            mc_samples=2,
            rule=DecisionRule(abstention_threshold=0.0, warm_up_s=0.1, confidence_hold_s=0.0),
        ),
        face_landmarks(frames=9),
    )
    known = [estimate for estimate in estimates if estimate is not None]
    assert [estimate.state.name for estimate in known] == (
        ['WARMING_UP'] * 2 + ['CONFIDENT'] * 7
    )
    evidence = [estimate.window_s * 30 for estimate in known]
    assert evidence == pytest.approx([1, 2, 3, 4, 5, 5, 5, 5, 5])
    assert all(estimate.mc_samples == 2 for estimate in known)


def test_a_faster_camera_updates_at_the_models_rate() -> None:
    estimates = read(
        recognizer_of(model(), mc_samples=2), face_landmarks(frames=58), frame_rate=120.0
    )
    assert sum(estimate is not None for estimate in estimates) == 15


def test_a_slower_camera_fills_the_window_as_fast() -> None:
    last = read(
        recognizer_of(model(), mc_samples=2), face_landmarks(frames=3), frame_rate=15.0
    )[-1]
    assert last is not None and last.window_s == pytest.approx(5 / 30)


def test_live_answers_are_those_of_the_clip() -> None:
    """The mean over many samples agrees with windowed Monte Carlo dropout within five errors."""
    loaded = model(temperature=1.7)
    landmarks = face_landmarks(frames=12)
    live = read(recognizer_of(loaded, mc_samples=2000, seed=1), landmarks)[-1]
    assert live is not None
    vectors = edge_vectors(normalize_landmarks(landmarks), loaded.description.edges)
    clip = MonteCarloDropout(loaded.network, samples=2000, temperature=1.7, seed=2)(
        torch.from_numpy(vectors)[None]
    )[:, 0].numpy()
    error = 5 * clip.std(0) / np.sqrt(1000)
    assert (np.abs(live.probabilities - clip.mean(0)) < error + 1e-6).all()


def test_a_face_is_seen_beside_its_baseline_which_a_gap_ends() -> None:
    network = small_network(in_channels=4, dropout=1e-9)  # masks that drop nothing
    loaded = LoadedModel(network, description_of(network, baseline_s=0.2))
    landmarks = face_landmarks(frames=20)
    recognizer = recognizer_of(loaded, mc_samples=1)
    vectors = edge_vectors(normalize_landmarks(landmarks), loaded.description.edges)
    with torch.no_grad():
        clip = network.logits_over_time(
            torch.from_numpy(Baseline(frames=6).push(vectors))[None]
        )[0].softmax(-1)
    for start_s in (0.0, 50.0):  # the second time after a gap
        for index, frame in enumerate(landmarks):
            live = recognizer.update({'a0000': frame}, start_s + index / 30)['a0000']
            assert np.allclose(live.probabilities, clip[index], atol=1e-5)


def test_after_a_gap_a_face_starts_anew() -> None:
    recognizer = recognizer_of(model(), mc_samples=2)
    landmarks = face_landmarks(frames=10)
    for index in range(9):
        recognizer.update({'a0000': landmarks[index]}, index / 30)
    late = recognizer.update({'a0000': landmarks[9]}, 5.0)['a0000']
    assert late.state == ExpressionState.WARMING_UP
    assert late.window_s == pytest.approx(1 / 30)


HELD = DecisionRule(
    abstention_threshold=0.0, warm_up_s=0.1, confidence_margin=0.0, confidence_hold_s=0.25
)


def test_a_face_holds_by_itself_and_again_after_a_gap_and_when_it_was_forgotten() -> None:
    # So still that no class overtakes another.
    recognizer = recognizer_of(model(), mc_samples=200, seed=1, rule=HELD)
    still = np.repeat(face_landmarks(frames=1), 60, axis=0)

    def states(face_id: str, start_s: float, others: tuple[str, ...] = ()) -> list[str]:
        return [
            recognizer.update(
                {other: frame for other in (face_id, *others)}, start_s + index / 30
            )[face_id].state.name
            for index, frame in enumerate(still[:12])
        ]

    held = ['WARMING_UP'] * 2 + ['UNCERTAIN'] * 6 + ['CONFIDENT'] * 4
    assert states('a0000', 0.0) == held
    assert states('b0000', 12 / 30, others=('a0000',)) == held  # beside one that is CONFIDENT
    assert states('a0000', 24 / 30) == ['CONFIDENT'] * 12
    assert states('a0000', 10.0) == held
    recognizer.keep_only([])
    assert states('a0000', 10.5) == held


@pytest.mark.parametrize('period', [2, 5, 10])
def test_a_state_does_not_depend_on_how_many_steps_come_at_once(period: int) -> None:
    # Masks that drop nothing, and landmarks that are straight in time between the frames.
    network = small_network(dropout=1e-9)
    loaded = LoadedModel(network, description_of(network, warm_up_s=0.1, normalization='centred'))
    random = np.random.default_rng(0)
    frames = face_landmarks(frames=21) + random.normal(0, 4, (21, 68, 2))
    share = np.arange(200)[:, None, None] % 10 / 10
    before = np.arange(200) // 10
    steps = frames[before] * (1 - share) + frames[before + 1] * share  # (200, 68, 2)
    rule = DecisionRule(
        abstention_threshold=0.2, warm_up_s=0.1, confidence_margin=0.02, confidence_hold_s=0.1
    )

    def states(every: int) -> dict[int, ExpressionState]:
        recognizer = recognizer_of(loaded, mc_samples=1, rule=rule)
        return {
            index: recognizer.update({'a0000': steps[index]}, index / 30)['a0000'].state
            for index in range(0, 200, every)
        }

    one_by_one = states(1)
    assert len(set(one_by_one.values())) == 3
    assert all(one_by_one[index] == state for index, state in states(period).items())


@pytest.mark.parametrize('normalization', ['similarity', 'frontal'])
def test_faces_do_not_mix_and_forgotten_ones_start_anew(normalization: str) -> None:
    def run(recognizer: ExpressionRecognizer, *, company: bool) -> np.ndarray:
        for index, frame in enumerate(face_landmarks(frames=8)):
            faces = {'a0000': frame}
            if company:
                faces = {'b0000': frame * 1.3 + index, 'a0000': frame}
            estimates = recognizer.update(faces, index / 30)
            assert estimates.keys() == faces.keys()
        return estimates['a0000'].probabilities

    still = replace(model().network.config, dropout=1e-9)  # masks that drop nothing
    network = small_network(dropout=1e-9)
    loaded = LoadedModel(network, description_of(network, normalization=normalization))
    assert loaded.description.network == still
    alone = run(recognizer_of(loaded, mc_samples=1), company=False)
    recognizer = recognizer_of(loaded, mc_samples=1)
    assert np.allclose(run(recognizer, company=True), alone, atol=1e-6)
    recognizer.keep_only(['b0000'])
    assert np.allclose(run(recognizer, company=True), alone, atol=1e-6)


def test_landmarks_that_are_no_face_are_refused() -> None:
    with pytest.raises(ValueError, match='no extent'):
        recognizer_of(model(), mc_samples=2).update({'a0000': np.zeros((68, 2))}, 0.0)


def test_an_image_with_a_face_that_is_none_changes_no_other_face() -> None:
    network = small_network(dropout=1e-9)
    loaded = LoadedModel(network, description_of(network))
    landmarks = face_landmarks(frames=6)
    alone = read(recognizer_of(loaded, mc_samples=1), landmarks)[-1]
    recognizer = recognizer_of(loaded, mc_samples=1)
    for index, frame in enumerate(landmarks):
        for wrong in (np.full((68, 2), np.nan), np.zeros((68, 2)), np.ones((5, 2))):
            with pytest.raises(ValueError, match='finite|no extent|must have the shape'):
                recognizer.update({'a0000': frame, 'b0000': wrong}, index / 30)
        estimate = recognizer.update({'a0000': frame}, index / 30)['a0000']
    assert alone is not None
    np.testing.assert_allclose(estimate.probabilities, alone.probabilities, atol=1e-6)


def test_samples_change_while_a_face_is_read() -> None:
    recognizer = recognizer_of(model(), mc_samples=20)
    counts = []
    for index, frame in enumerate(face_landmarks(frames=12)):
        recognizer.budget.most = 20 if index < 4 else 50 if index < 8 else 12
        estimate = recognizer.update({'a0000': frame}, index / 30)['a0000']
        counts.append((estimate.mc_samples, round(estimate.window_s * 30)))
    assert [count for count, _ in counts] == [20] * 4 + [50] * 4 + [12] * 4
    assert [frames for _, frames in counts] == [1, 2, 3, 4] + [5] * 8


def test_a_passed_deadline_leaves_the_fewest_samples() -> None:
    recognizer = recognizer_of(model(), mc_samples=40, deadline_ms=1000.0)
    landmarks = face_landmarks(frames=3)
    counts = [
        recognizer.update({'a0000': frame}, index / 30, elapsed_ms=elapsed)['a0000'].mc_samples
        for index, (frame, elapsed) in enumerate(zip(landmarks, (0.0, 2000.0, 0.0), strict=True))
    ]
    assert counts == [40, LEAST_SAMPLES, 40]
