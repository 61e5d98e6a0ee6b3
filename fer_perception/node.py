# SPDX-License-Identifier: Apache-2.0
"""fer_node: subscribes to a camera, publishes every face's expression with its uncertainty."""

import argparse
import os
import signal
import sys
from typing import Any


class EndRequest(BaseException):
    """
    Raised by SIGINT and SIGTERM.

    Not KeyboardInterrupt: where it meets code that is compiled from a string, Python remembers
    it and ends the process by SIGINT in the end, although it was caught.
    """


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop; return the exit code."""
    # What takes time to import is imported once Ctrl-C is taken care of: nothing has begun yet
    # that would have to be ended in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    import rclpy
    from rclpy.exceptions import ParameterException
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.utilities import remove_ros_args

    from fer_perception.fast_dds import use_prompt_resends
    from fer_perception.fer_node import FerNode, spin_once

    argparse.ArgumentParser(
        prog='fer_node',
        description='Read the expressions of all faces that a camera sees.',
        epilog='Parameters: --ros-args -p NAME:=VALUE; camera: --ros-args -r image:=TOPIC',
    ).parse_args(remove_ros_args(sys.argv if args is None else args)[1:])
    use_prompt_resends()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _request_end)
    node = None
    try:
        try:
            rclpy.init(args=args)
            node = FerNode()
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            node.start()
            while rclpy.ok():
                spin_once(node, executor)
        except (ParameterException, RuntimeError) as error:
            # A ROS argument or a parameters file that cannot be read, a value out of its range.
            # From within ROS also if a signal has just shut it down.
            if node is None:
                print(f'fer_node: {error}', file=sys.stderr)
                return 1
            if rclpy.ok():
                raise
    except EndRequest:  # at any moment, also while such an error is told
        pass
    finally:
        # Under ros2 launch Ctrl-C arrives twice: the second must not break off what follows.
        _ignore_signals()
        if node is not None:
            node.close()
            # Not by the logger: the context may be shut down already.
            print(f'fer_node: ended; {node.statistics.summary()}', file=sys.stderr)
            node.destroy_node()
        rclpy.try_shutdown()
        _ignore_signals()  # again: ROS has put back the former handlers
    return 0


def _request_end(*_: Any) -> None:
    raise EndRequest


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == '__main__':
    sys.exit(main())
