# SPDX-License-Identifier: Apache-2.0
"""Options that fit, grow and crossval share, and what they mean."""

import argparse
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from fer_perception.graph.edges import EDGE_LISTS, load_edge_list
from fer_perception.graph.normalization import NORMALIZATIONS
from fer_perception.inference.backend import choose_device
from fer_perception.models.dropout import MASK_KINDS
from fer_perception.models.model_file import (
    CLIP_DISPLACEMENTS,
    CLIP_SAMPLINGS,
    ModelDescription,
    load_model,
)
from fer_perception.models.pst_bln import (
    DROPOUT_POSITIONS,
    PADDINGS,
    TOPOLOGY_INITS,
    PstBlnConfig,
)
from fer_training.calibration import Calibration
from fer_training.clips import ClipPreparation
from fer_training.commands.arguments import fraction, positive, track_file
from fer_training.dataset import TrainingSet
from fer_training.first_weights import FirstWeights
from fer_training.fitting import OPTIMIZERS, SCHEDULES, FitConfig
from fer_training.frame_calibration import CalibrationRule, FrameCalibration
from fer_training.inputs import Augmentation, NetworkInput
from fer_training.label_mapping import read_label_mapping
from fer_training.mixing import Mixture, mix_tracks
from fer_training.protocols.description import (
    PROTOCOL_FILE,
    ProtocolDescription,
    read_protocol,
)
from fer_training.source import ClipSource
from fer_training.track_sources import TrackFile, TrackSources
from fer_training.tracks import read_tracks

STREAM_WINDOW = 15  # frames that a streaming network pools, where none are said
STREAM_CHANNELS = (10, 10, 10)
WARM_UP_S = 1 / 3
LONGEST = 1 << 30  # frames of a piece that no track exceeds


@dataclass(frozen=True, kw_only=True)
class LoadedData:
    """Hold what a network is fitted to, and how the features were made."""

    training: TrainingSet
    validation: TrainingSet | None
    classes: tuple[str, ...]
    edge_list: str
    normalization: str
    frame_rate: float  # of a streaming network, else 0
    baseline_s: float  # that a streaming network sees, else 0
    preparation: ClipPreparation | None  # of a network of whole clips
    augmentation: Augmentation
    names: dict[str, str]  # of the files

    @property
    def network_input(self) -> NetworkInput:
        """What a PST-BLN reads of these data."""
        edges = torch.from_numpy(load_edge_list(self.edge_list))
        return NetworkInput(
            edges=edges,
            augmentation=self.augmentation,
            baseline_frames=baseline_frames(self.baseline_s, self.frame_rate),
        )


def add_data_options(parser: argparse.ArgumentParser, *, streams: bool) -> None:
    """Declare where the data are and how they are prepared."""
    group = parser.add_argument_group('data')
    group.add_argument('--tracks', type=track_file, nargs='+', metavar='FILE[@SHARE]',
                       help='training tracks (.npz); of several files for a network that '
                       'streams, each may have its share of the batches')
    group.add_argument('--data', type=Path,
                       help='or prepared clips (.npy) in the format of the reference')
    group.add_argument('--labels', type=Path, help='their labels (.pkl)')
    group.add_argument('--classes', nargs='+', metavar='CLASS',
                       help='in the order of the outputs; needed for prepared clips')
    group.add_argument('--frames', type=positive, default=None if streams else 32,
                       help='frames of a clip made of a track (%(default)s)' if not streams else
                       'make a clip of so many frames of every track, with one target, instead '
                       'of fitting every frame at the frame rate')
    group.add_argument('--sampling', choices=CLIP_SAMPLINGS, default=CLIP_SAMPLINGS[0],
                       help='which frames of a track make its clip (%(default)s)')
    group.add_argument('--displacement', choices=CLIP_DISPLACEMENTS, default=CLIP_DISPLACEMENTS[0],
                       help='frame of a clip that is subtracted from all of it (%(default)s)')
    group.add_argument('--normalization', choices=NORMALIZATIONS,
                       help="of tracks; of prepared clips, what was done to them; 'frontal' "
                       f'undoes the turn of the head (that of --start, else {NORMALIZATIONS[0]})')
    group.add_argument('--edge-list', choices=EDGE_LISTS, default=EDGE_LISTS[0],
                       help='(%(default)s)')


