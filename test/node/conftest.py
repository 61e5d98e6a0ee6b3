# SPDX-License-Identifier: Apache-2.0
"""Nodes to test over real ROS traffic, in processes of their own or in threads of this one."""

from __future__ import annotations

import gc
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fer_perception.sources import open_source

if TYPE_CHECKING:  # the tests here skip without ROS before they take any of these fixtures
    from node_driver import Listener


@pytest.fixture(scope='module', autouse=True)
def ros(landmark_model_path: Path) -> Iterator[None]:
    """Bring ROS up once; the landmark model, without which the tests skip, goes by environment."""
    import rclpy

    os.environ['FER_LANDMARK_MODEL'] = str(landmark_model_path)
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def listener() -> Iterator[Listener]:
    from node_driver import Listener

    listening = Listener()
    yield listening
    listening.close()


@pytest.fixture
def running_node() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start nodes as processes of their own; end what is left at the end of the test."""
    from node_driver import NODE

    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, command: list[str] = NODE) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def node_in_process() -> Iterator[Callable[..., Any]]:
    """Make nodes in this process, each spun by a thread of its own."""
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    from fer_perception.fer_node import FerNode, spin_once

    ends: list[Callable[[], None]] = []

    def start(**parameters: Any) -> FerNode:
        overrides = {
            'deterministic_ids': True,
            'seed': 1,
            'mc_samples': 5,
            'image_reliability': 'reliable',
            **parameters,
        }
        arguments = ['--ros-args']
        for name, value in overrides.items():
            text = str(value).lower() if isinstance(value, bool) else value
            arguments += ['-p', f'{name}:={text}']
        context = Context()
        context.init(args=arguments)
        node = FerNode(context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        node.start()
        is_over = threading.Event()

        def spin() -> None:
            while not is_over.is_set():
                spin_once(node, executor)

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()

        def end() -> None:
            is_over.set()
            thread.join()
            node.close()
            executor.shutdown()
            node.destroy_node()  # while the others can be told that it is gone
            context.try_shutdown()

        ends.append(end)
        return node

    yield start
    while ends:
        ends.pop()()
    # Else the services of its life cycle would stay in the graph, as those of the next node.
    gc.collect()


@pytest.fixture(scope='module')
def face_image(sample_clip: Path) -> np.ndarray:
    with open_source(str(sample_clip)) as source:
        return next(iter(source)).image
