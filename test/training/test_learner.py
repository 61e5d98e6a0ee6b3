# SPDX-License-Identifier: Apache-2.0
"""The learner has the reference's interface and does what its page says."""

import inspect
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faces_made import face_landmarks
from torch.utils.data import DataLoader

from fer_perception.graph.landmarks import INNER_LANDMARKS
from fer_perception.graph.normalization import normalize_landmarks
from fer_training.clips import Clips
from fer_training.external_dataset import DatasetIterator, ExternalDataset
from fer_training.learner import ProgressiveSpatioTemporalBLNLearner as Learner
from fer_training.reference_format import read_reference_labels, write_reference_clips
from fer_training.targets import Category, SkeletonSequence

POINTS, FRAMES, CLASSES = 12, 5, 3

# The page's arguments and defaults; NEEDED is an argument without one.
NEEDED = inspect.Parameter.empty
FILES = {
    'train_data_filename': 'train.npy', 'train_labels_filename': 'train_labels.pkl',
    'val_data_filename': 'val.npy', 'val_labels_filename': 'val_labels.pkl',
}
PAGE: dict[str, dict[str, Any]] = {
    '__init__': {
        'lr': 0.1, 'batch_size': 128, 'optimizer_name': 'sgd', 'lr_schedule': ' ',
        'checkpoint_after_iter': 0, 'checkpoint_load_iter': 0, 'temp_path': 'temp',
        'device': 'cuda', 'num_workers': 32, 'epochs': 400, 'experiment_name': 'pstbln_casia',
        'device_indices': [0], 'val_batch_size': 128, 'drop_after_epoch': [400],
        'start_epoch': 0, 'dataset_name': 'CASIA', 'num_class': 6, 'num_point': 309,
        'num_person': 1, 'in_channels': 2, 'block_size': 5, 'num_blocks': 100,
        'num_layers': 10, 'topology': [], 'layer_threshold': 1e-4, 'block_threshold': 1e-4,
    },
    'fit': {
        'dataset': NEEDED, 'val_dataset': NEEDED, 'logging_path': '', 'silent': False,
        'verbose': True, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.0001,
        'monte_carlo_dropout': True, 'mcdo_repeats': 100, **FILES,
    },
    'eval': {
        'val_dataset': NEEDED, 'val_loader': None, 'epoch': 0, 'monte_carlo_dropout': True,
        'mcdo_repeats': 100, 'silent': False, 'verbose': True, 'val_data_filename': 'val.npy',
        'val_labels_filename': 'val_labels.pkl', 'save_score': False, 'wrong_file': None,
        'result_file': None, 'show_topk': [1, 5],
    },
    'init_model': {},
    'network_builder': {
        'dataset': NEEDED, 'val_dataset': NEEDED, 'monte_carlo_dropout': True,
        'mcdo_repeats': 100, 'logging_path': '', **FILES, 'verbose': True,
    },
    'infer': {'facial_landmarks_batch': NEEDED, 'monte_carlo_dropout': True, 'mcdo_repeats': 100},
    'save': {'path': NEEDED, 'model_name': NEEDED, 'verbose': True},
    # model_name has a default, for the page's own example calls it file_name.
    'load': {'path': NEEDED, 'model_name': None, 'verbose': True},
    'optimize': {'do_constant_folding': False},
    'download': {
        'path': None, 'mode': 'train_data', 'verbose': True,
        'url': 'ftp://opendrdata.csd.auth.gr/perception/'
        'landmark_based_facial_expression_recognition/',
    },
}
OURS = {'__init__': {'blocksize'}, 'load': {'file_name'}}  # keyword-only


