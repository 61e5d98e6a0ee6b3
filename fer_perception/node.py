# SPDX-License-Identifier: Apache-2.0
"""fer_node: subscribes to a camera, publishes every face's expression with its uncertainty."""

import argparse
import signal
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.context import Context
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image

from fer_msgs.msg import Expression, ExpressionArray, FaceLandmarks
from fer_perception.assets import AssetError
from fer_perception.drawing import draw_result
from fer_perception.faces.tracker import FaceTrackerConfig
from fer_perception.fast_dds import use_prompt_resends
from fer_perception.image_subscription import RELIABILITIES, ImageSubscription
from fer_perception.images import ImageError, compressed_to_bgr, to_bgr
from fer_perception.inference.backend import BACKENDS, DEVICES, PRECISIONS
from fer_perception.mailbox import Mailbox
from fer_perception.messages import image_message, result_messages, ros_message, stamp_ns
from fer_perception.models.pst_bln import PstBln
from fer_perception.pipeline import Pipeline, PipelineConfig
from fer_perception.uncertainty.estimate import DecisionRule

TRANSPORTS = ('raw', 'compressed')
LOG_PERIOD_S = 5.0  # between two complaints of one kind
SIGNAL_PERIOD_S = 0.5  # between two looks whether the node was told to end

OUTPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)


def _whole(
    default: int, text: str, low: int, high: int, *, read_only: bool = True
) -> tuple[int, ParameterDescriptor]:
    span = IntegerRange(from_value=low, to_value=high, step=0)
    return default, ParameterDescriptor(
        description=text, read_only=read_only, integer_range=[span]
    )


def _real(
    default: float, text: str, low: float, high: float, *, read_only: bool = True
) -> tuple[float, ParameterDescriptor]:
    span = FloatingPointRange(from_value=low, to_value=high, step=0.0)
    return default, ParameterDescriptor(
        description=text, read_only=read_only, floating_point_range=[span]
    )


def _plain(default: Any, text: str, constraints: str = '') -> tuple[Any, ParameterDescriptor]:
    return default, ParameterDescriptor(
        description=text, read_only=True, additional_constraints=constraints
    )


# Every parameter: default and descriptor. Those that are not read-only apply at once.
PARAMETERS: dict[str, tuple[Any, ParameterDescriptor]] = {
    'model': _plain(
        '', 'Model file (.safetensors), or its streaming ONNX; empty: the one in the package.'
    ),
    'landmark_model': _plain(
        '',
        "dlib's shape_predictor_68_face_landmarks.dat; empty: $FER_LANDMARK_MODEL, or the copy "
        'that fer_assets fetched.',
    ),
    'device': _plain(
        'auto', 'Where the network runs; auto takes CUDA if there.', f'one of {", ".join(DEVICES)}'
    ),
    'backend': _plain(
        'auto',
        'What runs the network; auto takes what the model file is for.',
        f'one of {", ".join(BACKENDS)}',
    ),
    'precision': _plain(
        'auto',
        'Numbers that the network computes with; auto takes bf16 where the CPU has it and it '
        'changes next to nothing.',
        f'one of {", ".join(PRECISIONS)}',
    ),
    'image_transport': _plain(
        'raw', 'Subscribe to image or to image/compressed.', f'one of {", ".join(TRANSPORTS)}'
    ),
    'image_reliability': _plain(
        'auto',
        'QoS of the image subscription; auto is reliable where all publishers are.',
        f'one of {", ".join(RELIABILITIES)}',
    ),
    'mc_samples': _whole(
        100, 'Monte Carlo dropout samples of every face and image.', 1, 1000, read_only=False
    ),
    'deadline_ms': _real(
        0.0,
        'Milliseconds from the start of an image to its answer, kept by taking fewer samples '
        'for it; 0: none.',
        0.0,
        10_000.0,
        read_only=False,
    ),
    'abstention_threshold': _real(
        -1.0,
        'Lowest confidence that counts as CONFIDENT, 0 to 1; negative: as in the model file.',
        -1.0,
        1.0,
        read_only=False,
    ),
    'confidence_margin': _real(
        DecisionRule.confidence_margin,
        'How much above the threshold the confidence must be for an expression to become '
        'CONFIDENT, at most half the way to 1; it stays so down to the threshold.',
        0.0,
        1.0,
        read_only=False,
    ),
    'confidence_hold_s': _real(
        DecisionRule.confidence_hold_s,
        'Seconds for which it must have been that clear, in the same expression, before it is '
        'CONFIDENT.',
        0.0,
        60.0,
        read_only=False,
    ),
    'threads': _whole(
        1,
        'CPU threads of the network and the landmark fits; more only pay where cores stand idle.',
        1,
        256,
    ),
    'detection_interval': _whole(
        20, 'Images from one search for faces to the next, while no face is missing.', 1, 1000
    ),
    'search_delay_s': _real(
        0.1,
        'Seconds after which a search for faces counts that runs beside the images; 0: each is '
        'done at once and keeps its image waiting.',
        0.0,
        10.0,
    ),
    'detection_side': _whole(
        640, 'Longest side, in pixels, of the copy of the image that is searched.', 80, 8192
    ),
    'loss_tolerance_s': _real(
        1.0, 'Seconds for which a face that is out of sight keeps its id.', 0.0, 60.0
    ),
    'deterministic_ids': _plain(False, 'Count the face ids up instead of drawing them (tests).'),
    'seed': _whole(
        -1, 'Seed of the dropout masks; -1: another one each time.', -1, 2**31 - 1
    ),
}