def add_mixing_options(parser: argparse.ArgumentParser) -> None:
    """Declare how tracks of several files are used together by a network that streams."""
    defaults = Mixture()
    group = parser.add_argument_group('mixing, of networks that stream')
    group.add_argument('--synthetic', type=track_file, nargs='+', default=[],
                       metavar='FILE[@SHARE]',
                       help='more training tracks (.npz), of people who are held out never')
    add_label_options(group)
    group.add_argument('--piece-frames', type=positive, default=defaults.piece_frames,
                       help='longer tracks are cut into pieces, half overlapping (%(default)s)')
    group.add_argument('--draws', type=positive, default=defaults.draws,
                       help='pieces of an epoch, where files have shares (%(default)s)')


def add_label_options(group: argparse._ActionsContainer) -> None:
    """Declare what the labels of tracks mean."""
    group.add_argument('--map', action='append', nargs='+', default=[], metavar='LABEL=CLASS',
                       help='class of a label of the tracks, LABEL= drops it; or a JSON file '
                       'with such pairs')
    group.add_argument('--estimate-intensity', action='store_true',
                       help='of tracks that begin at rest, show one expression and do not know '
                       'how much of it there is in each frame')


def add_calibration_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the threshold from a streaming cross-validation must keep."""
    group = parser.add_argument_group('calibration, from a streaming cross-validation')
    group.add_argument('--max-risk', type=fraction, default=CalibrationRule.max_risk,
                       help='share of the CONFIDENT frames that may be wrong (%(default)s)')
    group.add_argument('--max-false-alarms', type=fraction,
                       default=CalibrationRule.max_false_alarms,
                       help='share of the time that people who show no expression may be '
                       'CONFIDENT in one (%(default)s)')


def calibration_rule(options: argparse.Namespace) -> CalibrationRule:
    """Return what calibration asks for."""
    return CalibrationRule(
        max_risk=options.max_risk, max_false_alarms=options.max_false_alarms
    )


def add_validation_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Declare the data of other people."""
    group = parser.add_argument_group('validation')
    group.add_argument('--validation', type=Path, required=required,
                       help='tracks (.npz) or prepared clips (.npy) of other people; what is said '
                       'of labels counts for these tracks as well')
    group.add_argument('--validation-labels', type=Path, help='of prepared clips (.pkl)')


def add_network_options(parser: argparse.ArgumentParser, *, streams: bool) -> None:
    """Declare all of a PST-BLN but its channels."""
    group = parser.add_argument_group('network')
    if streams:
        group.add_argument('--frame-rate', type=float, default=30.0,
                           help='Hz, of a network that streams (%(default)s)')
        group.add_argument('--baseline', type=float, metavar='SECONDS',
                           help='let a network that streams see, beside every frame, its '
                           "difference from the mean of the face's first frames, which follows "
                           'the later ones as an average over so long a span (that of --start, '
                           'else none)')
        group.add_argument('--window', type=positive,
                           help=f'frames that are pooled ({STREAM_WINDOW}; of clips, all)')
    group.add_argument('--padding', choices=PADDINGS,
                       help="of time: 'causal' sees the past only (default for streams), 'same' "
                       'is centred (default for clips)')
    group.add_argument('--kernel-size', type=positive, default=9,
                       help='frames of a temporal convolution (%(default)s)')
    group.add_argument('--subsets', type=positive, default=1,
                       help='U matrices a layer: 1 in the paper, 3 in the reference (%(default)s)')
    group.add_argument('--input-norm', action=argparse.BooleanOptionalAction, default=True,
                       help='batch norm of the input, as the reference has it (%(default)s)')
    group.add_argument('--topology-init', choices=TOPOLOGY_INITS, default=TOPOLOGY_INITS[0],
                       help='U at the start: as the paper or as the reference (%(default)s)')
    group.add_argument('--dropout', type=float,
                       help=f'rate (that of --start, else {PstBlnConfig.dropout})')
    group.add_argument('--dropout-position', choices=DROPOUT_POSITIONS,
                       default=DROPOUT_POSITIONS[0],
                       help='after or before each layer (%(default)s)')
    group.add_argument('--mask-kind', choices=MASK_KINDS,
                       help='what dropout draws together: each element (the paper), an edge or a '
                       "channel of a frame, 'constant' an element in all frames, 'feature_map' "
                       'a channel of all edges in all frames (that of --start, else '
                       f'{PstBlnConfig.dropout_masks})')


