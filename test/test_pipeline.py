# SPDX-License-Identifier: Apache-2.0
"""The whole way from real clips to expressions, without ROS."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_models_made import SMALL, small_image_model

from fer_perception.drawing import draw_result
from fer_perception.models.image_model_file import save_image_model
from fer_perception.pipeline import Pipeline, PipelineConfig, open_reader
from fer_perception.records import ExpressionRecord, expression_records, region_of_interest
from fer_perception.results import FrameResult
from fer_perception.sources import open_source
from fer_perception.timeline import draw_timeline
from fer_perception.uncertainty.estimate import ExpressionState

SMILE_STARTS_NS = 17 * 33_333_333  # in the sample clip: the corners of the mouth begin to move


def read_clip(path: Path, landmark_model: Path, **settings: object) -> list[FrameResult]:
    config = PipelineConfig(
        landmark_model=landmark_model,
        deterministic_ids=True,
        seed=1,
        device='cpu',
        **settings,  # type: ignore[arg-type]
    )
    pipeline = Pipeline(config)
    with open_source(str(path)) as source:
        return [pipeline.process(frame.image, frame.stamp_ns) for frame in source]


@pytest.fixture(scope='module')
def sample_results(sample_clip: Path, landmark_model_path: Path) -> list[FrameResult]:
    return read_clip(sample_clip, landmark_model_path)


@pytest.fixture(scope='module')
def sample_records(sample_results: list[FrameResult]) -> list[ExpressionRecord]:
    return [
        record
        for result in sample_results
        for record in expression_records(result, updated_only=True)
    ]


def test_sample_clip_is_neutral_first_then_happy(sample_records: list[ExpressionRecord]) -> None:
    assert len(sample_records) == 72 and {r.face_id for r in sample_records} == {'a0000'}
    before = [r for r in sample_records if r.stamp_ns < SMILE_STARTS_NS]
    settled = [r for r in before if r.state != ExpressionState.WARMING_UP]
    assert settled and all(r.expression == 'neutral' for r in settled)
    smile = [r for r in sample_records if r.stamp_ns > SMILE_STARTS_NS + 400_000_000]
    leading = Counter(r.expression for r in smile)
    assert leading['happiness'] > 0.8 * len(smile)
    confident = {r.expression for r in sample_records if r.state == ExpressionState.CONFIDENT}
    assert confident == {'neutral', 'happiness'}


def test_records_keep_their_bounds(sample_records: list[ExpressionRecord]) -> None:
    for record in sample_records:
        assert sum(record.probabilities) == pytest.approx(1.0)
        assert record.confidence == max(record.probabilities)
        assert 0.0 <= record.mutual_information <= record.predictive_entropy <= np.log(7)
        assert record.mc_samples == 100 and record.latency_ms > 0
        x, y, width, height = record.roi
        assert 0 <= x < x + width <= 640 and 0 <= y < y + height <= 360


def test_same_seed_same_answers(
    sample_clip: Path, landmark_model_path: Path, sample_results: list[FrameResult]
) -> None:
    again = read_clip(sample_clip, landmark_model_path)
    for first, second in zip(sample_results[:30], again[:30], strict=True):
        here, there = first.faces[0].estimate, second.faces[0].estimate
        assert here is not None and there is not None
        assert np.array_equal(here.probabilities, there.probabilities)


def test_no_face_no_expression(no_face_clip: Path, landmark_model_path: Path) -> None:
    results = read_clip(no_face_clip, landmark_model_path, mc_samples=2)
    assert len(results) > 30
    assert all(result.faces == () for result in results)


def test_two_faces_keep_their_ids_and_streams(
    shared_data: Path, landmark_model_path: Path
) -> None:
    clip = shared_data / 'head-pose-face-detection-female-and-male.gif'
    results = read_clip(clip, landmark_model_path, mc_samples=5)
    sides: dict[str, set[bool]] = {}
    for result in results:
        for face in result.faces:
            middle = (face.face.box.left + face.face.box.right) / 2
            sides.setdefault(face.face.face_id, set()).add(middle < result.image_size[0] / 2)
    assert sides == {'a0000': {True}, 'a0001': {False}} or sides == {
        'a0000': {False},
        'a0001': {True},
    }
    assert sum(len(result.faces) == 2 for result in results) > 0.8 * len(results)


def test_time_going_back_starts_all_faces_anew(
    sample_clip: Path, landmark_model_path: Path
) -> None:
    pipeline = Pipeline(
        PipelineConfig(landmark_model=landmark_model_path, mc_samples=2, deterministic_ids=True)
    )
    with open_source(str(sample_clip)) as source:
        images = [frame.image for _, frame in zip(range(4), source, strict=False)]
    stamps = [1_000_000_000, 1_033_000_000, 900_000_000, 933_000_000]
    results = [pipeline.process(i, t) for i, t in zip(images, stamps, strict=True)]
    assert [result.faces[0].face.face_id for result in results] == ['a0000'] * 2 + ['a0001'] * 2
    estimate = results[2].faces[0].estimate
    assert estimate is not None and estimate.window_s == pytest.approx(1 / 30)


def test_faces_found_elsewhere_are_read_as_our_own(
    sample_clip: Path, landmark_model_path: Path
) -> None:
    own = Pipeline(PipelineConfig(landmark_model=landmark_model_path, mc_samples=5, seed=1))
    # Without a landmark model: there is nothing to fit.
    foreign = Pipeline(
        PipelineConfig(
            landmark_model=Path('/missing'), finds_faces=False, mc_samples=5, seed=1
        )
    )
    states = set()
    with open_source(str(sample_clip)) as source:
        for frame in source:
            found = own.process(frame.image, frame.stamp_ns)
            read = foreign.read(
                {face.face.face_id: face.face.landmarks for face in found.faces},
                frame.stamp_ns,
                image_size=found.image_size,
                tracked_ids={face.face.face_id for face in found.faces},
            )
            assert (read.stamp_ns, read.image_size) == (found.stamp_ns, found.image_size)
            for here, there in zip(found.faces, read.faces, strict=True):
                assert here.estimate is not None and there.estimate is not None
                assert np.array_equal(here.estimate.probabilities, there.estimate.probabilities)
                assert (here.estimate.state, here.updated) == (there.estimate.state, there.updated)
                assert here.face.face_id == there.face.face_id
                assert here.face.box.intersection_over_union(there.face.box) > 0.95
                states.add(here.estimate.state)
    assert {ExpressionState.WARMING_UP, ExpressionState.CONFIDENT} <= states


def test_a_given_face_is_remembered_while_it_is_tracked(
    sample_results: list[FrameResult],
) -> None:
    pipeline = Pipeline(PipelineConfig(finds_faces=False, mc_samples=2))
    landmarks = sample_results[0].faces[0].face.landmarks

    def window_after(missing_tracked: bool) -> float:
        """Show a face for ten images, leave it out of one, show it again."""
        pipeline.reset()
        for image in range(12):
            result = pipeline.read(
                {} if image == 10 else {'robin': landmarks},
                image * 33_333_333,
                image_size=(640, 360),
                tracked_ids=['robin'] if image != 10 or missing_tracked else [],
            )
        estimate = result.faces[0].estimate
        assert estimate is not None
        return estimate.window_s

    assert window_after(missing_tracked=True) == pytest.approx(12 / 30)
    assert window_after(missing_tracked=False) == pytest.approx(1 / 30)


def test_a_pipeline_that_finds_no_faces_takes_no_images(
    sample_results: list[FrameResult],
) -> None:
    pipeline = Pipeline(PipelineConfig(finds_faces=False, mc_samples=2))
    with pytest.raises(RuntimeError, match='finds no faces'):
        pipeline.process(np.zeros((9, 9, 3), np.uint8), 0)
    for bad in (np.zeros((70, 2)), np.full((68, 2), np.nan), np.zeros((68, 2))):
        with pytest.raises(ValueError, match='landmarks'):
            pipeline.read({'robin': bad}, 0, image_size=(640, 360), tracked_ids=())
    pipeline.close()


def test_images_of_changing_size_do_not_lose_the_pipeline(
    sample_clip: Path, landmark_model_path: Path
) -> None:
    pipeline = Pipeline(PipelineConfig(landmark_model=landmark_model_path, mc_samples=2))
    with open_source(str(sample_clip)) as source:
        for index, frame in enumerate(source):
            size = (640, 360) if index % 10 < 5 else (320, 180)
            result = pipeline.process(cv2.resize(frame.image, size), frame.stamp_ns)
            assert result.image_size == size
            if index == 30:
                break
    assert len(result.faces) == 1


@pytest.mark.parametrize(
    'image',
    [np.zeros((0, 0, 3), np.uint8), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)],
)
def test_arrays_that_are_no_image_are_refused(
    landmark_model_path: Path, image: np.ndarray
) -> None:
    pipeline = Pipeline(PipelineConfig(landmark_model=landmark_model_path, mc_samples=2))
    with pytest.raises(ValueError, match='BGR image'):
        pipeline.process(image, 0)


def test_drawing_marks_the_face_and_leaves_the_image_alone(
    sample_clip: Path, sample_results: list[FrameResult]
) -> None:
    with open_source(str(sample_clip)) as source:
        image = next(iter(source)).image
    before = image.copy()
    result = sample_results[0]
    drawn = draw_result(image, result)
    assert np.array_equal(image, before)
    changed = (drawn != image).any(-1)
    x, y, width, height = region_of_interest(result.faces[0].face.box, result.image_size)
    assert changed[y, x : x + width].mean() > 0.9  # the upper side of the box
    assert changed.mean() < 0.3


@pytest.mark.parametrize('size', [(60, 40), (200, 100), (640, 360)])
def test_drawing_fits_into_any_image(
    sample_results: list[FrameResult], size: tuple[int, int]
) -> None:
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    assert draw_result(canvas, sample_results[20]).shape == canvas.shape


def test_records_survive_json(sample_records: list[ExpressionRecord]) -> None:
    for record in sample_records[::10]:
        assert ExpressionRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize('line', ['{}', '[]', '{"state": "HAPPY"}', 'nonsense', '7'])
def test_lines_that_are_no_record_are_refused(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's message or ours
        ExpressionRecord.from_json(line)


def test_timeline_is_drawn_for_every_face(
    sample_records: list[ExpressionRecord], tmp_path: Path
) -> None:
    pytest.importorskip('matplotlib', reason='the timeline needs the extra [plots]')
    draw_timeline(sample_records, tmp_path / 'timeline.png')
    image = cv2.imread(str(tmp_path / 'timeline.png'))
    assert image is not None and image.std() > 10
    with pytest.raises(ValueError, match='no expressions'):
        draw_timeline([], tmp_path / 'none.png')


@pytest.fixture(scope='module')
def image_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save a small model of every image recogniser."""
    folder = tmp_path_factory.mktemp('image_models')
    files = {}
    for architecture in SMALL:
        model = small_image_model(architecture)
        files[architecture] = folder / f'{architecture}.safetensors'
        save_image_model(files[architecture], model.network, model.description)
    return files