@pytest.mark.parametrize('method', PAGE)
def test_arguments_and_defaults_are_those_of_the_page_in_its_order(method: str) -> None:
    parameters = dict(inspect.signature(getattr(Learner, method)).parameters)
    parameters.pop('self', None)
    extra = {n for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert extra == OURS.get(method, set())
    found = {
        name: list(p.default) if isinstance(p.default, tuple) else p.default
        for name, p in parameters.items() if name not in extra
    }
    assert list(found.items()) == list(PAGE[method].items())
    for parameter in parameters.values():
        assert not isinstance(parameter.default, list | dict | set)


def made_clips(count: int, *, points: int = POINTS, classes: int = CLASSES) -> Clips:
    """Make clips whose class shows in the vertical movement."""
    draw = np.random.default_rng(count)
    labels = np.arange(count) % classes
    features = 0.1 * draw.normal(size=(count, 2, FRAMES, points)).astype('f4')
    features[:, 1] += labels[:, None, None] * np.linspace(0, 1, FRAMES)[None, :, None]
    return Clips(
        features=features, labels=labels, subjects=('',) * count,
        classes=tuple(f'class {index}' for index in range(classes)),
        names=tuple(f'clip_{index}' for index in range(count)),
    )


def write_data(folder: Path, **changes: int) -> Path:
    for part, count in (('train', 12), ('val', 7)):
        write_reference_clips(
            folder / f'{part}.npy', folder / f'{part}_labels.pkl', made_clips(count, **changes)
        )
    return folder


@pytest.fixture
def data(tmp_path: Path) -> ExternalDataset:
    return ExternalDataset(str(write_data(tmp_path / 'data')), 'casia')


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Learner]:
    def make(**changes: Any) -> Learner:
        settings: dict[str, Any] = {
            'device': 'cpu', 'temp_path': str(tmp_path / 'temp'), 'num_class': CLASSES,
            'num_point': POINTS, 'batch_size': 6, 'epochs': 2, 'topology': [1, 1],
            'experiment_name': 'test',
        }
        return Learner(**(settings | changes))

    return make


def logits(learner: Learner, features: np.ndarray) -> torch.Tensor:
    assert learner.model is not None
    with torch.no_grad():
        return learner.model(torch.from_numpy(features))


QUIET: dict[str, Any] = {'silent': True, 'verbose': False, 'mcdo_repeats': 3}


def test_topology_holds_blocks_and_the_paper_s_net_has_the_paper_s_count() -> None:
    learner = Learner(
        device='cpu', dataset_name='AFEW', topology=[3, 2, 3, 1, 1, 2], num_point=312
    )
    learner.init_model()
    assert learner.model is not None
    assert learner.model.parameter_counts() == (10_750, 1_762_942)
    assert learner.model.config.strides == (1, 1, 1, 1, 2, 1)


def test_what_is_not_given_follows_from_the_data_set() -> None:
    facts = {
        name: (found.num_class, found.num_point, found.classes[-1], found.classes[3])
        for name in ('AFEW', 'casia', 'ck+')
        for found in [Learner(device='cpu', dataset_name=name)]
    }
    assert facts == {
        'AFEW': (7, 312, 'Neutral', 'Sad'),
        'casia': (6, 309, 'Disgust', 'Sad'),
        'ck+': (7, 303, 'Neutral', 'Sad'),
    }
    given = Learner(device='cpu', dataset_name='AFEW', num_class=6, num_point=309)
    assert (given.num_class, given.num_point, given.classes[0]) == (6, 309, 'class 0')


def test_defaults_are_not_shared() -> None:
    first = Learner(device='cpu')
    first.topology.append(3)
    first.device_indices.append(1)
    first.drop_after_epoch.append(7)
    second = Learner(device='cpu')
    assert (second.topology, second.device_indices, second.drop_after_epoch) == ([], [0], [400])
    own = [1]
    assert Learner(device='cpu', topology=own).topology is not own


def test_block_size_has_an_older_name() -> None:
    assert Learner(device='cpu', blocksize=3).block_size == 3
    assert Learner(device='cpu', block_size=3).blocksize == 3
    assert Learner(device='cpu', block_size=3, blocksize=3).block_size == 3
    with pytest.raises(ValueError, match='block_size is 5, blocksize 3'):
        Learner(device='cpu', block_size=5, blocksize=3)