def add_fit_options(parser: argparse.ArgumentParser, defaults: FitConfig) -> None:
    """Declare the recipe of fitting; what is not given stays None, for `fit_config` to fill."""
    group = parser.add_argument_group('fitting')

    def declare(name: str, help_text: str = '', **settings: Any) -> None:
        default = getattr(defaults, name)
        shown = ' '.join(map(str, default)) if isinstance(default, tuple) else default
        group.add_argument(
            '--' + name.replace('_', '-'), help=f'{help_text} ({shown})'.strip(), **settings
        )

    declare('epochs', type=positive)
    declare('batch_size', type=positive)
    declare('optimizer', choices=OPTIMIZERS)
    declare('learning_rate', type=float)
    declare('momentum', 'of sgd', type=float)
    declare('schedule', 'of the learning rate: up and down once, or times 0.1 at steps',
            choices=SCHEDULES)
    declare('drop_after_epochs', "of the schedule 'step'", type=positive, nargs='*',
            metavar='EPOCH')
    declare('weight_decay', type=float)
    declare('max_gradient_norm', '0 leaves gradients as they are', type=float)
    declare('label_smoothing', type=float)
    declare('class_balance', 'targets weigh by the share of their class to the power of minus '
            'this; 1 makes all classes weigh the same', type=float)
    declare('patience', 'end after so many epochs without a lower loss; 0: never early', type=int)
    declare('seed', type=int)
    declare('workers', 'processes that read the batches', type=int)
    declare('precise_norms', 'after the last epoch measure the statistics of batch norm anew',
            action=argparse.BooleanOptionalAction)
    declare('mixed_precision', 'bfloat16 where it is safe', action=argparse.BooleanOptionalAction)
    group.add_argument('--device', default='auto', help='auto, cpu or cuda (%(default)s)')
    group.add_argument('--mirror', action=argparse.BooleanOptionalAction, default=True,
                       help='flip about half of the faces left to right (%(default)s)')
    group.add_argument('--rotation', type=float, default=0.0, metavar='RADIANS',
                       help='standard deviation of random rolls (%(default)s)')
    group.add_argument('--stretch', type=float, default=0.0,
                       help='standard deviation of random factors on width and height '
                       '(%(default)s)')
    group.add_argument('--person', type=float, default=0.0, metavar='FACE-SIZES',
                       help='standard deviation of where brows, nose, eyes and mouth lie, the '
                       'same in all frames: makes other people of those there are (%(default)s)')
    group.add_argument('--movement', type=float, default=0.0,
                       help='standard deviation of the logarithm of random factors on how far '
                       'brows, nose, eyes and mouth move from where a clip begins (%(default)s)')
    group.add_argument('--time-crop', type=float, default=0.0, metavar='SHARE',
                       help='share of a clip cut off at random at either end (%(default)s)')


def fit_config(options: argparse.Namespace, defaults: FitConfig) -> FitConfig:
    """Read the recipe of fitting: the options where they are given, else the defaults."""
    given = {
        item.name: value
        for item in fields(FitConfig)
        if item.name != 'device' and (value := getattr(options, item.name, None)) is not None
    }
    if 'drop_after_epochs' in given:
        given['drop_after_epochs'] = tuple(given['drop_after_epochs'])
    return replace(defaults, **given, device=choose_device(options.device))


def augmentation(options: argparse.Namespace) -> Augmentation:
    """Read the augmentation from the options."""
    return Augmentation(
        mirror=options.mirror,
        rotation=options.rotation,
        stretch=options.stretch,
        person=options.person,
        movement=options.movement,
        time_crop=options.time_crop,
    )


def clip_source(options: argparse.Namespace, path: Path, labels: Path | None) -> ClipSource:
    """Name a source of clips, prepared as the options or its protocol.json say.

    Raises ValueError for prepared clips whose classes nobody names, or options that say nothing
    of clips.
    """
    for name in ('estimate_intensity', 'synthetic'):
        if getattr(options, name):
            raise ValueError(
                f'--{name.replace("_", "-")} is for networks that stream, not for clips: '
                'leave it out'
            )
    if options.map and options.tracks is None:
        raise ValueError('--map goes with --tracks; labels of prepared clips are indices of '
                         'classes')
    classes = tuple(options.classes or ())
    if labels is None:
        return ClipSource(
            path=path,
            classes=classes,
            preparation=_preparation(options),
            mapping=_label_mapping(options),
        )
    protocol = _protocol_of(path)
    if protocol is not None:
        return ClipSource(
            path=path,
            labels=labels,
            classes=classes or protocol.classes,
            preparation=protocol.preparation,
        )
    if not classes:
        raise ValueError(
            f'{path} has no protocol.json beside it, which would name its classes: '
            'say them with --classes'
        )
    return ClipSource(path=path, labels=labels, classes=classes)


