# SPDX-License-Identifier: Apache-2.0
"""The learner of OpenDR's reference: the same class, methods, arguments and defaults."""

import os
import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from fer_perception.inference.monte_carlo import FRAMES_PER_PASS
from fer_perception.inference.onnx_clips import OnnxMonteCarlo
from fer_perception.models.model_file import ModelDescription
from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_perception.models.tensor_file import check_tensors
from fer_perception.uncertainty.measures import measure_uncertainty
from fer_training.clips import Clips
from fer_training.dataset import TrainingSet
from fer_training.external_dataset import (
    DatasetIterator,
    ExternalDataset,
    check_points,
    collect_batches,
    collect_clips,
    find_data_set,
    known_edges,
    read_external_clips,
)
from fer_training.fitting import EpochRecord, FitConfig, fit
from fer_training.growth import HISTORY_FILE, GrowthConfig, GrowthStep, grow
from fer_training.inputs import NetworkInput
from fer_training.learner_arguments import (
    BLOCK_SIZE,
    DATASET_NAME,
    NUM_CLASS,
    NUM_POINT,
    TEMP_PATH,
    DefaultName,
    DefaultNumber,
    at_least,
    available_device,
    check_arguments,
    class_names,
    one_block_size,
)
from fer_training.learner_files import (
    OPTIMIZED,
    WEIGHTS,
    LearnerFileError,
    SavedNetwork,
    claim_for_data,
    copy_file,
    read_metadata,
    read_weights,
    write_metadata,
    write_weights,
)
from fer_training.learner_log import (
    evaluation_line,
    training_log,
    write_answers,
    write_scores,
    write_wrong_answers,
)
from fer_training.learner_sampling import (
    OnnxSampler,
    Sampler,
    measure_samples,
    sample_in_batches,
    torch_sampler,
)
from fer_training.onnx_export import export_onnx, largest_difference
from fer_training.reference_server import ServerFiles
from fer_training.targets import Category, SkeletonSequence, categories_of
from fer_training.topology_search import GrowthLimits

SEED = 1  # of weights, batches and Monte Carlo samples, as in the reference
ONNX_TOLERANCE = 1e-5  # largest difference that rounding explains, a share of logits above 1
SMALL_DATA_BYTES = 256 << 20  # are read faster by the training process itself than by others

DataSet: TypeAlias = ExternalDataset | DatasetIterator


class _Download:
    """Serves both `learner.download(...)` and `ProgressiveSpatioTemporalBLNLearner.download()`.

    The class has the data set and the folder of a learner that was given none.
    """

    def __get__(
        self, learner: 'ProgressiveSpatioTemporalBLNLearner | None', owner: type | None = None
    ) -> ServerFiles:
        if learner is None:
            return ServerFiles(dataset_name=DATASET_NAME, folder=TEMP_PATH)
        return ServerFiles(dataset_name=learner.dataset_name, folder=learner.temp_path)