@pytest.mark.parametrize('architecture', SMALL)
def test_images_are_read_instead_of_landmarks_or_beside_them(
    architecture: str,
    sample_clip: Path,
    landmark_model_path: Path,
    image_models: dict[str, Path],
) -> None:
    settings = {'mc_samples': 3, 'image_model': image_models[architecture]}
    by_image, fused, unmixed, by_landmarks = (
        read_clip(sample_clip, landmark_model_path, recognizer=recognizer, **changes)
        for recognizer, changes in (
            (architecture, settings),
            ('fused', settings),
            ('fused', {**settings, 'image_weight': 0.0}),
            ('pst_bln', {'mc_samples': 3}),
        )
    )
    for result in by_image:
        (face,) = result.faces
        assert face.estimate is not None
        assert face.estimate.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    assert sum(result.faces[0].updated for result in fused) == len(fused)  # as the landmarks are
    for one, other in zip(unmixed, by_landmarks, strict=True):
        here, there = one.faces[0].estimate, other.faces[0].estimate
        assert here is not None and there is not None
        np.testing.assert_allclose(here.probabilities, there.probabilities, atol=1e-6)
    last = [results[-1].faces[0].estimate for results in (by_image, fused, by_landmarks)]
    assert all(estimate is not None for estimate in last)
    mixed = (last[0].probabilities + last[2].probabilities) / 2  # type: ignore[union-attr]
    if by_image[-1].faces[0].updated:
        np.testing.assert_allclose(
            last[1].probabilities, mixed, atol=0.05  # type: ignore[union-attr]
        )


@pytest.mark.parametrize(
    ('settings', 'reason'),
    [
        ({'recognizer': 'vgg'}, 'recognizer must be'),
        ({'recognizer': 'fer_gcn'}, 'needs image_model'),
        ({'recognizer': 'fused'}, 'needs image_model'),
        ({'recognizer': 'abaw_ensemble', 'image_model': 'fer_gcn'}, "is of 'fer_gcn'"),
        ({'recognizer': 'fer_gcn', 'image_model': 'fer_gcn', 'finds_faces': False}, 'attached'),
        ({'recognizer': 'fused', 'image_model': 'fer_gcn', 'image_weight': 2.0}, 'image_weight'),
        ({'recognizer': 'fer_gcn', 'image_model': 'fer_gcn', 'image_views': 9}, 'image_views'),
    ],
)
def test_recognisers_that_cannot_be_are_refused_in_one_line(
    settings: dict[str, object], reason: str, image_models: dict[str, Path]
) -> None:
    if 'image_model' in settings:
        settings = {**settings, 'image_model': image_models[str(settings['image_model'])]}
    with pytest.raises(ValueError, match=reason) as caught:
        open_reader(PipelineConfig(**settings))  # type: ignore[arg-type]
    assert '\n' not in str(caught.value)
