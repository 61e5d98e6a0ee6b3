# SPDX-License-Identifier: Apache-2.0
"""Start fer_node: ros2 launch fer_perception fer.launch.py image_topic:=/camera/image_raw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

# Arguments that stand for a parameter of the same name, with the type of the parameter. Without
# a value they leave it to the parameters file, or to SetParameter of a launch file around this.
OVERRIDES = {
    'autostart': bool,
    'image_transport': str,
    'recognizer': str,
    'model': str,
    'image_model': str,
    'device': str,
    'hri_mode': str,
    'use_sim_time': bool,
}


def start_node(context: LaunchContext) -> list[Node]:
    """Make the node; raise FileNotFoundError for a parameters file that does not exist."""
    params_file = Path(LaunchConfiguration('params_file').perform(context)).expanduser()
    if not params_file.is_file():
        # launch_ros would only warn, and start the node without its parameters.
        raise FileNotFoundError(f'params_file {params_file} does not exist or is not a file')
    parameters: list[Any] = [str(params_file)]
    overrides = {
        name: ParameterValue(LaunchConfiguration(name), value_type=value_type)
        for name, value_type in OVERRIDES.items()
        if LaunchConfiguration(name).perform(context)
    }
    if overrides:
        parameters.append(overrides)
    return [
        Node(
            package='fer_perception',
            executable='fer_node',
            namespace=LaunchConfiguration('namespace'),
            parameters=parameters,
            remappings=[('image', LaunchConfiguration('image_topic'))],
            ros_arguments=['--log-level', LaunchConfiguration('log_level')],
            output='screen',
            emulate_tty=True,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Describe the launch: all arguments, then the node."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'image_topic',
                default_value='/image_raw',
                description='Topic of the camera, without /compressed; one without a leading / '
                'is in the namespace.',
            ),
            DeclareLaunchArgument(
                'image_transport',
                default_value='',
                choices=['', 'raw', 'compressed'],
                description='Subscribe to image_topic (raw) or to image_topic/compressed; '
                'without a value as in params_file.',
            ),
            DeclareLaunchArgument(
                'params_file',
                default_value=PathJoinSubstitution(
                    [FindPackageShare('fer_perception'), 'config', 'fer.yaml']
                ),
                description='Parameters file of the node.',
            ),
            DeclareLaunchArgument(
                'recognizer',
                default_value='',
                choices=['', 'pst_bln', 'fer_gcn', 'part_ensemble', 'abaw_ensemble', 'fused'],
                description='What reads the faces: their landmarks, their images (needs '
                'image_model) or both; without a value as in params_file.',
            ),
            DeclareLaunchArgument(
                'model',
                default_value='',
                description='Model file of pst_bln (.safetensors); without a value as in '
                'params_file.',
            ),
            DeclareLaunchArgument(
                'image_model',
                default_value='',
                description='Model file of an image recogniser (.safetensors); without a value '
                'as in params_file.',
            ),
            DeclareLaunchArgument(
                'device',
                default_value='',
                choices=['', 'auto', 'cpu', 'cuda'],
                description='Where the network runs, auto takes CUDA if there; without a value '
                'as in params_file.',
            ),
            DeclareLaunchArgument(
                'hri_mode',
                default_value='',
                choices=['', 'off', 'standalone', 'attached'],
                description='ROS4HRI (needs hri_msgs): publish the faces in /humans/faces, or '
                'attach to those that another detector publishes there; without a value as in '
                'params_file.',
            ),
            DeclareLaunchArgument(
                'autostart',
                default_value='',
                choices=['', 'true', 'false', 'True', 'False'],
                description='Let the node configure and activate itself; false leaves it '
                'unconfigured, for ros2 lifecycle set or a lifecycle manager; without a value as '
                'in params_file.',
            ),
            DeclareLaunchArgument(
                'namespace',
                default_value='fer',
                description='Namespace of the node and its topics, such as robot/fer; / for none.',
            ),
            DeclareLaunchArgument(
                'use_sim_time',
                default_value='',
                choices=['', 'true', 'false', 'True', 'False'],
                description='Take the time from /clock, as with ros2 bag play --clock; without '
                'a value as in params_file, else false.',
            ),
            DeclareLaunchArgument(
                'log_level',
                default_value='info',
                choices=['debug', 'info', 'warn', 'error', 'fatal'],
                description='Least severe log messages to show.',
            ),
            OpaqueFunction(function=start_node),
        ]
    )
