# SPDX-License-Identifier: Apache-2.0
"""Settings of Fast DDS, the usual middleware of ROS 2, that raw images need to arrive soon."""

import os
from pathlib import Path

PROFILES = Path(__file__).with_name('fast_dds.xml')
# Read by Fast DDS 2 when ROS is initialised; other middlewares do not know it.
PROFILES_VARIABLE = 'FASTRTPS_DEFAULT_PROFILES_FILE'
# Where users name profiles of their own, for Fast DDS 2 and 3.
USER_VARIABLES = (PROFILES_VARIABLE, 'FASTDDS_DEFAULT_PROFILES_FILE')


def use_prompt_resends() -> None:
    """Let this process ask at once for parts of images that were lost, and send them at once.

    To be called before rclpy.init. Does nothing where the user has named profiles of their own.
    """
    if not any(os.environ.get(name) for name in USER_VARIABLES):
        os.environ[PROFILES_VARIABLE] = str(PROFILES)
