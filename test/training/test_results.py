# SPDX-License-Identifier: Apache-2.0
"""Result files keep what is written, refuse what is damaged, and make a report."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.uncertainty.measures import measure_uncertainty
from fer_training.cli import main
from fer_training.report import group_results, write_report
from fer_training.results import (
    CrossvalResult,
    EvaluationResult,
    FoldResult,
    Predictions,
    ResultFileError,
    join_predictions,
    read_crossval_result,
    read_evaluation_result,
    read_predictions,
    write_predictions,
    write_result,
)

CLASSES = ('neutral', 'happiness', 'sadness')


def made_predictions(*, seed: int = 1, answers: int = 30, right: float = 4.0) -> Predictions:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, answers)
    drawn = random.gamma(np.broadcast_to(1.0 + right * np.eye(3)[labels], (8, answers, 3)))
    samples = (drawn / drawn.sum(-1, keepdims=True)).astype(np.float32)
    return Predictions(
        labels=labels,
        names=tuple(f'clip {index}' for index in range(answers)),
        monte_carlo=samples,
        single_pass=samples[0],
    )


def made_result(*, name: str = 'PST-BLN (grown)', seed: int = 1, **changes: Any) -> CrossvalResult:
    monte_carlo, single_pass = made_predictions(seed=seed).measure(CLASSES)
    fold = FoldResult(subjects=('anna',), clips=15, topology=(10, 5 * seed),
                      monte_carlo_accuracy=0.8, single_pass_accuracy=0.7)
    result = CrossvalResult(
        name=name,
        data='buhmap_tracks.npz',
        folds='subject',
        seed=seed,
        parameters_without_topology=1234.5,
        parameters_with_topology=56789,
        classes=CLASSES,
        command=f'fer_train crossval --seed {seed}',
        per_fold=(fold, replace(fold, subjects=('berta',), topology=(10, 15))),
        monte_carlo=monte_carlo,
        single_pass=single_pass,
    )
    return replace(result, **changes)


def test_write_then_read_is_exact_and_repeats(tmp_path: Path) -> None:
    for name in ('new/a.json', 'new/b.json'):
        write_result(tmp_path / name, made_result())
    assert read_crossval_result(tmp_path / 'new/a.json') == made_result()
    assert (tmp_path / 'new/a.json').read_bytes() == (tmp_path / 'new/b.json').read_bytes()


def test_evaluations_are_read_back_too(tmp_path: Path) -> None:
    monte_carlo, single_pass = made_predictions().measure(CLASSES)
    result = EvaluationResult(
        model='m.safetensors', data='t.npz', unit='clip', samples=8, seed=0, clips=30,
        classes=CLASSES, monte_carlo=monte_carlo, single_pass=single_pass,
        abstention_threshold=0.5, selective=made_predictions().measure_confident(0.5),
    )
    write_result(tmp_path / 'eval.json', result)
    assert read_evaluation_result(tmp_path / 'eval.json') == result
    with pytest.raises(ResultFileError, match='eval.json is no CrossvalResult'):
        read_crossval_result(tmp_path / 'eval.json')
    adaptive = replace(result, lead_errors=3.0, mc_samples_mean=4.5)
    write_result(tmp_path / 'adaptive.json', adaptive)
    assert read_evaluation_result(tmp_path / 'adaptive.json') == adaptive


@given(threshold=st.floats(0, 1), answers=st.integers(1, 9))
def test_confident_answers_are_those_from_the_threshold_on(threshold: float, answers: int) -> None:
    predictions = made_predictions(answers=answers, right=1.0)
    confident = wrong = 0
    for number in range(answers):
        mean = predictions.monte_carlo[:, number].mean(0, dtype=np.float64)
        if mean.max() >= threshold:
            confident += 1
            wrong += mean.argmax() != predictions.labels[number]
    scores = predictions.measure_confident(threshold)
    assert scores.coverage == confident / answers
    assert scores.risk == (wrong / confident if confident else None)


def test_answers_may_have_different_numbers_of_samples(tmp_path: Path) -> None:
    whole = made_predictions(answers=3)
    samples = whole.monte_carlo.copy()  # (8, 3, 3)
    samples[5:, 1] = samples[1:, 2] = np.nan
    predictions = replace(whole, monte_carlo=samples)
    assert predictions.sample_counts.tolist() == [8, 5, 1]
    assert np.array_equal(predictions.samples_of(1), whole.monte_carlo[:5, 1])
    for answer in range(3):
        own = predictions.samples_of(answer)
        assert measure_uncertainty(own).mc_samples == len(own)
        assert predictions.ensemble[answer] == pytest.approx(own.mean(0, dtype=np.float64))
    metrics, _ = predictions.measure(CLASSES)
    assert metrics.samples is None and metrics.error_detection_auroc.mutual_information is None
    assert np.array_equal(whole.ensemble, whole.monte_carlo.mean(0, dtype=np.float64))
    write_predictions(tmp_path / 'p.npz', predictions)
    assert read_predictions(tmp_path / 'p.npz').sample_counts.tolist() == [8, 5, 1]


def test_samples_that_are_missing_in_between_are_refused() -> None:
    whole = made_predictions(answers=3)
    for missing in (slice(0, 1), slice(3, 5), slice(None)):
        samples = whole.monte_carlo.copy()
        samples[missing, 1] = np.nan
        with pytest.raises(ValueError, match='its last samples only'):
            replace(whole, monte_carlo=samples)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda v: v.update(speed=1), 'unknown fields: speed'),
        (lambda v: v.pop('seed'), 'lacks fields: seed'),
        (lambda v: v.update(seed='1'), 'seed must be int'),
        (lambda v: v.update(seed=True), 'seed must be int'),
        (lambda v: v['monte_carlo'].update(ece=0.1), 'monte_carlo has unknown fields: ece'),
        (lambda v: v['monte_carlo'].update(accuracy=None), 'accuracy must be float'),
        (lambda v: v['per_fold'][0].update(topology=[1, 'x']), r'topology\[1\] must be int'),
        (lambda v: v.update(per_fold={}), 'per_fold must be list'),
        (lambda v: v.update(classes=['a', 'b', 'c']), 'do not fit'),
        (lambda v: v['monte_carlo'].update(samples=None), 'single samples'),
        (lambda v: v['monte_carlo'].update(count=29), '29 clips'),
    ],
)
def test_damaged_results_are_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / 'result.json'
    write_result(path, made_result())
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ResultFileError, match=f'result.json.*{message}'):
        read_crossval_result(path)


@pytest.mark.parametrize('text', ['', '[]', '{', '3', '\x00'])
def test_other_files_are_no_results(tmp_path: Path, text: str) -> None:
    (tmp_path / 'other.json').write_text(text)
    with pytest.raises(ResultFileError, match=r'other\.json'):
        read_crossval_result(tmp_path / 'other.json')
    with pytest.raises(ResultFileError, match=r'missing\.json.*No such file'):
        read_crossval_result(tmp_path / 'missing.json')


def test_predictions_are_kept_well_enough_to_measure_them_again(tmp_path: Path) -> None:
    predictions = made_predictions()
    write_predictions(tmp_path / 'p.npz', predictions)
    again = read_predictions(tmp_path / 'p.npz')
    assert again.names == predictions.names
    assert np.array_equal(again.single_pass, predictions.single_pass)
    for before, after in zip(predictions.measure(CLASSES), again.measure(CLASSES), strict=True):
        assert after.accuracy == before.accuracy
        assert after.negative_log_likelihood == pytest.approx(
            before.negative_log_likelihood, abs=1e-3
        )
    (tmp_path / 'p.npz').write_text('nothing')
    with pytest.raises(ResultFileError, match='p.npz'):
        read_predictions(tmp_path / 'p.npz')


def test_folds_are_joined_in_their_order() -> None:
    parts = [made_predictions(seed=seed, answers=3 + seed) for seed in (1, 2)]
    joined = join_predictions(parts)
    assert len(joined) == 9
    assert np.array_equal(joined.monte_carlo[:, 4:], parts[1].monte_carlo)
    assert list(joined.labels[:4]) == list(parts[0].labels)
    fewer = replace(parts[0], monte_carlo=parts[0].monte_carlo[:5])
    with pytest.raises(ValueError, match='differ'):
        join_predictions([fewer, parts[1]])
    with pytest.raises(ValueError, match='no predictions'):
        join_predictions([])


def test_parts_that_do_not_belong_together_are_refused() -> None:
    predictions = made_predictions()
    for change in (
        {'labels': predictions.labels[:5]},
        {'names': ('one',)},
        {'single_pass': predictions.single_pass[:, :2]},
    ):
        with pytest.raises(ValueError, match='belong together'):
            replace(predictions, **change)


def test_a_report_has_a_row_for_each_network_and_links_its_pictures(tmp_path: Path) -> None:
    results = [made_result(seed=seed) for seed in (1, 2, 3)]
    results.append(made_result(name='ST-GCN'))
    results.append(made_result(data='lse_gfe_tracks.npz'))
    paths = []
    for index, result in enumerate(results):
        paths.append(tmp_path / f'{index}.json')
        write_result(paths[-1], result)
    out = tmp_path / 'docs' / 'results.md'
    assert main(['report', *map(str, paths), '--out', str(out)]) == 0
    text = out.read_text()
    links = re.findall(r'!\[.*?\]\((.*?)\)', text)
    assert len(links) == 6
    assert all(cv2.imread(str(out.parent / link)) is not None for link in links)
    rows = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| ')]
    by_name = {row[0]: row for row in rows[1:3]}
    grown = by_name['PST-BLN (grown)']
    accuracies = [100 * result.monte_carlo.accuracy for result in results[:3]]
    assert grown[1] == f'{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}'
    assert grown[3:5] == ['1,234', '56,789']
    assert grown[-1] == '3'
    assert '±' not in by_name['ST-GCN'][1]
    for seed in (1, 2, 3):
        assert f'fer_train crossval --seed {seed}\n' in text
    assert '10-15 (4 times), 10-5, 10-10' in text
    again = tmp_path / 'again' / 'results.md'
    write_report(again, results)
    assert again.read_text() == text


def test_results_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='have the seed 1'):
        group_results([made_result(), made_result()])
    shorter = made_predictions(answers=20).measure(CLASSES)
    other = made_result(name='x', monte_carlo=shorter[0], single_pass=shorter[1])
    with pytest.raises(ValueError, match='cannot be compared'):
        group_results([made_result(), other])
    with pytest.raises(ValueError, match='no results'):
        write_report(tmp_path / 'r.md', [])


def test_a_network_without_errors_says_so(tmp_path: Path) -> None:
    perfect = made_predictions()
    perfect = replace(perfect, labels=perfect.monte_carlo.mean(0).argmax(-1))
    monte_carlo, single_pass = perfect.measure(CLASSES)
    assert monte_carlo.error_detection_auroc.predictive_entropy is None
    write_report(
        tmp_path / 'r.md', [made_result(monte_carlo=monte_carlo, single_pass=single_pass)]
    )
    assert re.search(r'\| none wrong \| \d+ \| 1 \|', (tmp_path / 'r.md').read_text())


def test_a_bad_file_ends_the_report_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'bad.json').write_text('{}')
    assert main(['report', str(tmp_path / 'bad.json'), '--out', str(tmp_path / 'r.md')]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'bad.json' in error
    assert not (tmp_path / 'r.md').exists()