class ProgressiveSpatioTemporalBLNLearner:
    """Grow, fit, evaluate and use a PST-BLN as OpenDR's learner of this name does.

    The network is the reference's variant of PST-BLN. It reads edge vectors of `num_point` edges;
    data of the 51 inner landmarks are turned into them where the edges are known: 181 (the list
    of this package) or 312 (that of a mean face, made as the reference makes them).
    """

    download = _Download()

    def __init__(
        self,
        lr: float = 0.1,
        batch_size: int = 128,
        optimizer_name: str = 'sgd',
        lr_schedule: str = ' ',
        checkpoint_after_iter: int = 0,
        checkpoint_load_iter: int = 0,
        temp_path: str | os.PathLike[str] = TEMP_PATH,
        device: str = 'cuda',
        num_workers: int = 32,
        epochs: int = 400,
        experiment_name: str = 'pstbln_casia',
        device_indices: Sequence[int] = (0,),
        val_batch_size: int = 128,
        drop_after_epoch: Sequence[int] = (400,),
        start_epoch: int = 0,
        dataset_name: str = DATASET_NAME,
        num_class: int = NUM_CLASS,
        num_point: int = NUM_POINT,
        num_person: int = 1,
        in_channels: int = 2,
        block_size: int = BLOCK_SIZE,
        num_blocks: int = 100,
        num_layers: int = 10,
        topology: Sequence[int] = (),
        layer_threshold: float = 1e-4,
        block_threshold: float = 1e-4,
        *,
        blocksize: int | None = None,
    ) -> None:
        """Set how the learner works.

        lr, optimizer_name ('sgd' or 'adam'), epochs, batch_size: of a fit, in growth of each
        candidate. drop_after_epoch: epochs after which the learning rate falls to a tenth.
        lr_schedule: blank or 'step' for that, or 'one_cycle'.
        checkpoint_after_iter: keep a checkpoint of a fit every so many epochs in
        `<temp_path>/<experiment_name>_checkpoints`; 0 keeps none. checkpoint_load_iter: go on
        from the checkpoint of that epoch, as if the fit had never ended; 0 begins anew.
        start_epoch: count epochs from there on, the schedule included, with the network as it is.
        device: 'cuda' falls back to 'cpu' with a warning where there is none; of device_indices
        the first is used. num_workers: processes that read the data, at most those the machine
        has processors for, none for small data.
        val_batch_size: most clips of one pass while evaluating.
        dataset_name: 'AFEW', 'CASIA' or 'CK+', in capitals or not; num_class and num_point are
        the data set's unless they are given. num_person must be 1 and in_channels 2.
        block_size (or `blocksize`, its older name): channels that a block has. topology: blocks
        of each layer to begin with. num_blocks, num_layers: most blocks of a layer and most
        layers of growth. block_threshold, layer_threshold: lowest relative drop of the loss that
        keeps a block or a layer.

        Raises ValueError naming the argument and its value.
        """
        facts = find_data_set(dataset_name)
        block_size = one_block_size(block_size, blocksize)
        # What a loaded file may decide, because it was not given here.
        self._open = {
            name
            for name, value in (
                ('dataset_name', dataset_name), ('num_class', num_class),
                ('num_point', num_point), ('block_size', block_size),
            )
            if isinstance(value, DefaultNumber | DefaultName)
        }
        self.lr = lr
        self.batch_size = batch_size
        self.optimizer_name = optimizer_name
        self.lr_schedule = lr_schedule
        self.checkpoint_after_iter = checkpoint_after_iter
        self.checkpoint_load_iter = checkpoint_load_iter
        self.temp_path = os.fspath(temp_path)
        self.num_workers = num_workers
        self.epochs = epochs
        self.experiment_name = experiment_name
        self.device_indices = list(device_indices)
        self.val_batch_size = val_batch_size
        self.drop_after_epoch = list(drop_after_epoch)
        self.start_epoch = start_epoch
        self.dataset_name = facts.name
        self.num_class = len(facts.classes) if 'num_class' in self._open else num_class
        self.num_point = facts.num_point if 'num_point' in self._open else num_point
        self.num_person = num_person
        self.in_channels = in_channels
        self.block_size = int(block_size) if 'block_size' in self._open else block_size
        self.num_blocks = num_blocks
        self.num_layers = num_layers
        self.layer_threshold = layer_threshold
        self.block_threshold = block_threshold
        self.topology = list(topology)
        check_arguments(vars(self))
        self._channels()
        self.device = available_device(device, self.device_indices)
        self.classes = class_names(facts.classes, self.num_class)
        self.model: PstBln | None = None
        self.ort_session: OnnxSampler | None = None
        self._frames = facts.frames

    @property
    def topology(self) -> list[int]:
        """The blocks of each layer; empty before growth."""
        return self._topology

    @topology.setter
    def topology(self, blocks: Sequence[int]) -> None:
        self._topology = list(blocks)
        self._given_topology = list(blocks)

    @property
    def blocksize(self) -> int:
        """The channels of a block, by the older name."""
        return self.block_size

    def fit(
        self,
        dataset: DataSet,
        val_dataset: DataSet | None,
        logging_path: str | os.PathLike[str] | None = '',
        silent: bool = False,
        verbose: bool = True,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0001,
        monte_carlo_dropout: bool = True,
        mcdo_repeats: int = 100,
        train_data_filename: str = 'train.npy',
        train_labels_filename: str = 'train_labels.pkl',
        val_data_filename: str = 'val.npy',
        val_labels_filename: str = 'val_labels.pkl',
    ) -> dict[str, Any]:
        """Fit the network of `topology`, evaluating it after every epoch.

        dataset: ExternalDataset, or a DatasetIterator of one's own. val_dataset: likewise, None
        for no evaluation. logging_path: folder for curves of TensorBoard and log.txt; '' or None
        for neither. silent: print nothing. verbose: show progress bars as well. See `eval` for
        monte_carlo_dropout and mcdo_repeats; where 100 samples an epoch take too long, evaluate
        without them. The file names are those within the folder of an ExternalDataset.

        Returns 'train_loss' of the last epoch, 'eval_results' of every epoch, 'best_accuracy'
        (None without evaluation) and 'model_name'. Raises ValueError for data or settings that
        do not fit.
        """
        clips = self._read(dataset, train_data_filename, train_labels_filename, adopts=True)
        validation = None
        if val_dataset is not None:
            validation = self._read(val_dataset, val_data_filename, val_labels_filename)
        config = self._fit_config(clips, momentum, nesterov, weight_decay)
        repeats = _samples(monte_carlo_dropout, mcdo_repeats)
        start = self._start_checkpoint()
        if self.model is None:
            if self.ort_session is not None:
                raise ValueError('an optimized network cannot be fitted: load its weights')
            self.init_model()
        network = self._network()
        self.ort_session = None
        keeps = self.checkpoint_after_iter > 0
        working = self._checkpoint_folder / f'{self.experiment_name}.checkpoint'
        working.unlink(missing_ok=True)
        eval_results: list[dict[str, Any]] = []
        with training_log(
            logging_path, experiment=self.experiment_name, silent=silent
        ) as (log, curves):

            def on_epoch(record: EpochRecord) -> None:
                epoch = self._first_epoch + record.epoch  # counted from 1
                if curves is not None:
                    values = {
                        'loss': record.loss,
                        'accuracy': record.accuracy,
                        'learning_rate': record.learning_rate,
                    }
                    curves.values('training', values, epoch)
                if keeps and epoch % self.checkpoint_after_iter == 0:
                    working.replace(self._numbered_checkpoint(epoch))
                if validation is not None:
                    result = self._evaluated(
                        validation,
                        self._sampler(repeats),
                        epoch=epoch - 1,
                        progress=verbose and not silent,
                    )
                    eval_results.append(result)
                    log(evaluation_line(result))
                    if curves is not None:
                        values = {name: result[name] for name in ('loss', 'accuracy')}
                        curves.values('validation', values, epoch)

            records = fit(
                network,
                TrainingSet.of_clips(clips),
                network_input=self._network_input(),
                config=config,
                checkpoint=working if keeps else None,
                start=start,
                on_epoch=on_epoch,
                progress=verbose and not silent,
                log=log,
            )
        working.unlink(missing_ok=True)
        if keeps:
            self.save(self._checkpoint_folder, self.experiment_name, verbose=False)
        return {
            'train_loss': records[-1].loss,
            'eval_results': eval_results,
            'best_accuracy': max((item['accuracy'] for item in eval_results), default=None),
            'model_name': self.experiment_name,
        }

    def eval(
        self,
        val_dataset: DataSet | None,
        val_loader: Iterable[Any] | None = None,
        epoch: int = 0,
        monte_carlo_dropout: bool = True,
        mcdo_repeats: int = 100,
        silent: bool = False,
        verbose: bool = True,
        val_data_filename: str = 'val.npy',
        val_labels_filename: str = 'val_labels.pkl',
        save_score: bool = False,
        wrong_file: str | os.PathLike[str] | bool | None = None,
        result_file: str | os.PathLike[str] | bool | None = None,
        show_topk: Sequence[int] = (1, 5),
    ) -> dict[str, Any]:
        """Evaluate the network, or the optimized one if there is one.

        val_loader: a torch DataLoader of (sequences, labels, ...) to use instead of val_dataset.
        epoch: what the files are named after. monte_carlo_dropout: answer by the mean softmax of
        mcdo_repeats samples instead of one plain pass. silent: print nothing. verbose: show a
        progress bar and the top-k accuracies. save_score: write the probabilities of all
        samples, a pickled dictionary by their names. wrong_file: file for lines
        'index,answer,label' of the wrong answers; result_file: for lines 'answer,label' of all;
        True for either names it itself, in temp_path, where the scores go as well.

        Returns 'epoch', 'accuracy', 'loss' (mean negative log-likelihood, nats), 'score'
        ((N, classes) probabilities), 'top_k' (a dictionary), 'metrics' (all that
        `measure_recognition` has) and, where written, 'score_file', 'wrong_file', 'result_file'.
        Raises ValueError for data or settings that do not fit.
        """
        if val_loader is not None:
            clips = collect_batches(val_loader, classes=self.classes)
            check_points(clips.features.shape[-1], num_point=self.num_point)
        elif val_dataset is not None:
            clips = self._read(val_dataset, val_data_filename, val_labels_filename)
        else:
            raise ValueError('there is nothing to evaluate: give val_dataset or val_loader')
        ks = [at_least('show_topk', k, 1) for k in show_topk]
        result = self._evaluated(
            clips,
            self._sampler(_samples(monte_carlo_dropout, mcdo_repeats)),
            epoch=epoch,
            progress=verbose and not silent,
            show_topk=ks,
        )
        folder = Path(self.temp_path)
        answers = result['score'].argmax(-1)
        stem = f'epoch{epoch + 1}'
        if save_score:
            path = folder / f'{stem}_val_score.pkl'
            result['score_file'] = write_scores(path, clips.names, result['score'])
        if wrong_file:
            path = _file_named(wrong_file, folder / f'{stem}_wrong.txt')
            result['wrong_file'] = write_wrong_answers(path, answers, clips.labels)
        if result_file:
            path = _file_named(result_file, folder / f'{stem}_result.txt')
            result['result_file'] = write_answers(path, answers, clips.labels)
        if not silent:
            print(evaluation_line(result))
            if verbose:
                for k, share in result['top_k'].items():
                    print(f'top {k}: {share:.2%}')
        return result

    def init_model(self) -> None:
        """Build the network of `topology` with new weights.

        Raises ValueError if the topology is empty or holds no block counts.
        """
        if not self.topology:
            raise ValueError(
                'the topology is empty: give the blocks of each layer, such as topology=[1], '
                'or let network_builder grow a network'
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            network = PstBln(self._network_config(), quiet=True)
        self.model = network.to(self._torch_device).eval()
        self.ort_session = None

    def network_builder(
        self,
        dataset: DataSet,
        val_dataset: DataSet | None,
        monte_carlo_dropout: bool = True,
        mcdo_repeats: int = 100,
        logging_path: str | os.PathLike[str] | None = '',
        train_data_filename: str = 'train.npy',
        train_labels_filename: str = 'train_labels.pkl',
        val_data_filename: str = 'val.npy',
        val_labels_filename: str = 'val_labels.pkl',
        verbose: bool = True,
    ) -> list[int]:
        """Grow a network by the paper's rule, beginning with `topology` or with one block.

        The network that was accepted is the learner's then, and lies with history.json of every
        step in `<temp_path>/<experiment_name>_checkpoints`. An interrupted growth goes on when
        it is called again. The network is evaluated once for every step that is kept. See `fit`
        for the arguments; verbose: print every epoch and show progress bars.

        Returns the topology, the blocks of each layer. Raises ValueError for data or settings
        that do not fit.
        """
        clips = self._read(dataset, train_data_filename, train_labels_filename, adopts=True)
        validation = None
        if val_dataset is not None:
            validation = self._read(val_dataset, val_data_filename, val_labels_filename)
        data = TrainingSet.of_clips(clips)
        self.topology = self._given_topology  # not what an earlier growth arrived at
        initial = self._channels()
        deepest = self._reference_config((1,) * max(self.num_layers, len(initial)))
        config = GrowthConfig(
            limits=GrowthLimits(
                block_size=self.block_size,
                block_threshold=self.block_threshold,
                layer_threshold=self.layer_threshold,
                max_blocks=self.num_blocks,
                max_layers=self.num_layers,
            ),
            step=self._fit_config(clips, momentum=0.9, nesterov=True, weight_decay=0.0001),
            strided_layers=tuple(
                layer for layer, stride in enumerate(deepest.strides) if stride > 1
            ),
            initial_channels=initial,
        )
        repeats = _samples(monte_carlo_dropout, mcdo_repeats)
        folder = self._checkpoint_folder / 'growth'
        claim_for_data(folder, clips)

        def evaluate(network: PstBln) -> dict[str, float]:
            if validation is None:
                return {}
            found = self._evaluated(
                validation, self._torch_sampler(network, repeats), progress=verbose
            )
            return {name: found[name] for name in ('accuracy', 'loss')}

        with training_log(
            logging_path, experiment=self.experiment_name, silent=not verbose
        ) as (log, curves):

            def on_epoch(step: int, record: EpochRecord) -> None:
                if curves is not None:
                    curves.epoch(record)

            def on_step(step: GrowthStep) -> None:
                if curves is not None:
                    curves.step(step)

            result = grow(
                self._reference_config((self.block_size,)),
                data,
                network_input=self._network_input(),
                config=config,
                folder=folder,
                evaluate=evaluate,
                on_epoch=on_epoch,
                on_step=on_step,
                progress=verbose,
                log=log,
            )
            log(result.network.parameter_summary())
        self.model = result.network.to(self._torch_device)
        self._topology = [width // self.block_size for width in result.network.config.channels]
        self.ort_session = None
        self.save(self._checkpoint_folder, self.experiment_name, verbose=False)
        (folder / HISTORY_FILE).replace(self._checkpoint_folder / HISTORY_FILE)
        shutil.rmtree(folder)
        return list(self._topology)

    def infer(
        self,
        facial_landmarks_batch: SkeletonSequence | np.ndarray,
        monte_carlo_dropout: bool = True,
        mcdo_repeats: int = 100,
    ) -> Category | list[Category]:
        """Recognise the expressions of sequences, by the optimized network if there is one.

        facial_landmarks_batch: a SkeletonSequence, or an array as it takes them, of inner
        landmarks or edge vectors. monte_carlo_dropout: answer by the mean softmax of
        mcdo_repeats samples, which also give the uncertainty, instead of one plain pass.
        Without a network that of the same experiment in temp_path is loaded, with a warning.

        Returns a Category, of more than one sequence a list of them. Raises ValueError for
        another shape or without a network.
        """
        if isinstance(facial_landmarks_batch, SkeletonSequence):
            sequences = facial_landmarks_batch
        else:
            sequences = SkeletonSequence(facial_landmarks_batch)
        self._load_own_network()
        check_points(sequences.features.shape[-1], num_point=self.num_point)
        repeats = _samples(monte_carlo_dropout, mcdo_repeats)
        samples = self._drawn(
            sequences.features, self._sampler(repeats), progress=False
        )  # (S, N, C)
        categories = categories_of(
            measure_uncertainty(samples), self.classes, is_single_pass=not repeats
        )
        return categories[0] if len(categories) == 1 else categories

    def save(
        self, path: str | os.PathLike[str], model_name: str, verbose: bool = True
    ) -> None:
        """Save the network as `<path>/<model_name>.pt` beside `<model_name>.json`.

        After `optimize` also as `<model_name>.onnx`, which the .json names first then. Raises
        ValueError without a network.
        """
        if self.model is None and self.ort_session is None:
            raise ValueError('there is no network to save: fit, grow or load one first')
        folder, files = Path(path), []
        if self.ort_session is not None:
            files.append(f'{model_name}.{OPTIMIZED}')
            copy_file(self.ort_session.path, folder / files[-1])
        if self.model is not None:
            files.append(f'{model_name}.{WEIGHTS}')
            write_weights(folder / files[-1], self._network().state_dict())
        write_metadata(folder / f'{model_name}.json', self._saved_network(), files=files)
        if verbose:
            print(f'saved {", ".join(files)} in {folder}')

    def load(
        self,
        path: str | os.PathLike[str],
        model_name: str | None = None,
        verbose: bool = True,
        *,
        file_name: str | None = None,
    ) -> None:
        """Load what `save` wrote; `file_name` is another name of model_name.

        Every tensor is checked, and nothing is loaded if one is missing, unknown or of another
        shape. What was not given to the constructor comes from the file: topology, block_size,
        data set, classes and num_point. Raises ValueError naming the file and what is wrong, or
        the argument that the file contradicts.
        """
        names = {name for name in (model_name, file_name) if name is not None}
        if len(names) != 1:
            raise ValueError('say which model to load by one name, model_name or file_name')
        name, folder = names.pop(), Path(path)
        metadata = read_metadata(folder / f'{name}.json')
        saved = metadata.network or self._saved_network()
        self._check_agreement(folder / f'{name}.json', saved)
        config = PstBlnConfig.reference(
            channels=tuple(saved.block_size * blocks for blocks in saved.topology),
            classes=len(saved.classes),
            edges=saved.num_point,
        )
        onnx_path, weights_path = folder / f'{name}.{OPTIMIZED}', folder / f'{name}.{WEIGHTS}'
        session, network = None, None
        if metadata.optimized:
            session = OnnxSampler(onnx_path, seed=SEED)
            if session.description.network != config:
                raise LearnerFileError(
                    f'{onnx_path} is of another network than {name}.json describes'
                )
        if not metadata.optimized or weights_path.is_file():
            tensors = read_weights(weights_path)
            network = PstBln(config, quiet=True)
            try:
                check_tensors(network, tensors)
            except ValueError as error:
                raise LearnerFileError(f'{weights_path}: {error}') from error
            network.load_state_dict(tensors)
            network = network.to(self._torch_device).eval()
        self.model, self.ort_session = network, session
        self._adopt(saved)
        if verbose:
            print(f'loaded {name} from {folder}: {_topology_text(saved)}')

    def optimize(self, do_constant_folding: bool = False) -> None:
        """Export the network to ONNX, its dropout masks as inputs, and use it from now on.

        The file lies in `<temp_path>/<experiment_name>`. do_constant_folding: compute what does
        not depend on the input once, while exporting. Raises ValueError without a network, or if
        the export computes something else; ImportError without onnx and onnxruntime.
        """
        network = self._network()
        path = self._temporary_onnx_path
        unchecked = path.with_name(f'{path.name}.part')
        try:
            export_onnx(
                network, self._description(), unchecked, constant_folding=do_constant_folding
            )
            exported = OnnxMonteCarlo(unchecked, seed=SEED)
            difference = largest_difference(
                network, exported, frames=(network.config.total_stride + 1, self._frames)
            )
            if not difference <= ONNX_TOLERANCE:
                raise ValueError(f'the logits of the export differ by {difference:.1e}')
            unchecked.replace(path)
        finally:
            unchecked.unlink(missing_ok=True)
        self.ort_session = OnnxSampler(path, seed=SEED)

    def reset(self) -> None:
        """Forget the network; the topology is what the constructor was given."""
        self.model = None
        self.ort_session = None
        self.topology = self._given_topology

    @property
    def _checkpoint_folder(self) -> Path:
        return Path(self.temp_path) / f'{self.experiment_name}_checkpoints'

    @property
    def _temporary_onnx_path(self) -> Path:
        return Path(self.temp_path) / self.experiment_name / f'onnx_model_temp.{OPTIMIZED}'

    @property
    def _torch_device(self) -> str:
        return self.device if self.device == 'cpu' else f'cuda:{self.device_indices[0]}'

    @property
    def _first_epoch(self) -> int:
        """Epochs that count as done before a fit; those of a checkpoint it knows itself."""
        return 0 if self.checkpoint_load_iter else self.start_epoch

    def _numbered_checkpoint(self, epoch: int) -> Path:
        return self._checkpoint_folder / f'{self.experiment_name}-{epoch}.checkpoint'

    def _channels(self) -> tuple[int, ...]:
        for blocks in self.topology:
            at_least('topology, the blocks of each layer,', blocks, 1)
        return tuple(self.block_size * blocks for blocks in self.topology)

    def _network_config(self) -> PstBlnConfig:
        return self._reference_config(self._channels())

    def _reference_config(self, channels: tuple[int, ...]) -> PstBlnConfig:
        return PstBlnConfig.reference(
            channels=channels, classes=self.num_class, edges=self.num_point
        )

    def _network(self) -> PstBln:
        """Return the network, which must be of the learner's topology."""
        if self.model is None:
            raise ValueError('there is no network: fit, grow or load one first')
        if self.model.config != self._network_config():
            raise ValueError(
                f'the network has the channels {list(self.model.config.channels)}, but the '
                f'topology is {self.topology} of blocks of {self.block_size}: call init_model'
            )
        return self.model

    def _fit_config(
        self, clips: Clips, momentum: float, nesterov: bool, weight_decay: float
    ) -> FitConfig:
        first = self._first_epoch
        if max(first, self.checkpoint_load_iter) >= self.epochs:
            raise ValueError(
                f'epochs is {self.epochs}: a fit that goes on after epoch '
                f'{max(first, self.checkpoint_load_iter)} has nothing to do'
            )
        dropped = sum(epoch <= first for epoch in self.drop_after_epoch)
        return FitConfig(
            epochs=self.epochs - first,
            batch_size=self.batch_size,
            optimizer=self.optimizer_name,
            learning_rate=self.lr * 0.1**dropped if dropped else self.lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            schedule=self.lr_schedule.strip() or 'step',
            drop_after_epochs=tuple(
                epoch - first for epoch in self.drop_after_epoch if epoch > first
            ),
            max_gradient_norm=0.0,
            seed=SEED,
            workers=self._workers(clips),
            device=self._torch_device,
        )

    def _workers(self, clips: Clips) -> int:
        if clips.features.nbytes < SMALL_DATA_BYTES:
            return 0
        return min(self.num_workers, os.cpu_count() or 1)

    def _start_checkpoint(self) -> Path | None:
        """Find the checkpoint that a fit is to go on from."""
        wanted = self.checkpoint_load_iter
        if not wanted:
            return None
        if self.start_epoch not in (0, wanted):
            raise ValueError(
                f'start_epoch is {self.start_epoch}, but checkpoint_load_iter {wanted}: leave '
                'one of them 0'
            )
        path = self._numbered_checkpoint(wanted)
        if not path.is_file():
            raise ValueError(f'there is no checkpoint of epoch {wanted}: {path} does not exist')
        return path

    def _network_input(self) -> NetworkInput:
        return NetworkInput(edges=torch.from_numpy(known_edges(self.num_point)))

    def _read(
        self, dataset: DataSet, data_file: str, labels_file: str, *, adopts: bool = False
    ) -> Clips:
        """Read a data set; `adopts` takes its names of the classes."""
        if isinstance(dataset, ExternalDataset):
            if dataset.dataset_type != self.dataset_name:
                raise ValueError(
                    f'the data set is {dataset.dataset_type}, but dataset_name is '
                    f'{self.dataset_name}'
                )
            clips = read_external_clips(
                dataset, data_file=data_file, labels_file=labels_file, classes=self.classes
            )
        elif isinstance(dataset, DatasetIterator):
            clips = collect_clips(dataset, classes=self.classes)
        else:
            raise ValueError(
                'a data set must be an ExternalDataset or a DatasetIterator, '
                f'not {type(dataset).__name__}'
            )
        check_points(clips.features.shape[-1], num_point=self.num_point)
        if adopts:
            self.classes, self._frames = clips.classes, clips.features.shape[2]
        elif clips.classes != self.classes:
            raise ValueError(
                f'the data are of the classes {", ".join(clips.classes)}, the network of '
                f'{", ".join(self.classes)}'
            )
        return clips

    def _sampler(self, repeats: int) -> Sampler:
        """Draw `repeats` Monte Carlo samples of the network at hand, or pass once if 0."""
        if self.ort_session is not None:
            return self.ort_session.sampler(network_input=self._network_input(), repeats=repeats)
        return self._torch_sampler(self._network(), repeats)

    def _torch_sampler(self, network: PstBln, repeats: int) -> Sampler:
        return torch_sampler(
            network, network_input=self._network_input(), repeats=repeats, seed=SEED
        )

    def _drawn(self, features: np.ndarray, sampler: Sampler, *, progress: bool) -> np.ndarray:
        """Sample clips a batch at a time: (N, 2, T, V) -> (S, N, C)."""
        size = self.val_batch_size
        if self.device == 'cpu':  # larger ones fall out of the cache
            size = min(size, max(1, FRAMES_PER_PASS // features.shape[2]))
        return sample_in_batches(features, sampler, batch_size=size, progress=progress)

    def _evaluated(
        self,
        clips: Clips,
        sampler: Sampler,
        *,
        epoch: int = 0,
        progress: bool,
        show_topk: Sequence[int] = (1, 5),
    ) -> dict[str, Any]:
        samples = self._drawn(clips.features, sampler, progress=progress)
        return measure_samples(samples, clips, epoch=epoch, show_topk=show_topk)

    def _saved_network(self) -> SavedNetwork:
        return SavedNetwork(
            dataset_name=self.dataset_name,
            classes=self.classes,
            num_point=self.num_point,
            block_size=self.block_size,
            topology=tuple(self.topology),
            frames=self._frames,
        )

    def _check_agreement(self, path: Path, saved: SavedNetwork) -> None:
        """Refuse a file that contradicts what the learner was given."""
        if not saved.topology or min(saved.topology) < 1:
            raise LearnerFileError(
                f'{path} tells no topology: say it, topology=[blocks of each layer]'
            )
        given: list[tuple[str, object, object]] = [
            (name, getattr(self, name), value)
            for name, value in (
                ('dataset_name', saved.dataset_name), ('num_class', len(saved.classes)),
                ('num_point', saved.num_point), ('block_size', saved.block_size),
            )
            if name not in self._open
        ]
        if self.topology and self.topology == self._given_topology:
            given.append(('topology', self.topology, list(saved.topology)))
        for name, own, theirs in given:
            if own != theirs:
                raise LearnerFileError(
                    f'{path} is of a network with {name} {theirs}, but the learner has {own}'
                )

    def _adopt(self, saved: SavedNetwork) -> None:
        self.dataset_name = saved.dataset_name
        self.classes, self.num_class = saved.classes, len(saved.classes)
        self.num_point, self.block_size = saved.num_point, saved.block_size
        self._frames = saved.frames
        self._topology = list(saved.topology)

    def _load_own_network(self) -> None:
        """Load what this experiment left in temp_path, if the learner has no network yet."""
        if self.model is not None or self.ort_session is not None:
            return
        folder = self._checkpoint_folder
        if not (folder / f'{self.experiment_name}.json').is_file():
            raise ValueError(
                f'there is no network, and none of {self.experiment_name} in {folder}: fit, '
                'grow or load one first'
            )
        warnings.warn(
            f'no network was loaded: that of {self.experiment_name} in {folder} is used',
            stacklevel=3,
        )
        self.load(folder, self.experiment_name, verbose=False)

    def _description(self) -> ModelDescription:
        edges = known_edges(self.num_point).tolist()
        return ModelDescription(
            network=self._network_config(),
            edge_list=tuple((source, target) for source, target in edges),
            classes=self.classes,
            normalization='centred',  # what the reference's data are
            clip_frames=self._frames,
        )


def _samples(monte_carlo_dropout: bool, mcdo_repeats: int) -> int:
    """Return the number of Monte Carlo samples, 0 for one plain pass."""
    return at_least('mcdo_repeats', mcdo_repeats, 1) if monte_carlo_dropout else 0


def _topology_text(saved: SavedNetwork) -> str:
    return (
        f'{list(saved.topology)} blocks of {saved.block_size}, {saved.num_point} edges, '
        f'{len(saved.classes)} classes'
    )


def _file_named(given: str | os.PathLike[str] | bool, default: Path) -> Path:
    return default if isinstance(given, bool) else Path(given)