# Those that make the rule by which the state of an expression is decided.
RULE_PARAMETERS = ('abstention_threshold', 'confidence_margin', 'confidence_hold_s')


class FerNode(Node):
    """Connects the pipeline to ROS: the newest image in, expressions out."""

    def __init__(self, *, context: Context | None = None) -> None:
        """Declare the parameters, load the models, subscribe.

        Raises what Pipeline raises for models that cannot be loaded, ValueError for a parameter
        that is none of its choices.
        """
        super().__init__('fer_node', namespace='fer', context=context)
        for name, (default, descriptor) in PARAMETERS.items():
            self.declare_parameter(name, default, descriptor)
        transport = self._value('image_transport')
        if transport not in TRANSPORTS:
            raise ValueError(f'image_transport must be raw or compressed, not {transport!r}')
        self._convert = to_bgr if transport == 'raw' else compressed_to_bgr
        self._pipeline = Pipeline(self._pipeline_config())
        self._apply_rule({name: self._value(name) for name in RULE_PARAMETERS})
        self.add_on_set_parameters_callback(self._on_set_parameters)

        self._outputs = {
            topic: self.create_publisher(kind, topic, OUTPUT_QOS)
            for topic, kind in (
                ('expression', Expression),
                ('expressions', ExpressionArray),
                ('landmarks', FaceLandmarks),
            )
        }
        self._annotated = self.create_publisher(Image, 'image_annotated', OUTPUT_QOS)

        self._mailbox: Mailbox[Any] = Mailbox()
        self.counts: Counter[str] = Counter()  # of images, by what became of them
        self._worker = threading.Thread(target=self._work, name='fer_worker', daemon=True)
        self._worker.start()
        topic = self.resolve_topic_name('image')
        if transport == 'compressed':
            topic += '/compressed'
        self._images = ImageSubscription(
            self,
            message_type=Image if transport == 'raw' else CompressedImage,
            topic=topic,
            callback=self._mailbox.put,
            reliability=self._value('image_reliability'),
        )
        self.get_logger().info(
            f'reading faces on {topic}; '
            f'{PstBln(self._pipeline.network.config, quiet=True).parameter_summary()}; '
            f'{self._value("mc_samples")} Monte Carlo samples by '
            f'{self._pipeline.network.description}'
        )

    def close(self) -> None:
        """Stop the worker and say what was done."""
        self._mailbox.close()
        self._worker.join(timeout=5.0)
        self._pipeline.close()
        counts = ', '.join(f'{count} {kind}' for kind, count in self.counts.items())
        # Not by the logger: the context may be shut down already.
        print(
            f'fer_node: ended; images: {counts or "none"}, '
            f'{self._mailbox.dropped} dropped for newer ones',
            file=sys.stderr,
        )

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _pipeline_config(self) -> PipelineConfig:
        def path(name: str) -> Path | None:
            return Path(self._value(name)).expanduser() if self._value(name) else None

        seed = self._value('seed')
        return PipelineConfig(
            model=path('model'),
            landmark_model=path('landmark_model'),
            device=self._value('device'),
            backend=self._value('backend'),
            precision=self._value('precision'),
            mc_samples=self._value('mc_samples'),
            deadline_ms=self._value('deadline_ms'),
            detection_side=self._value('detection_side'),
            tracker=FaceTrackerConfig(
                detection_interval=self._value('detection_interval'),
                search_delay_s=self._value('search_delay_s'),
                loss_tolerance_s=self._value('loss_tolerance_s'),
            ),
            deterministic_ids=self._value('deterministic_ids'),
            seed=None if seed < 0 else seed,
            threads=self._value('threads'),
        )

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        new = {parameter.name: parameter.value for parameter in parameters}
        if 'mc_samples' in new:
            self._pipeline.recognizer.budget.most = new['mc_samples']
        if 'deadline_ms' in new:
            self._pipeline.recognizer.budget.deadline_ms = new['deadline_ms']
        if new.keys() & set(RULE_PARAMETERS):
            self._apply_rule({name: new.get(name, self._value(name)) for name in RULE_PARAMETERS})
        return SetParametersResult(successful=True)

    def _apply_rule(self, values: dict[str, float]) -> None:
        if values['abstention_threshold'] < 0.0:
            values['abstention_threshold'] = self._pipeline.description.abstention_threshold
        rule = replace(self._pipeline.description.rule, **values)
        self._pipeline.recognizer.rule = rule  # one assignment: the worker sees the old or the new

    def _work(self) -> None:
        while (message := self._mailbox.take()) is not None:
            try:
                self._process(message)
                self.counts['processed'] += 1
            except ImageError as error:
                self._complain('refused', f'image refused: {error}')
            except Exception as error:  # one bad image must never end the node
                if not self.context.ok():
                    return
                kind = type(error).__name__
                self._complain('failed', f'image could not be processed: {kind}: {error}')

    def _complain(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        self.get_logger().error(
            f'{text} ({self.counts[kind]} {kind} so far)', throttle_duration_sec=LOG_PERIOD_S
        )

    def _process(self, message: Any) -> None:
        image = self._convert(message)
        # A camera that stamps nothing is timed by the clock; its header is copied all the same.
        time_ns = stamp_ns(message.header) or self.get_clock().now().nanoseconds
        result = self._pipeline.process(image, time_ns)
        for topic, output in result_messages(ros_message, result, message.header):
            self._outputs[topic].publish(output)
        if self._annotated.get_subscription_count():
            annotated = draw_result(image, result)
            self._annotated.publish(image_message(ros_message, annotated, message.header))


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop; return the exit code."""
    argparse.ArgumentParser(
        prog='fer_node',
        description='Read the expressions of all faces that a camera sees.',
        epilog='Parameters: --ros-args -p NAME:=VALUE; camera: --ros-args -r image:=TOPIC',
    ).parse_args(remove_ros_args(sys.argv if args is None else args)[1:])
    use_prompt_resends()
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # a ROS argument or a parameters file that cannot be read
        print(f'fer_node: {error}', file=sys.stderr)
        return 1
    node = None
    try:
        executor = SingleThreadedExecutor()
        node = FerNode()
        executor.add_node(node)
        # Not rclpy.spin: a signal that arrives just before it waits does not always wake it.
        while rclpy.ok():
            executor.spin_once(timeout_sec=SIGNAL_PERIOD_S)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (AssetError, FileNotFoundError, ParameterException, ValueError) as error:
        print(f'fer_node: {error}', file=sys.stderr)
        return 1
    except Exception:  # from within ROS, if a signal has just shut it down
        if rclpy.ok():
            raise
    finally:
        # Under ros2 launch Ctrl-C arrives twice: the second must not break off what follows.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # again: ROS has put back the former one
    return 0


if __name__ == '__main__':
    sys.exit(main())