def test_without_cuda_the_cpu_is_used_with_one_warning(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.warns(UserWarning, match='the CPU is used') as caught:
        learner = Learner(topology=[1])
        learner.init_model()
    assert len(caught) == 1 and learner.device == 'cpu'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'dataset_name': 'coco'}, "unknown data set 'coco'"),
        ({'dataset_name': None}, 'unknown data set None'),
        ({'optimizer_name': 'adamw'}, "optimizer_name .* 'adamw'"),
        ({'lr_schedule': 'cosine'}, "lr_schedule .* 'cosine'"),
        ({'device': 'tpu'}, "'cpu' or 'cuda', not 'tpu'"),
        ({'device_indices': []}, 'device_indices'),
        ({'num_person': 2}, 'num_person must be 1'),
        ({'in_channels': 3}, 'in_channels 2, not 1 and 3'),
        ({'num_class': 1}, 'num_class .* at least 2, not 1'),
        ({'num_point': 0}, 'num_point .* at least 1, not 0'),
        ({'block_size': 2.5}, 'block_size .* 2.5'),
        ({'epochs': 0}, 'epochs .* at least 1, not 0'),
        ({'topology': [3, 0]}, 'topology.* not 0'),
        ({'topology': ['a']}, "topology.* not 'a'"),
        ({'start_epoch': -1}, 'start_epoch'),
        ({'experiment_name': '../up'}, 'experiment_name'),
    ],
)
def test_bad_arguments_are_named_with_their_value(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Learner(**({'device': 'cpu'} | arguments))


def test_fit_learns_and_evaluates_every_epoch(
    make: Callable[..., Learner], data: ExternalDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = make(epochs=8, lr=0.05)
    learner.init_model()
    before = learner.eval(data, **QUIET)
    result = learner.fit(data, data, **QUIET)
    assert capsys.readouterr() == ('', '')
    assert [found['epoch'] for found in result['eval_results']] == list(range(8))
    assert result['train_loss'] < before['loss']
    assert result['best_accuracy'] == max(item['accuracy'] for item in result['eval_results'])
    assert result['model_name'] == 'test'
    after = learner.eval(data, **QUIET)
    assert after['loss'] == result['eval_results'][-1]['loss']
    learner.fit(data, None, verbose=False)
    assert 'epoch 8/8: loss' in capsys.readouterr().out


def test_nothing_is_kept_unless_asked(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path
) -> None:
    learner = make()
    learner.fit(data, data, **QUIET)
    learner.infer(made_clips(2).features, mcdo_repeats=2)
    assert not (tmp_path / 'temp').exists()


def test_a_fit_that_goes_on_from_a_checkpoint_equals_an_unbroken_one(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path
) -> None:
    unbroken = make(epochs=4, checkpoint_after_iter=2, drop_after_epoch=[3])
    unbroken.fit(data, data, **QUIET)
    folder = tmp_path / 'temp' / 'test_checkpoints'
    assert sorted(path.name for path in folder.iterdir()) == [
        'test-2.checkpoint', 'test-4.checkpoint', 'test.json', 'test.pt'
    ]
    (folder / 'test-4.checkpoint').unlink()
    for start_epoch in (0, 2):
        resumed = make(
            epochs=4, checkpoint_load_iter=2, drop_after_epoch=[3], start_epoch=start_epoch
        )
        result = resumed.fit(data, data, **QUIET)
        assert [found['epoch'] for found in result['eval_results']] == [2, 3]
        features = made_clips(4).features
        assert torch.equal(logits(resumed, features), logits(unbroken, features))
    longer = make(epochs=6, checkpoint_load_iter=2, drop_after_epoch=[3])
    assert len(longer.fit(data, data, **QUIET)['eval_results']) == 4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'checkpoint_load_iter': 3}, 'no checkpoint of epoch 3: .*test-3.checkpoint'),
        ({'checkpoint_load_iter': 2, 'start_epoch': 1}, 'start_epoch is 1'),
        ({'checkpoint_load_iter': 2, 'lr': 0.2}, 'another learning_rate'),
        ({'checkpoint_load_iter': 2, 'topology': [2]}, 'another network'),
        ({'checkpoint_load_iter': 2, 'epochs': 2}, 'epochs is 2: .* after epoch 2'),
        ({'start_epoch': 4}, 'epochs is 4: .* after epoch 4'),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(
    make: Callable[..., Learner], data: ExternalDataset, arguments: dict[str, Any], message: str
) -> None:
    make(epochs=2, checkpoint_after_iter=2).fit(data, None, **QUIET)
    with pytest.raises(ValueError, match=message):
        make(**({'epochs': 4} | arguments)).fit(data, None, **QUIET)


def test_a_damaged_checkpoint_is_refused(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path
) -> None:
    path = tmp_path / 'temp' / 'test_checkpoints' / 'test-1.checkpoint'
    path.parent.mkdir(parents=True)
    for content in (b'', b'junk', pickle.dumps({'settings': 1}, 2)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='test-1.checkpoint is no checkpoint'):
            make(checkpoint_load_iter=1).fit(data, None, **QUIET)


