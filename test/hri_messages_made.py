# SPDX-License-Identifier: Apache-2.0
"""The messages of hri_msgs that the package speaks, built where hri_msgs is not installed.

The field names and types are those of hri_msgs 2.0 to 2.3 for ROS 2 (github.com/ros4hri/hri_msgs,
PAL Robotics, BSD and later Apache-2.0), whose constants and comments are left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_DEFINITIONS = {
    'Expression': """
        std_msgs/Header header
        string expression
        float32 valence
        float32 arousal
        float32 confidence
    """,
    'FacialLandmarks': """
        std_msgs/Header header
        NormalizedPointOfInterest2D[70] landmarks
        uint32 height
        uint32 width
    """,
    'IdsList': """
        std_msgs/Header header
        string[] ids
    """,
    'NormalizedPointOfInterest2D': """
        float32 x
        float32 y
        float32 c
    """,
    'NormalizedRegionOfInterest2D': """
        std_msgs/Header header
        float32 xmin
        float32 ymin
        float32 xmax
        float32 ymax
        float32 c
    """,
}

CMAKE_LISTS = f"""
cmake_minimum_required(VERSION 3.20)
project(hri_msgs LANGUAGES C CXX)
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(std_msgs REQUIRED)
rosidl_generate_interfaces(${{PROJECT_NAME}}
  {' '.join(f'"msg/{name}.msg"' for name in _DEFINITIONS)}
  DEPENDENCIES std_msgs
)
ament_package()
"""

PACKAGE_XML = """<?xml version="1.0"?>
<package format="3">
  <name>hri_msgs</name>
  <version>2.0.0</version>
  <description>The part of hri_msgs that the tests need.</description>
  <maintainer email="maintainers@fer-perception.org">fer_perception maintainers</maintainer>
  <license>BSD</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>std_msgs</depend>
  <exec_depend>rosidl_default_runtime</exec_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
</package>
"""

LIMIT_S = 480


def definitions() -> dict[str, str]:
    """Return the text of every message's definition by its name."""
    return {
        kind: '\n'.join(line.strip() for line in text.strip().splitlines()) + '\n'
        for kind, text in _DEFINITIONS.items()
    }


def environment_of(prefix: Path) -> dict[str, str]:
    """Return this process's environment with the built messages in front."""
    environment = dict(os.environ)
    added = {
        'AMENT_PREFIX_PATH': [prefix],
        'LD_LIBRARY_PATH': [prefix / 'lib'],
        'PYTHONPATH': [path.parents[1] for path in prefix.glob('**/hri_msgs/__init__.py')],
    }
    for name, paths in added.items():
        parts = [*map(str, paths), environment.get(name, '')]
        environment[name] = os.pathsep.join(part for part in parts if part)
    return environment


def missing_tools() -> str:
    """Name the programs that a build needs and that are not here; empty if all are."""
    return ', '.join(tool for tool in ('cmake', 'g++', 'make') if shutil.which(tool) is None)


def build_key() -> str:
    """Return a key that changes with what the build is made from and made for."""
    parts = [CMAKE_LISTS, PACKAGE_XML, str(definitions()), sys.version, sys.prefix]
    parts.append(os.environ.get('ROS_DISTRO', ''))
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]


def build(folder: Path) -> Path:
    """Build the messages into a folder, unless it holds them already; return their prefix.

    Raises RuntimeError with one line that says what went wrong.
    """
    prefix = folder / build_key()
    if prefix.is_dir():
        return prefix
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source = Path(name) / 'hri_msgs'
        (source / 'msg').mkdir(parents=True)
        (source / 'CMakeLists.txt').write_text(CMAKE_LISTS, 'utf-8')
        (source / 'package.xml').write_text(PACKAGE_XML, 'utf-8')
        for kind, text in definitions().items():
            (source / 'msg' / f'{kind}.msg').write_text(text, 'utf-8')
        made, built = Path(name) / 'build', Path(name) / 'prefix'
        configure = ['cmake', '-S', str(source), '-B', str(made)]
        configure += [f'-DCMAKE_INSTALL_PREFIX={built}', f'-DPython3_EXECUTABLE={sys.executable}']
        configure += ['-DBUILD_TESTING=OFF', '-DCMAKE_CXX_FLAGS=-O0', '-DCMAKE_C_FLAGS=-O0']
        for command in (configure, ['cmake', '--build', str(made), '--target', 'install']):
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            if done.returncode != 0:
                raise RuntimeError(f'hri_msgs could not be built: {_reason(done.stdout)}')
        try:
            built.rename(prefix)
        except OSError:  # another test run was faster
            if not prefix.is_dir():
                raise
    return prefix


def _reason(output: str) -> str:
    """Return the line that says best why a command failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if 'error' in line.lower()]
    return (errors or lines or ['it said nothing'])[0][:200]