def load_data(options: argparse.Namespace) -> LoadedData:
    """Load training and validation data: tracks fitted frame by frame, or clips.

    Raises ValueError or OSError naming what is wrong with the files or the options.
    """
    if options.frames or options.data is not None:
        if options.baseline:
            raise ValueError('--baseline is for networks that stream: leave out --frames')
        return _load_clips(options, training_path(options))
    if options.tracks is None:
        raise ValueError('say either --tracks FILE.npz, or --data FILE.npy with --labels FILE.pkl')
    if options.displacement != 'none':
        raise ValueError('a displacement needs clips: say their --frames')
    sources = track_sources(options, classes=tuple(options.classes or ()))
    tracks, classes = sources.load(progress=True, elsewhere=_validation_labels(options))
    validation = None
    if options.validation is not None:
        others = replace(sources, files=(TrackFile(path=options.validation),), classes=classes)
        # What the mapping has was all found in the one file or the other.
        prepared, _ = others.load(progress=True, elsewhere=dict(sources.mapping))
        validation = mix_tracks(prepared, Mixture(piece_frames=LONGEST))
    return LoadedData(
        training=mix_tracks(tracks, mixture(options, sources)),
        validation=validation,
        classes=classes,
        edge_list=options.edge_list,
        normalization=sources.normalization,
        frame_rate=options.frame_rate,
        baseline_s=stream_baseline(options),
        preparation=None,
        augmentation=augmentation(options),
        names={
            'training': ', '.join(file.path.name for file in sources.files),
            **_validation_name(options),
        },
    )


def track_sources(options: argparse.Namespace, *, classes: tuple[str, ...]) -> TrackSources:
    """Name the track files for a network that streams; without classes, those they show."""
    return TrackSources(
        files=(*options.tracks, *options.synthetic),
        mapping=_label_mapping(options),
        classes=classes,
        estimates_intensity=options.estimate_intensity,
        frame_rate=options.frame_rate,
        normalization=normalization(options),
    )


def mixture(options: argparse.Namespace, sources: TrackSources) -> Mixture:
    """Read how the tracks are mixed.

    Raises ValueError if some of the files have a share and others not.
    """
    shares = tuple(
        (file.source, file.share) for file in sources.files if file.share is not None
    )
    if shares and len(shares) < len(sources.files):
        missing = next(file.path for file in sources.files if file.share is None)
        raise ValueError(f'either every track file has a share or none: {missing} has none')
    return Mixture(piece_frames=options.piece_frames, draws=options.draws, shares=shares)


def baseline_frames(baseline_s: float, frame_rate: float) -> int:
    """Return the span of a baseline in frames, as model files have it; 0 for none."""
    return max(1, round(baseline_s * frame_rate)) if baseline_s else 0


def first_weights(options: argparse.Namespace) -> FirstWeights | None:
    """Name the model that the fit begins with, if the options do."""
    return None if options.start is None else FirstWeights.of(options.start)


def stream_channels(options: argparse.Namespace) -> tuple[int, ...]:
    """Return the channels that are said, else those of the first weights, else the default."""
    if options.channels:
        return tuple(options.channels)
    start = _start(options)
    return STREAM_CHANNELS if start is None else start.network.channels


def stream_baseline(options: argparse.Namespace) -> float:
    """Return the baseline in seconds that is said, else that of the first weights, else 0."""
    if options.baseline is not None:
        return float(options.baseline)
    start = _start(options)
    return 0.0 if start is None else start.baseline_s


def normalization(options: argparse.Namespace) -> str:
    """Return the normalisation that is said, else that of the first weights, else the default."""
    if options.normalization is not None:
        return str(options.normalization)
    start = _start(options)
    return NORMALIZATIONS[0] if start is None else start.normalization


def _start(options: argparse.Namespace) -> ModelDescription | None:
    """Read the description of the model that a fit begins with; None if it begins anew."""
    path = getattr(options, 'start', None)  # only `fit` and `crossval` have it
    return None if path is None else load_model(path).description


def _load_clips(options: argparse.Namespace, path: Path) -> LoadedData:
    source = clip_source(options, path, options.labels)
    clips = source.load(progress=True, elsewhere=_validation_labels(options))
    preparation = source.preparation or replace(
        _preparation(options), frames=clips.features.shape[2]
    )
    validation = None
    if options.validation is not None:
        other = clip_source(options, options.validation, options.validation_labels)
        validation = TrainingSet.of_clips(
            replace(other, classes=clips.classes).load(elsewhere=dict(source.mapping))
        )
    return LoadedData(
        training=TrainingSet.of_clips(clips),
        validation=validation,
        classes=clips.classes,
        edge_list=options.edge_list,
        normalization=preparation.normalization,
        frame_rate=0.0,
        baseline_s=0.0,
        preparation=preparation,
        augmentation=augmentation(options),
        names={'training': path.name, **_validation_name(options)},
    )