def test_start_epoch_counts_and_lowers_the_rate_as_if_the_others_had_been(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path
) -> None:
    learner = make(epochs=4, start_epoch=2, drop_after_epoch=[1, 3], checkpoint_after_iter=3)
    config = learner._fit_config(made_clips(3), 0.9, True, 0.0)
    assert (config.epochs, config.drop_after_epochs) == (2, (1,))
    assert config.learning_rate == pytest.approx(0.01)
    result = learner.fit(data, data, **QUIET)
    assert [found['epoch'] for found in result['eval_results']] == [2, 3]
    assert (tmp_path / 'temp/test_checkpoints/test-3.checkpoint').is_file()


def test_workers_are_no_more_than_the_processors_and_none_for_small_data(
    make: Callable[..., Learner], data: ExternalDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make()
    expected.fit(data, None, **QUIET)
    assert expected._fit_config(made_clips(3), 0.9, True, 0.0).workers == 0
    monkeypatch.setattr('fer_training.learner.SMALL_DATA_BYTES', 0)
    monkeypatch.setattr('os.cpu_count', lambda: 2)
    learner = make(epochs=1)
    assert learner._fit_config(made_clips(3), 0.9, True, 0.0).workers == 2
    learner.num_workers = 1
    learner.epochs = 2
    learner.fit(data, None, **QUIET)
    features = made_clips(3).features
    assert torch.equal(logits(learner, features), logits(expected, features))


def test_curves_and_lines_are_logged(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path
) -> None:
    pytest.importorskip('tensorboard', reason='curves need the extra [training]')
    folder = tmp_path / 'log'
    make().fit(data, data, logging_path=str(folder), **QUIET)
    make(topology=[], num_layers=1, num_blocks=1).network_builder(
        data, data, logging_path=str(folder), verbose=False, mcdo_repeats=2
    )
    lines = (folder / 'log.txt').read_text()
    assert 'epoch 2/2' in lines and 'evaluation after epoch 2' in lines and 'step 1' in lines
    assert len(list((folder / 'test_tensorboard').glob('events*'))) == 2


def test_eval_returns_all_metrics_and_writes_what_is_asked(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learner = make(epochs=1)
    learner.fit(data, None, **QUIET)
    clips = made_clips(7)
    result = learner.eval(
        data, epoch=4, mcdo_repeats=5, verbose=True, save_score=True, wrong_file=True,
        result_file=str(tmp_path / 'own' / 'result.txt'), show_topk=[1, 2, 3],
    )
    assert re.search(r'after epoch 5: loss .*\ntop 1: .*\ntop 2: ', capsys.readouterr().out)
    score = result['score']
    assert score.shape == (7, CLASSES) and np.allclose(score.sum(1), 1.0)
    answers = score.argmax(1)
    assert result['accuracy'] == (answers == clips.labels).mean() == result['top_k'][1]
    assert result['top_k'][1] <= result['top_k'][2] <= result['top_k'][3] == 1.0
    own = score[np.arange(7), clips.labels]
    assert result['loss'] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert len(result['metrics']['samples']['accuracies']) == 5
    json.dumps(result['metrics'])
    with Path(result['score_file']).open('rb') as file:
        scores = pickle.load(file)
    assert list(scores) == list(clips.names) and scores['clip_3'] == score[3].tolist()
    assert Path(result['score_file']).name == 'epoch5_val_score.pkl'
    pairs = [(int(a), int(b)) for a, b in zip(answers, clips.labels, strict=True)]
    text = Path(result['result_file']).read_text()
    assert text == ''.join(f'{answer},{label}\n' for answer, label in pairs)
    wrong = Path(result['wrong_file']).read_text()
    assert wrong == ''.join(f'{i},{a},{b}\n' for i, (a, b) in enumerate(pairs) if a != b)


def test_a_plain_pass_has_no_samples(make: Callable[..., Learner], data: ExternalDataset) -> None:
    learner = make()
    learner.init_model()
    result = learner.eval(data, monte_carlo_dropout=False, silent=True)
    assert result['metrics']['samples'] is None
    clips = made_clips(7)
    expected = logits(learner, clips.features).softmax(-1).numpy()
    np.testing.assert_allclose(result['score'], expected, atol=1e-6)


def test_eval_takes_loaders_and_data_sets_of_one_s_own(
    make: Callable[..., Learner], data: ExternalDataset
) -> None:
    clips = made_clips(7)

    class Own(DatasetIterator):
        def __getitem__(self, idx: int) -> tuple[Any, ...]:
            return clips.features[idx][..., None], int(clips.labels[idx]), idx

        def __len__(self) -> int:
            return len(clips)

    learner = make()
    learner.init_model()
    loader: DataLoader[Any] = DataLoader(Own(), batch_size=3)  # type: ignore[arg-type]
    expected = learner.eval(data, **QUIET)['score']
    assert np.array_equal(learner.eval(Own(), **QUIET)['score'], expected)
    assert np.array_equal(learner.eval(None, val_loader=loader, **QUIET)['score'], expected)
    learner.fit(Own(), Own(), **QUIET)


def test_monte_carlo_dropout_leaves_later_calls_deterministic(
    make: Callable[..., Learner], data: ExternalDataset
) -> None:
    learner = make()
    learner.init_model()
    features = made_clips(4).features
    before = logits(learner, features)
    single = learner.infer(features[0], monte_carlo_dropout=False)
    learner.infer(features, mcdo_repeats=4)
    learner.eval(data, **QUIET)
    assert learner.model is not None
    assert not any(module.training for module in learner.model.modules())
    assert torch.equal(logits(learner, features), before)
    again = learner.infer(features[0], monte_carlo_dropout=False)
    assert isinstance(single, Category) and isinstance(again, Category)
    assert single.probabilities is not None and again.probabilities is not None
    assert np.array_equal(single.probabilities, again.probabilities)


def test_infer_returns_the_uncertainty_of_the_whole_batch(
    make: Callable[..., Learner], capsys: pytest.CaptureFixture[str]
) -> None:
    learner = make()
    learner.init_model()
    features = made_clips(4).features
    answers = learner.infer(features, mcdo_repeats=20)
    assert capsys.readouterr() == ('', '')
    assert isinstance(answers, list) and len(answers) == 4
    for answer in answers:
        assert answer.probabilities is not None and answer.standard_deviations is not None
        assert answer.probabilities.shape == answer.standard_deviations.shape == (CLASSES,)
        assert answer.probabilities.sum() == pytest.approx(1.0)
        assert answer.confidence == answer.probabilities.max()
        assert answer.data == answer.prediction == answer.probabilities.argmax()
        assert answer.description == f'class {answer.prediction}'
        assert answer.predictive_entropy is not None and answer.expected_entropy is not None
        assert answer.mutual_information == pytest.approx(
            answer.predictive_entropy - answer.expected_entropy
        )
        assert answer.mc_samples == 20 and (answer.standard_deviations > 0).any()
    plain = learner.infer(features, monte_carlo_dropout=False)
    assert isinstance(plain, list)
    assert plain[2].mc_samples == 0 and plain[2].standard_deviations is None
    assert plain[2].mutual_information is None


def test_infer_takes_every_shape_and_answers_one_sequence_by_one_category(
    make: Callable[..., Learner]
) -> None:
    learner = make()
    learner.init_model()
    features = made_clips(3).features
    ones: list[Any] = [
        features[0], features[0][..., None], features[:1], features[:1, ..., None],
        SkeletonSequence(features[:1]), features[0].astype('f8'),
    ]
    answers = [learner.infer(one, mcdo_repeats=3) for one in ones]
    assert all(isinstance(answer, Category) for answer in answers)
    assert len({str(answer) for answer in answers}) == 1
    assert isinstance(learner.infer(features[:2, ..., None], mcdo_repeats=2), list)
    with pytest.raises(ValueError, match='13 points, but num_point is 12'):
        learner.infer(np.zeros((1, 2, 5, 13)))
    with pytest.raises(ValueError, match='mcdo_repeats .* at least 1, not 0'):
        learner.infer(features, mcdo_repeats=0)


@pytest.mark.parametrize('edges', [181, 312])
def test_landmarks_become_edge_vectors_where_the_edges_are_known(
    make: Callable[..., Learner], edges: int
) -> None:
    landmarks = normalize_landmarks(face_landmarks(frames=4), 'centred')
    points = np.moveaxis(landmarks[:, INNER_LANDMARKS], -1, 0)  # (2, T, 51)
    learner = make(num_point=edges, topology=[1])
    learner.init_model()
    pair = np.stack([points, points + 100.0])  # moved: the same face
    answers = learner.infer(pair, monte_carlo_dropout=False)
    assert isinstance(answers, list)
    near, far = (answer.probabilities for answer in answers)
    assert near is not None and far is not None
    np.testing.assert_allclose(near, far, atol=1e-4)


def test_landmarks_without_a_list_of_edges_are_refused(make: Callable[..., Learner]) -> None:
    learner = make(num_point=309, topology=[1])
    learner.init_model()
    with pytest.raises(ValueError, match='no list of 309 edges .* num_point=181 or 312'):
        learner.infer(np.zeros((1, 2, 5, 51)))


def test_growth_ends_with_the_accepted_network(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path
) -> None:
    # No block can lower the loss by so much: the second one is removed, and the second layer.
    learner = make(topology=[], block_threshold=0.99, layer_threshold=0.99, epochs=1)
    assert learner.network_builder(data, data, verbose=False, mcdo_repeats=2) == [1]
    assert learner.topology == [1] and learner.model is not None
    assert learner.model.config.channels == (5,)
    folder = tmp_path / 'temp' / 'test_checkpoints'
    history = json.loads((folder / 'history.json').read_text())
    assert [step['channels'] for step in history['steps']] == [[5], [10], [5, 5], [5, 10]]
    assert history['steps'][0]['validation'].keys() == {'accuracy', 'loss'}
    assert sorted(path.name for path in folder.iterdir()) == [
        'history.json', 'test.json', 'test.pt'
    ]
    copy = make(topology=[])
    copy.load(folder, 'test', verbose=False)
    features = made_clips(3).features
    assert torch.equal(logits(copy, features), logits(learner, features))


def test_growth_begins_with_the_given_topology_and_keeps_the_limits(
    make: Callable[..., Learner], data: ExternalDataset
) -> None:
    learner = make(
        topology=[2], num_blocks=2, num_layers=1, block_threshold=1e-9, epochs=1
    )
    for _ in range(2):  # a second call grows anew
        assert learner.network_builder(data, None, verbose=False) == [2]


def test_interrupted_growth_goes_on_with_the_same_data_only(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {
        'topology': [], 'num_layers': 2, 'num_blocks': 1, 'layer_threshold': 1e-9, 'epochs': 1
    }
    expected = make(experiment_name='unbroken', **settings)
    expected.network_builder(data, None, verbose=False)
    learner = make(**settings)
    with monkeypatch.context() as patch:
        def stop(*_: object, **__: object) -> dict[str, Any]:
            raise KeyboardInterrupt

        patch.setattr('fer_training.learner.measure_samples', stop)
        with pytest.raises(KeyboardInterrupt):
            learner.network_builder(data, data, verbose=False, mcdo_repeats=2)
    other = ExternalDataset(str(write_data(tmp_path / 'other')), 'CASIA')
    clips = made_clips(12)
    write_reference_clips(
        tmp_path / 'other' / 'train.npy', tmp_path / 'other' / 'train_labels.pkl',
        Clips(**(vars(clips) | {'labels': clips.labels[::-1].copy()})),
    )
    with pytest.raises(ValueError, match='interrupted growth on other data'):
        learner.network_builder(other, None, verbose=False)
    assert learner.network_builder(data, data, verbose=False, mcdo_repeats=2) == expected.topology
    features = made_clips(3).features
    assert torch.equal(logits(learner, features), logits(expected, features))


def test_save_then_load_gives_identical_logits(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learner = make(topology=[2, 1], block_size=3)
    learner.fit(data, None, **QUIET)
    learner.save(str(tmp_path / 'saved'), 'net')
    assert 'saved net.pt' in capsys.readouterr().out
    metadata = json.loads((tmp_path / 'saved' / 'net.json').read_text())
    assert metadata.keys() == {
        'model_paths', 'framework', 'format', 'has_data', 'inference_params', 'optimized',
        'optimizer_info',
    }
    assert metadata['model_paths'] == ['net.pt'] and metadata['optimized'] is False
    loaded = Learner(device='cpu', temp_path=str(tmp_path / 'x'))  # the file knows the rest
    loaded.load(path=str(tmp_path / 'saved'), file_name='net')
    assert (loaded.topology, loaded.block_size, loaded.num_point) == ([2, 1], 3, POINTS)
    assert loaded.classes == learner.classes and 'loaded net' in capsys.readouterr().out
    features = made_clips(5).features
    assert torch.equal(logits(loaded, features), logits(learner, features))
    assert set(torch.load(tmp_path / 'saved' / 'net.pt', weights_only=True)) == set(
        learner.model.state_dict() if learner.model else ()
    )


def replace_tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = torch.load(folder / 'net.pt', weights_only=True)
        change(tensors)
        torch.save(tensors, folder / 'net.pt')

    return apply


def change_json(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / 'net.json').read_text())
        (folder / 'net.json').write_text(json.dumps(content | changes))

    return apply


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ('attacked',)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (replace_tensors(lambda t: t.pop('head.bias')), 'net.pt: .*missing: head.bias'),
        (replace_tensors(lambda t: t.update(x=torch.ones(1))), 'net.pt: .*unknown: x'),
        (replace_tensors(lambda t: t.update({'head.bias': torch.ones(9)})), 'head.bias is'),
        (replace_tensors(lambda t: t['head.bias'].fill_(float('nan'))), 'head.bias is not finite'),
        (lambda folder: (folder / 'net.pt').unlink(), 'net.pt does not exist'),
        (lambda folder: (folder / 'net.pt').write_bytes(b'x'), 'net.pt holds no weights'),
        (lambda folder: torch.save([1], folder / 'net.pt'), 'dictionary of tensors'),
        (lambda folder: torch.save({'a': Attack()}, folder / 'net.pt'), 'holds no weights'),
        (lambda folder: (folder / 'net.json').unlink(), 'net.json does not exist'),
        (lambda folder: (folder / 'net.json').write_text('{'), 'describes no network'),
        (change_json(optimized=None), "'optimized', true or false"),
        (change_json(optimized=True), 'net.onnx does not exist'),
        (change_json(framework='keras'), 'framework'),
        (change_json(inference_params={'topology': [1]}), 'inference_params must hold'),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(
    make: Callable[..., Learner], tmp_path: Path, change: Callable[[Path], object], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learner = make()
    learner.init_model()
    learner.save(tmp_path / 'saved', 'net', verbose=False)
    change(tmp_path / 'saved')
    with pytest.raises(ValueError, match=message) as caught:
        learner.load(tmp_path / 'saved', 'net')
    assert '\n' not in str(caught.value)
    assert 'attacked' not in capsys.readouterr().out


def test_a_file_that_contradicts_the_learner_is_refused(
    make: Callable[..., Learner], tmp_path: Path
) -> None:
    learner = make(topology=[1, 2])
    learner.init_model()
    learner.save(tmp_path, 'net', verbose=False)
    for changes, message in (
        ({'topology': [1]}, r'topology \[1, 2\], but the learner has \[1\]'),
        ({'num_point': 13}, 'num_point 12, but the learner has 13'),
        ({'num_class': 4}, 'num_class 3, but the learner has 4'),
        ({'block_size': 4}, 'block_size 5, but the learner has 4'),
        ({'dataset_name': 'AFEW'}, 'dataset_name CASIA, but the learner has AFEW'),
    ):
        with pytest.raises(ValueError, match=message):
            make(**({'topology': [1, 2]} | changes)).load(tmp_path, 'net')
    with pytest.raises(ValueError, match='one name'):
        learner.load(tmp_path)
    with pytest.raises(ValueError, match='one name'):
        learner.load(tmp_path, 'net', file_name='other')


def test_a_file_that_tells_no_topology_needs_the_learner_s(
    make: Callable[..., Learner], tmp_path: Path
) -> None:
    learner = make()
    learner.init_model()
    learner.save(tmp_path, 'net', verbose=False)
    change_json(inference_params={})(tmp_path)  # as the reference writes it
    loaded = make()
    loaded.load(tmp_path, 'net', verbose=False)
    features = made_clips(2).features
    assert torch.equal(logits(loaded, features), logits(learner, features))
    with pytest.raises(ValueError, match='tells no topology'):
        make(topology=[]).load(tmp_path, 'net')


def test_the_optimized_network_answers_as_torch_does(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path
) -> None:
    pytest.importorskip('onnx', reason='the export needs onnx and onnxruntime')
    pytest.importorskip('onnxruntime', reason='the export needs onnx and onnxruntime')
    learner = make()
    learner.fit(data, None, **QUIET)
    features = made_clips(3).features
    plain, drawn = (
        learner.eval(data, monte_carlo_dropout=samples, mcdo_repeats=200, silent=True)['score']
        for samples in (False, True)
    )
    learner.optimize(do_constant_folding=True)
    assert learner.ort_session is not None
    result = learner.eval(data, monte_carlo_dropout=False, silent=True)
    np.testing.assert_allclose(result['score'], plain, atol=1e-5)
    result = learner.eval(data, mcdo_repeats=200, silent=True)  # other masks, the same mean
    np.testing.assert_allclose(result['score'], drawn, atol=0.05)
    answers = learner.infer(features, mcdo_repeats=7)
    assert isinstance(answers, list) and answers[0].mc_samples == 7
    assert answers[0].standard_deviations is not None
    assert (answers[0].standard_deviations > 0).any()

    learner.save(tmp_path / 'saved', 'net', verbose=False)
    metadata = json.loads((tmp_path / 'saved' / 'net.json').read_text())
    assert metadata['optimized'] is True and metadata['format'] == 'onnx'
    assert metadata['model_paths'] == ['net.onnx', 'net.pt']
    assert (tmp_path / 'saved' / 'net.onnx').is_file()
    loaded = make()
    loaded.load(tmp_path / 'saved', 'net', verbose=False)
    assert loaded.ort_session is not None
    assert torch.equal(logits(loaded, features), logits(learner, features))
    (tmp_path / 'saved' / 'net.pt').unlink()
    loaded.load(tmp_path / 'saved', 'net', verbose=False)
    assert loaded.model is None
    result = loaded.eval(data, monte_carlo_dropout=False, silent=True)
    np.testing.assert_allclose(result['score'], plain, atol=1e-5)
    with pytest.raises(ValueError, match='optimized network cannot be fitted'):
        loaded.fit(data, None, **QUIET)

    learner.fit(data, None, **QUIET)  # the export is of other weights than these
    assert learner.ort_session is None


def test_reset_forgets_the_network(make: Callable[..., Learner], data: ExternalDataset) -> None:
    learner = make(topology=[], num_layers=1, num_blocks=1, epochs=1)
    learner.network_builder(data, None, verbose=False)
    learner.reset()
    assert learner.model is None and learner.topology == []


def test_without_a_network_infer_takes_that_of_the_experiment_or_says_so(
    make: Callable[..., Learner], data: ExternalDataset
) -> None:
    features = made_clips(1).features
    with pytest.raises(ValueError, match='no network, and none of test in'):
        make().infer(features)
    make(checkpoint_after_iter=1).fit(data, None, **QUIET)
    with pytest.warns(UserWarning, match='that of test in .* is used'):
        assert isinstance(make(topology=[]).infer(features, mcdo_repeats=2), Category)


def test_what_cannot_be_done_is_said(
    make: Callable[..., Learner], data: ExternalDataset, tmp_path: Path
) -> None:
    empty = make(topology=[])
    with pytest.raises(ValueError, match='the topology is empty'):
        empty.init_model()
    with pytest.raises(ValueError, match='the topology is empty'):
        empty.fit(data, None, **QUIET)
    for act in (
        lambda: empty.save(tmp_path, 'net'), empty.optimize, lambda: empty.eval(data, **QUIET)
    ):
        with pytest.raises(ValueError, match='there is no network'):
            act()
    learner = make()
    learner.init_model()
    learner.topology = [3]
    with pytest.raises(ValueError, match=r'channels \[5, 5\], but the topology is \[3\]'):
        learner.eval(data, **QUIET)
    with pytest.raises(ValueError, match='nothing to evaluate'):
        learner.eval(None)
    with pytest.raises(ValueError, match='ExternalDataset or a DatasetIterator, not str'):
        learner.fit('folder', None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='the data set is AFEW, but dataset_name is CASIA'):
        learner.fit(ExternalDataset(data.path, 'AFEW'), None)
    with pytest.raises(ValueError, match='missing.npy does not exist'):
        learner.fit(data, None, train_data_filename='missing.npy')
    with pytest.raises(ValueError, match='12 points, but num_point is 20'):
        make(num_point=20).fit(data, None)
    with pytest.raises(ValueError, match='labels from 0 to 2'):
        make(num_class=2).fit(data, None)
    with pytest.raises(ValueError, match='show_topk .* not 0'):
        learner.eval(data, show_topk=[0])
    assert read_reference_labels(Path(data.path) / 'val_labels.pkl')  # nothing was harmed
