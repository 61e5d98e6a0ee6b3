# SPDX-License-Identifier: Apache-2.0
"""The examples of the reference's page run, on tiny data, with other imports and numbers."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faces_made import face_landmarks
from file_servers import Behaviour, ftp_server, http_server

from fer_training.clips import ClipPreparation, Clips, clips_from_tracks
from fer_training.external_dataset import DATA_SETS
from fer_training.learner import ProgressiveSpatioTemporalBLNLearner
from fer_training.reference_format import write_reference_clips
from fer_training.targets import Category
from fer_training.tracks import Track

# The examples of OpenDR's documentation (Apache-2.0), as they are there.
GROWTH = """
from opendr.perception.facial_expression_recognition import ProgressiveSpatioTemporalBLNLearner
from opendr.engine.datasets import ExternalDataset
training_dataset = ExternalDataset(path='./data/AFEW_aug_data', dataset_type='AFEW')
validation_dataset = ExternalDataset(path='./data/AFEW_aug_data', dataset_type='AFEW')

pstbln_learner = ProgressiveSpatioTemporalBLNLearner(temp_path='./parent_dir',
                                                     batch_size=64, epochs=400,
                                                     checkpoint_after_iter=10, val_batch_size=128,
                                                     dataset_name='AFEW', experiment_name='pstbln_afew',
                                                     block_size=5, num_blocks=10, num_layers=10, topology=[],
                                                     layer_threshold=1e-4, block_threshold=1e-4)

pstbln_learner.network_builder(dataset=training_dataset, val_dataset=validation_dataset,
                               monte_carlo_dropout=True, mcdo_repeats=100,
                               logging_path='',
                               train_data_filename='train.npy',
                               train_labels_filename='train_labels.pkl',
                               val_data_filename="val.npy",
                               val_labels_filename="val_labels.pkl")

pstbln_learner.save(path='./saved_models/pstbln_afew_checkpoints', model_name='test_pstbln')
"""  # noqa: E501

INFERENCE = """
import numpy
from opendr.perception.facial_expression_recognition import ProgressiveSpatioTemporalBLNLearner
pstbln_learner = ProgressiveSpatioTemporalBLNLearner(temp_path='./parent_dir',
                                                     batch_size=64, epochs=400,
                                                     checkpoint_after_iter=10, val_batch_size=128,
                                                     dataset_name='AFEW', experiment_name='pstbln_afew',
                                                     block_size=5, num_blocks=10, num_layers=10, topology=[],
                                                     layer_threshold=1e-4, block_threshold=1e-4)

# Download the test data and place it in the parent_dir
Test_DATASET_PATH = pstbln_learner.download(mode="test_data", path="./data/afew")
test_data = numpy.load(Test_DATASET_PATH)[0:1]
expression_category = pstbln_learner.infer(test_data)
"""  # noqa: E501

OPTIMIZATION = """
from opendr.perception.facial_expression_recognition import ProgressiveSpatioTemporalBLNLearner

pstbln_learner = ProgressiveSpatioTemporalBLNLearner(temp_path='./parent_dir',
                                                    batch_size=64, epochs=400,
                                                    checkpoint_after_iter=10, val_batch_size=128,
                                                    dataset_name='AFEW', experiment_name='pstbln_afew',
                                                    block_size=5, num_blocks=10, num_layers=10, topology=[],
                                                    layer_threshold=1e-4, block_threshold=1e-4)