def _label_mapping(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    mapping = read_label_mapping([item for items in options.map for item in items])
    return tuple(sorted(mapping.items()))


def _validation_labels(options: argparse.Namespace) -> set[str]:
    """Read the labels of the validation tracks, if there are any and a mapping may name them."""
    if options.validation is None or options.validation_labels is not None or not options.map:
        return set()
    return {track.label for track in read_tracks(options.validation)}


def _validation_name(options: argparse.Namespace) -> dict[str, str]:
    return {'validation': options.validation.name} if options.validation else {}


def _preparation(options: argparse.Namespace) -> ClipPreparation:
    return ClipPreparation(
        frames=options.frames or 1,
        sampling=options.sampling,
        normalization=normalization(options),
        displacement=options.displacement,
    )


def _protocol_of(path: Path) -> ProtocolDescription | None:
    """Read the protocol.json that belongs to a prepared file, if there is one."""
    for folder in (path.parent, path.parent.parent):
        if (folder / PROTOCOL_FILE).is_file():
            return read_protocol(folder)
    return None


def training_path(options: argparse.Namespace) -> Path:
    """Return the one file of training data that the options name.

    Raises ValueError if they name none, or two, or clips without labels.
    """
    if (options.tracks is None) == (options.data is None):
        raise ValueError('say either --tracks FILE.npz, or --data FILE.npy with --labels FILE.pkl')
    if (options.data is None) != (options.labels is None):
        raise ValueError('--data and --labels belong together')
    if options.data is not None:
        return Path(options.data)
    if len(options.tracks) > 1 or options.tracks[0].share is not None:
        raise ValueError('clips are made of one track file, without a share')
    return Path(options.tracks[0].path)


def network_template(
    options: argparse.Namespace,
    *,
    classes: int,
    channels: tuple[int, ...],
    reads_clips: bool,
    strides: tuple[int, ...] = (),
) -> PstBlnConfig:
    """Describe the network that the options ask for.

    Kind and rate of dropout that are not said are those of the model that the fit begins with.
    """
    start = _start(options)
    unsaid = PstBlnConfig if start is None else start.network
    window = 0 if reads_clips else STREAM_WINDOW
    return PstBlnConfig(
        channels=channels,
        classes=classes,
        edges=len(load_edge_list(options.edge_list)),
        in_channels=2 if reads_clips or not stream_baseline(options) else 4,
        subsets=options.subsets,
        kernel_size=options.kernel_size,
        strides=strides,
        padding=options.padding or ('same' if reads_clips else 'causal'),
        window=getattr(options, 'window', None) or window,
        dropout=unsaid.dropout if options.dropout is None else options.dropout,
        dropout_position=options.dropout_position,
        dropout_masks=options.mask_kind or unsaid.dropout_masks,
        input_norm=options.input_norm,
        topology_init=options.topology_init,
    )


def describe(
    network: PstBlnConfig,
    data: LoadedData,
    *,
    calibration: Calibration | FrameCalibration | None,
    training: dict[str, object],
    licence: str,
) -> ModelDescription:
    """Describe a fitted network for its model file."""
    edges = load_edge_list(data.edge_list).tolist()
    calibrated: dict[str, Any] = {} if calibration is None else {
        'temperature': calibration.temperature,
        'abstention_threshold': calibration.abstention_threshold,
    }
    clip = data.preparation
    timing: dict[str, Any] = {'warm_up_s': WARM_UP_S} if clip is None else {
        'warm_up_s': 0.0,
        'clip_frames': clip.frames,
        'clip_sampling': clip.sampling,
        'clip_displacement': clip.displacement,
    }
    return ModelDescription(
        network=network,
        edge_list=tuple((source, target) for source, target in edges),
        classes=data.classes,
        frame_rate=data.frame_rate,
        baseline_s=data.baseline_s,
        normalization=data.normalization,
        training=training,
        licence=licence,
        **timing,
        **calibrated,
    )


def describe_calibration(calibration: Calibration) -> str:
    """Say in one line what calibration found."""
    return (
        f'validation, {calibration.frames} answers, {calibration.mc_samples} samples: accuracy '
        f'{calibration.accuracy:.3f}, macro F1 {calibration.macro_f1:.3f}; CONFIDENT from '
        f'{calibration.abstention_threshold:.2f} on: {calibration.coverage:.0%} of them, '
        f'{calibration.risk:.1%} of those wrong'
    )
