# SPDX-License-Identifier: Apache-2.0
"""FerNode: a lifecycle node that reads a camera and publishes every face's expression."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool, Trigger

from fer_perception.assets import AssetError
from fer_perception.diagnostics import NodeDiagnostics
from fer_perception.health import SILENCE_S, Health, assess
from fer_perception.hri_faces import HriFaces
from fer_perception.image_statistics import ImageStatistics
from fer_perception.image_subscription import ImageSubscription
from fer_perception.images import ImageError, compressed_to_bgr, to_bgr
from fer_perception.landmark_frames import LandmarkFrame
from fer_perception.mailbox import Mailbox
from fer_perception.messages import stamp_ns
from fer_perception.node_outputs import NodeOutputs
from fer_perception.node_parameters import (
    PARAMETERS,
    RULE_PARAMETERS,
    NodeParameter,
    check_value,
    pipeline_config,
)
from fer_perception.pipeline import Pipeline
from fer_perception.stamp_order import StampError, StampOrder, check_stamp

LOG_PERIOD_S = 5.0  # between two complaints of one kind
SILENCE_LOG_PERIOD_S = 30.0  # between two complaints that no image comes
WATCH_PERIOD_S = 1.0
SIGNAL_PERIOD_S = 0.5  # between two looks whether the node was told to end
STOP_LIMIT_S = 5.0  # for the worker to finish an image
LONGEST_AGE_MS = 3_600_000.0  # an older image is from a recording: its age says nothing

# What a model, a parameter or a missing package can be the reason of.
CONFIGURATION_ERRORS = (AssetError, ImportError, OSError, ValueError)
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class FerNode(LifecycleNode):
    """
    Connects the pipeline to ROS: the newest image in, expressions out.

    Configuring loads the models, activating subscribes, deactivating unsubscribes and forgets
    the faces, cleaning up frees the models. The executor's thread only puts the newest image
    into a mailbox; a worker reads it.
    """

    def __init__(self, *, context: Context | None = None) -> None:
        """Declare the parameters and offer the services; loads nothing yet."""
        super().__init__('fer_node', namespace='fer', context=context)
        self._answer_refused_transitions()
        for name, parameter in PARAMETERS.items():
            self.declare_parameter(name, parameter.default, _descriptor(parameter))
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._pipeline: Pipeline | None = None
        self._pipeline_lock = threading.Lock()  # whoever reads an image or forgets the faces
        self._outputs: NodeOutputs | None = None
        self._images: ImageSubscription | HriFaces | None = None
        self._mailbox: Mailbox[Any] = Mailbox()
        self._worker: threading.Thread | None = None
        self._order = StampOrder()
        self._fault = ''  # why the node could not be configured
        self._is_enabled = True
        self.statistics = ImageStatistics(now_s=time.monotonic())
        self.create_service(SetBool, '~/enable', self._on_enable)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self._diagnostics = NodeDiagnostics(self, self._assess)
        self.create_timer(
            WATCH_PERIOD_S, self._watch_images, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._jumps = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
            ),
            post_callback=lambda _: self._forget_faces(),
        )

    def _answer_refused_transitions(self) -> None:
        """Answer a transition that the state has not: rclpy raises, and its client would wait."""
        service = self._service_change_state
        change_state = service.callback

        def answer(
            request: ChangeState.Request, response: ChangeState.Response
        ) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except RuntimeError as error:  # rclpy's RCLError
                self.get_logger().warning(f'a transition is refused: {error}')
                response.success = False
                return response

        service.callback = answer

    def start(self) -> None:
        """Configure and activate the node, unless the parameter autostart is false."""
        if not self._value('autostart'):
            self.get_logger().info('unconfigured: waits for a lifecycle manager (autostart)')
        elif self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """Stop the worker and free everything, in whatever state the node is."""
        self._jumps.unregister()
        self._stop_reading()
        self._release()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the models; without them the node stays unconfigured and says why."""
        values = {name: self._value(name) for name in PARAMETERS}
        try:
            for name, value in values.items():
                check_value(name, value)
            self._pipeline = Pipeline(pipeline_config(values))
            self._apply_rule({name: values[name] for name in RULE_PARAMETERS})
            self._outputs = NodeOutputs(self, hri_mode=values['hri_mode'])
        except CONFIGURATION_ERRORS as error:
            self._fault = str(error)
            self.get_logger().error(f'stays unconfigured: {error}')
            self._release()
            return FAILURE
        self._fault = ''
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to read images."""
        assert self._pipeline is not None
        self._mailbox = Mailbox()
        self._worker = threading.Thread(target=self._work, name='fer_worker', daemon=True)
        self._worker.start()
        if self._is_enabled:
            self._subscribe()
        self.get_logger().info(
            (f'reading faces on {self._images.topic}' if self._images else 'paused')
            + f'; up to {self._value("mc_samples")} Monte Carlo samples by '
            f'{self._pipeline.recognizer.reader.description}'
        )
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop reading images and forget the faces."""
        self._stop_reading()
        self._forget_faces()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the models."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything."""
        self._stop_reading()
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything after an error nobody expected; the node can be configured again."""
        self.get_logger().error(f'an error in the transition from {state.label}')
        self._stop_reading()
        self._release()
        return super().on_error(state)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _subscribe(self) -> None:
        self._order.reset()
        self.statistics.wait_from(time.monotonic())
        if self._value('hri_mode') == 'attached':
            self._images = HriFaces(self, callback=self._on_image)
            return
        is_raw = self._value('image_transport') == 'raw'
        topic = self.resolve_topic_name('image')
        self._convert: Callable[[Any], Any] = to_bgr if is_raw else compressed_to_bgr
        self._images = ImageSubscription(
            self,
            message_type=Image if is_raw else CompressedImage,
            topic=topic if is_raw else f'{topic}/compressed',
            callback=self._on_image,
            reliability=self._value('image_reliability'),
        )

    def _unsubscribe(self) -> None:
        if self._images is not None:
            self._images.close()
            self._images = None

    def _stop_reading(self) -> None:
        self._unsubscribe()
        self._mailbox.close()
        if self._worker is not None:
            self._worker.join(timeout=STOP_LIMIT_S)
            self._worker = None

    def _release(self) -> None:
        if self._outputs is not None:
            self._outputs.close()
            self._outputs = None
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def _forget_faces(self) -> None:
        self._mailbox.clear()
        with self._pipeline_lock:
            self._order.reset()
            if self._pipeline is not None:
                self._pipeline.reset()
            if self._outputs is not None:
                self._outputs.clear()

    def _on_enable(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        self._is_enabled = request.data
        if not request.data:
            self._unsubscribe()
            self._forget_faces()
        elif self._worker is not None and self._images is None:
            self._subscribe()
        response.success = True
        response.message = 'enabled' if request.data else 'paused'
        if self._worker is None:
            response.message += '; takes effect when the node is active'
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._forget_faces()
        response.success = True
        response.message = 'all faces are forgotten'
        return response

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        new = {
            parameter.name: parameter.value
            for parameter in parameters
            if parameter.name in PARAMETERS
        }
        for name, value in new.items():
            reason = self._refusal(name, value)
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        if self._pipeline is not None:
            budget = self._pipeline.recognizer.budget
            budget.most = new.get('mc_samples', budget.most)
            budget.deadline_ms = new.get('deadline_ms', budget.deadline_ms)
            if new.keys() & set(RULE_PARAMETERS):
                self._apply_rule(
                    {name: new.get(name, self._value(name)) for name in RULE_PARAMETERS}
                )
        return SetParametersResult(successful=True)

    def _refusal(self, name: str, value: Any) -> str:
        """Say why a parameter cannot have a value now; empty if it can."""
        try:
            check_value(name, value)
        except ValueError as error:
            return str(error)
        if PARAMETERS[name].read == 'configure' and self._pipeline is not None:
            return (
                f'{name} is read when the node is configured: clean it up, set it, configure it '
                f'(ros2 lifecycle set {self.get_fully_qualified_name()} deactivate, cleanup, ...)'
            )
        return ''

    def _apply_rule(self, values: dict[str, float]) -> None:
        assert self._pipeline is not None
        recognizer = self._pipeline.recognizer
        if values['abstention_threshold'] < 0.0:
            values['abstention_threshold'] = recognizer.reader.rule.abstention_threshold
        rule = replace(recognizer.reader.rule, **values)
        recognizer.rule = rule  # one assignment: the worker sees the old or the new

    def _on_image(self, message: Any) -> None:
        age_ms = (self.get_clock().now().nanoseconds - stamp_ns(message.header)) * 1e-6
        self.statistics.receive(
            time.monotonic(),
            age_ms=age_ms if abs(age_ms) < LONGEST_AGE_MS else None,
            has_replaced=self._mailbox.put(message),
        )

    def _work(self) -> None:
        while (message := self._mailbox.take()) is not None:
            try:
                with self._pipeline_lock:
                    if self._images is not None:  # else it was taken before the node was paused
                        self._process(message)
            except StampError as error:
                self._complain('stamp', f'image left out: {error}')
            except ImageError as error:
                self._complain('image', f'image refused: {error}')
            except Exception as error:  # one bad image must never end the node
                if not self.context.ok():
                    return
                kind = type(error).__name__
                self._complain(kind, f'image could not be processed: {kind}: {error}')

    def _complain(self, kind: str, text: str) -> None:
        count = self.statistics.fail(time.monotonic(), kind=kind, text=text)
        self.get_logger().error(
            f'{text} ({count} of this kind so far)', throttle_duration_sec=LOG_PERIOD_S
        )

    def _process(self, message: Any) -> None:
        assert self._pipeline is not None and self._outputs is not None
        stamp, clock_ns = message.header.stamp, self.get_clock().now().nanoseconds
        check_stamp(stamp.sec, stamp.nanosec)
        # A camera that stamps nothing is timed by the clock; its header is copied all the same.
        time_ns = stamp_ns(message.header) or clock_ns
        image = None if isinstance(message, LandmarkFrame) else self._convert(message)
        self._order.admit(time_ns, clock_ns=clock_ns)
        if image is None:
            result = self._pipeline.read(
                message.faces,
                time_ns,
                image_size=message.image_size,
                tracked_ids=message.tracked_ids,
            )
        else:
            result = self._pipeline.process(image, time_ns)
        self._outputs.publish(result, message.header, image)
        samples = [face.estimate.mc_samples for face in result.faces if face.estimate]
        self.statistics.process(
            time.monotonic(),
            processing_ms=result.processing_ms,
            faces=len(result.faces),
            samples=max(samples, default=0),
        )

    def _watch_images(self) -> None:
        images = self._images
        if images is None:
            return
        silence_s = self.statistics.silence_s(time.monotonic())
        if silence_s > SILENCE_S:
            self.get_logger().warning(
                f'no image on {images.topic} for {silence_s:.0f} s: '
                f'{images.describe_publishers()}',
                throttle_duration_sec=SILENCE_LOG_PERIOD_S,
            )
            with self._pipeline_lock:
                if self._outputs is not None:
                    self._outputs.clear()

    def _assess(self) -> Health:
        setting = {}
        left_out: Counter[str] = Counter()
        if self._pipeline is not None:
            setting['model'] = self._value('model') or 'the one in the package'
            if image_model := self._value('image_model'):
                setting['image model'] = image_model
            setting['network'] = self._pipeline.recognizer.reader.description
        if self._outputs is not None:
            left_out += self._outputs.left_out
        if self._images is not None:
            setting['images from'] = self._images.topic
            if isinstance(self._images, HriFaces):
                left_out += self._images.counts
        setting |= {f'left out: {why}': str(count) for why, count in left_out.items()}
        return assess(
            state=self._state_machine.current_state[1],
            is_reading=self._images is not None,
            fault=self._fault,
            report=self.statistics.report(time.monotonic()),
            setting=setting,
        )


def spin_once(node: FerNode, executor: Executor) -> None:
    """Wait a moment for a callback of a node and run it; one that fails is reported.

    Not Executor.spin: a signal that arrives just before it waits does not always wake it, and a
    callback that fails would end it.
    """
    try:
        executor.spin_once(timeout_sec=SIGNAL_PERIOD_S)
    except ExternalShutdownException:
        pass
    except Exception as error:
        if node.context.ok():
            node.get_logger().error(f'a callback failed: {type(error).__name__}: {error}')


def _descriptor(parameter: NodeParameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=parameter.description, read_only=parameter.read == 'start'
    )
    if parameter.choices:
        descriptor.additional_constraints = f'one of {", ".join(parameter.choices)}'
    if parameter.span is not None:
        low, high = parameter.span
        if isinstance(parameter.default, int):
            span = IntegerRange(from_value=int(low), to_value=int(high), step=0)
            descriptor.integer_range = [span]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=low, to_value=high, step=0.0)
            ]
    return descriptor
