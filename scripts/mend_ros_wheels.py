# SPDX-License-Identifier: Apache-2.0
"""
Rewrite include folders in the CMake files of ROS 2 wheels to those of this Python.

The wheels' exported CMake targets name the Python and NumPy include folders of the machine that
built them, and CMake refuses targets whose include folders do not exist. Run this with the Python
of the environment that the wheels are installed in, after each installation:

    python scripts/mend_ros_wheels.py

Running it again changes nothing.
"""

import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

BUILD_PYTHON_INCLUDE = re.compile(r'/opt/(?:python|_internal)/[^;"<>\s]*/include/python3\.\d+')
BUILD_NUMPY_INCLUDE = re.compile(r'/opt/(?:python|_internal)/[^;"<>\s]*/numpy/_?core/include')


def mend_text(text: str, *, python_include: str, numpy_include: str) -> str:
    """Return the text of a CMake file with the builder's include folders replaced."""
    # A function as replacement, because a folder may hold what re takes for an escape.
    text = BUILD_PYTHON_INCLUDE.sub(lambda _: python_include, text)
    return BUILD_NUMPY_INCLUDE.sub(lambda _: numpy_include, text)


def mend_folder(folder: Path, *, python_include: str, numpy_include: str) -> int:
    """Mend every CMake file below a folder; return how many were changed."""
    changed = 0
    for path in sorted(folder.rglob('*.cmake')):
        text = path.read_text(encoding='utf-8')
        mended = mend_text(text, python_include=python_include, numpy_include=numpy_include)
        if mended != text:
            path.write_text(mended, encoding='utf-8')
            changed += 1
    return changed


def main() -> int:
    """Mend the CMake files of the running Python's environment; return the exit code."""
    share = Path(sys.prefix) / 'share'
    python_include = Path(sysconfig.get_path('include'))
    if not (python_include / 'Python.h').is_file():
        print(
            f'error: {python_include}/Python.h is missing: install the headers of this Python '
            '(on Debian and Ubuntu the package python3-dev, or python3.11-dev and the like).',
            file=sys.stderr,
        )
        return 1
    changed = mend_folder(
        share, python_include=str(python_include), numpy_include=np.get_include())
    print(f'mended {changed} CMake files under {share}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