pstbln_learner.load(path='./parent_dir/pretrained_models', file_name='pretrained_pstbln')
pstbln_learner.optimize(do_constant_folding=True)
pstbln_learner.save(path='./parent_dir/optimized_model', model_name='optimized_pstbln')
"""  # noqa: E501

IMPORTS = {
    'from opendr.perception.facial_expression_recognition import':
        'from fer_training.learner import',
    'from opendr.engine.datasets import': 'from fer_training.external_dataset import',
}
NUMBERS = {
    'epochs=400': 'epochs=2', 'num_blocks=10': 'num_blocks=2', 'num_layers=10': 'num_layers=2',
    'mcdo_repeats=100': 'mcdo_repeats=5',
}


def run_example(example: str, *, url: str = '') -> dict[str, Any]:
    """Run an example with our imports, small numbers and, where it downloads, our server."""
    changes = IMPORTS | NUMBERS | {'path="./data/afew")': f'path="./data/afew", url="{url}")'}
    for old, new in changes.items():
        example = example.replace(old, new)
    assert 'opendr' not in example
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', "device is 'cuda'")  # the default, where there is none
        exec(example, names)
    return names


def faces(count: int) -> Clips:
    """Make clips of 51 landmarks, as in the page's AFEW_aug_data."""
    classes = DATA_SETS['AFEW'].classes
    tracks = [
        Track(face_landmarks(frames=6, seed=seed), classes[seed % 7], f's{seed}', 30.0)
        for seed in range(count)
    ]
    preparation = ClipPreparation(frames=6, normalization='centred')
    return clips_from_tracks(tracks, classes=classes, preparation=preparation)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with the data of the examples, small ones."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'data' / 'AFEW_aug_data'
    for part, count in (('train', 14), ('val', 7)):
        write_reference_clips(folder / f'{part}.npy', folder / f'{part}_labels.pkl', faces(count))
    return tmp_path


@pytest.fixture(params=['http', 'ftp'])
def server(request: pytest.FixtureRequest, here: Path) -> Iterator[tuple[str, Behaviour]]:
    """Serve test data of edge vectors, as the reference's server does."""
    served = here / 'served' / 'data' / 'AFEW'
    served.mkdir(parents=True)
    vectors = np.random.default_rng(0).normal(size=(3, 2, 6, 312, 1)).astype('f4')
    np.save(served / 'val.npy', vectors)
    open_server = http_server if request.param == 'http' else ftp_server
    with open_server(here / 'served') as served_at:
        yield served_at


def test_the_examples_run_one_after_the_other(
    here: Path, server: tuple[str, Behaviour], capsys: pytest.CaptureFixture[str]
) -> None:
    url, behaviour = server
    grown = run_example(GROWTH)['pstbln_learner']
    assert grown.topology and all(blocks in (1, 2) for blocks in grown.topology)
    assert (grown.num_class, grown.num_point) == (7, 312)
    saved = here / 'saved_models' / 'pstbln_afew_checkpoints'
    assert sorted(path.name for path in saved.iterdir()) == ['test_pstbln.json', 'test_pstbln.pt']
    assert 'step 1: [5] loss' in capsys.readouterr().out

    with pytest.warns(UserWarning, match='that of pstbln_afew in .*parent_dir'):
        names = run_example(INFERENCE, url=url)
    assert behaviour.asked == ['val.npy+0']
    assert names['Test_DATASET_PATH'] == 'data/afew/AFEW/val.npy'
    category = names['expression_category']
    assert isinstance(category, Category) and category.mc_samples == 100
    assert category.description in DATA_SETS['AFEW'].classes
    assert category.confidence is not None and 1 / 7 <= category.confidence <= 1

    pytest.importorskip('onnx', reason='the export needs onnx and onnxruntime')
    pytest.importorskip('onnxruntime', reason='the export needs onnx and onnxruntime')
    published = here / 'served' / 'pretrained_models'
    grown.save(published, 'pretrained_pstbln')
    folder = ProgressiveSpatioTemporalBLNLearner.download(
        path='./parent_dir', mode='pretrained', url=url
    )
    assert folder == 'parent_dir/pretrained_models'
    optimized = run_example(OPTIMIZATION)['pstbln_learner']
    files = here / 'parent_dir' / 'optimized_model'
    assert {path.suffix for path in files.iterdir()} == {'.json', '.onnx', '.pt'}
    test_data = np.load(names['Test_DATASET_PATH'])
    plain = [learner.infer(test_data, monte_carlo_dropout=False) for learner in (grown, optimized)]
    for ours, theirs in zip(*plain, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
    assert len(optimized.infer(test_data, mcdo_repeats=10)) == 3


def test_the_examples_use_a_gpu_where_there_is_one(here: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip('there is no CUDA device')
    learner = run_example(GROWTH)['pstbln_learner']
    assert learner.device == 'cuda' and next(learner.model.parameters()).is_cuda
    before = learner.infer(np.zeros((2, 2, 6, 312)), monte_carlo_dropout=False)
    learner.optimize()
    after = learner.infer(np.zeros((2, 2, 6, 312)), monte_carlo_dropout=False)
    for ours, theirs in zip(before, after, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-4)
