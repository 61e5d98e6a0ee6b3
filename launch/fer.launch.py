# SPDX-License-Identifier: Apache-2.0
"""Start fer_node: ros2 launch fer_perception fer.launch.py image_topic:=/camera/image_raw."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def start_node(context: LaunchContext) -> list[Node]:
    """Make the node; an argument that is left empty leaves the parameters file in force."""
    overrides = {
        name: ParameterValue(LaunchConfiguration(name), value_type=str)
        for name in ('model', 'device')
        if LaunchConfiguration(name).perform(context)
    }
    use_sim_time = ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool)
    return [
        Node(
            package='fer_perception',
            executable='fer_node',
            namespace=LaunchConfiguration('namespace'),
            parameters=[
                LaunchConfiguration('params_file'),
                {'use_sim_time': use_sim_time, **overrides},
            ],
            remappings=[('image', LaunchConfiguration('image_topic'))],
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
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
                description='Camera topic, raw; its /compressed is used with the parameter '
                'image_transport set to compressed.',
            ),
            DeclareLaunchArgument(
                'params_file',
                default_value=PathJoinSubstitution(
                    [FindPackageShare('fer_perception'), 'config', 'fer.yaml']
                ),
                description='Parameters file of the node.',
            ),
            DeclareLaunchArgument(
                'model',
                default_value='',
                description='Model file (.safetensors); empty: as in the parameters file.',
            ),
            DeclareLaunchArgument(
                'device',
                default_value='',
                choices=['', 'auto', 'cpu', 'cuda'],
                description='Where the network runs; empty: as in the parameters file.',
            ),
            DeclareLaunchArgument(
                'namespace', default_value='fer', description='Namespace of the node.'
            ),
            DeclareLaunchArgument(
                'use_sim_time',
                default_value='false',
                choices=['true', 'false'],
                description='Take the time from /clock, as with ros2 bag play --clock.',
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
