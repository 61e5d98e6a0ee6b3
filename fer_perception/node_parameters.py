# SPDX-License-Identifier: Apache-2.0
"""The parameters of fer_node: defaults, ranges, when they are read. Free of ROS."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fer_perception.faces.tracker import FaceTrackerConfig
from fer_perception.inference.backend import BACKENDS, DEVICES, PRECISIONS
from fer_perception.inference.image_reader import MOST_VIEWS
from fer_perception.pipeline import LANDMARK_RECOGNIZER, RECOGNIZERS, PipelineConfig
from fer_perception.uncertainty.estimate import DecisionRule

TRANSPORTS = ('raw', 'compressed')
RELIABILITIES = ('auto', 'best_effort', 'reliable')
HRI_MODES = ('off', 'standalone', 'attached')


@dataclass(frozen=True, kw_only=True)
class NodeParameter:
    """Describe one parameter."""

    default: Any  # its type is the parameter's
    description: str
    span: tuple[float, float] | None = None  # of a number
    choices: tuple[str, ...] = ()  # of a text
    # When it is read: 'live' applies at once, 'configure' when the node is configured, 'start'
    # when the process starts.
    read: Literal['live', 'configure', 'start'] = 'configure'


PARAMETERS: dict[str, NodeParameter] = {
    'autostart': NodeParameter(
        default=True,
        description='Configure and activate the node by itself when it starts; false leaves it '
        'unconfigured for a lifecycle manager.',
        read='start',
    ),
    'recognizer': NodeParameter(
        default=LANDMARK_RECOGNIZER,
        description='What reads the faces: pst_bln their landmarks, fused both these and the '
        'images, the others the images.',
        choices=RECOGNIZERS,
    ),
    'model': NodeParameter(
        default='',
        description='Model file of pst_bln (.safetensors), or its streaming ONNX; empty: the one '
        'in the package.',
    ),
    'image_model': NodeParameter(
        default='',
        description='Model file of an image recogniser (.safetensors); none comes with the '
        'package.',
    ),
    'image_weight': NodeParameter(
        default=PipelineConfig.image_weight,
        description='Share of the image recogniser in the answer of fused.',
        span=(0.0, 1.0),
    ),
    'image_views': NodeParameter(
        default=PipelineConfig.image_views,
        description='How often an image recogniser reads every face; 2: mirrored as well, which '
        'costs twice the time.',
        span=(1, MOST_VIEWS),
    ),
    'landmark_model': NodeParameter(
        default='',
        description="dlib's shape_predictor_68_face_landmarks.dat; empty: $FER_LANDMARK_MODEL, "
        'or the copy that fer_assets fetched.',
    ),
    'device': NodeParameter(
        default='auto',
        description='Where the network runs; auto takes CUDA if there.',
        choices=DEVICES,
    ),
    'backend': NodeParameter(
        default='auto',
        description='What runs the network; auto takes what the model file is for.',
        choices=BACKENDS,
    ),
    'precision': NodeParameter(
        default='auto',
        description='Numbers that the network computes with; auto takes bf16 where the CPU has '
        'it and it changes next to nothing.',
        choices=PRECISIONS,
    ),
    'image_transport': NodeParameter(
        default='raw',
        description='Subscribe to image or to image/compressed.',
        choices=TRANSPORTS,
    ),
    'image_reliability': NodeParameter(
        default='auto',
        description='QoS of the image subscription; auto is reliable where all publishers are.',
        choices=RELIABILITIES,
    ),
    'hri_mode': NodeParameter(
        default='off',
        description='ROS4HRI (needs hri_msgs): standalone publishes the faces in /humans/faces, '
        'attached follows the faces that another detector publishes there and adds their '
        'expressions.',
        choices=HRI_MODES,
    ),
    'mc_samples': NodeParameter(
        default=100,
        description='Monte Carlo dropout samples of every face and image.',
        span=(1, 1000),
        read='live',
    ),
    'deadline_ms': NodeParameter(
        default=0.0,
        description='Milliseconds from the start of an image to its answer, kept by taking '
        'fewer samples for it; 0: none.',
        span=(0.0, 10_000.0),
        read='live',
    ),
    'threads': NodeParameter(
        default=1,
        description='CPU threads of the network and the landmark fits; more only pay where '
        'cores stand idle.',
        span=(1, 256),
    ),
    'abstention_threshold': NodeParameter(
        default=-1.0,
        description='Lowest confidence that counts as CONFIDENT, 0 to 1; negative: as in the '
        'model file.',
        span=(-1.0, 1.0),
        read='live',
    ),
    'confidence_margin': NodeParameter(
        default=DecisionRule.confidence_margin,
        description='How much above the threshold the confidence must be for an expression to '
        'become CONFIDENT, at most half the way to 1; it stays so down to the threshold.',
        span=(0.0, 1.0),
        read='live',
    ),
    'confidence_hold_s': NodeParameter(
        default=DecisionRule.confidence_hold_s,
        description='Seconds for which it must have been that clear, in the same expression, '
        'before it is CONFIDENT.',
        span=(0.0, 60.0),
        read='live',
    ),
    'detection_interval': NodeParameter(
        default=20,
        description='Images from one search for faces to the next, while no face is missing.',
        span=(1, 1000),
    ),
    'search_delay_s': NodeParameter(
        default=0.1,
        description='Seconds after which a search for faces counts that runs beside the images; '
        '0: each is done at once and keeps its image waiting.',
        span=(0.0, 10.0),
    ),
    'detection_side': NodeParameter(
        default=640,
        description='Longest side, in pixels, of the copy of the image that is searched.',
        span=(80, 8192),
    ),
    'loss_tolerance_s': NodeParameter(
        default=1.0,
        description='Seconds for which a face that is out of sight keeps its id.',
        span=(0.0, 60.0),
    ),
    'deterministic_ids': NodeParameter(
        default=False,
        description='Count the face ids up instead of drawing them (tests).',
    ),
    'seed': NodeParameter(
        default=-1,
        description='Seed of the dropout masks; -1: another one each time.',
        span=(-1, 2**31 - 1),
    ),
}

# Those that make the rule by which the state of an expression is decided.
RULE_PARAMETERS = ('abstention_threshold', 'confidence_margin', 'confidence_hold_s')


def check_value(name: str, value: Any) -> None:
    """Raise ValueError for a value that is not finite or none of the choices.

    Types and ranges are ROS's to check, by the parameter's descriptor; NaN not in every version.
    """
    parameter = PARAMETERS[name]
    if parameter.choices and value not in parameter.choices:
        raise ValueError(f'{name} must be one of {", ".join(parameter.choices)}, not {value!r}')
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f'{name} must be a finite number, not {value}')


def pipeline_config(values: Mapping[str, Any]) -> PipelineConfig:
    """Make the pipeline's configuration from the values of all parameters."""

    def path(name: str) -> Path | None:
        return Path(values[name]).expanduser() if values[name] else None

    return PipelineConfig(
        recognizer=values['recognizer'],
        model=path('model'),
        image_model=path('image_model'),
        image_weight=values['image_weight'],
        image_views=values['image_views'],
        landmark_model=path('landmark_model'),
        device=values['device'],
        backend=values['backend'],
        precision=values['precision'],
        mc_samples=values['mc_samples'],
        deadline_ms=values['deadline_ms'],
        detection_side=values['detection_side'],
        finds_faces=values['hri_mode'] != 'attached',
        tracker=FaceTrackerConfig(
            detection_interval=values['detection_interval'],
            search_delay_s=values['search_delay_s'],
            loss_tolerance_s=values['loss_tolerance_s'],
        ),
        deterministic_ids=values['deterministic_ids'],
        seed=None if values['seed'] < 0 else values['seed'],
        threads=values['threads'],
    )
