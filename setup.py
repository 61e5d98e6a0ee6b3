# SPDX-License-Identifier: Apache-2.0
"""Build and install fer_perception, by pip or as an ament_python package by colcon."""

from __future__ import annotations

import os
from glob import glob

from setuptools import Extension, find_packages, setup

PACKAGE = 'fer_perception'


def files_in(folder: str) -> list[str]:
    """Return the files directly in a folder of the checkout."""
    return sorted(path for path in glob(f'{folder}/*') if os.path.isfile(path))


setup(
    name=PACKAGE,
    version='0.1.0',
    description='Facial expressions from camera images, with an honest uncertainty, for ROS 2.',
    maintainer='fer_perception maintainers',
    maintainer_email='maintainers@fer-perception.org',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=[f'{PACKAGE}*', 'fer_training*']),
    package_data={
        '': ['*.safetensors', '*.json', '*.yaml', '*.xml', '*.html', '*.css', '*.js', 'py.typed'],
    },
    # Not a Python module: row_product.py loads it. Optional, as it is but faster than torch. No
    # flags of this machine's processor: the library itself chooses among kernels when it runs.
    ext_modules=[
        Extension(
            f'{PACKAGE}.inference._row_product',
            sources=[f'{PACKAGE}/inference/row_product.cpp'],
            depends=[
                f'{PACKAGE}/inference/{name}.h'
                for name in ('row_product_kernel', 'row_product_amx', 'layer_step_amx')
            ],
            language='c++',
            extra_compile_args=[
                *['-std=c++17', '-O3', '-g0', '-ffp-contract=fast', '-pthread'],
                *['-Wno-psabi', '-Wno-maybe-uninitialized'],  # vectors, and GCC 12's own headers
            ],
            extra_link_args=['-pthread'],
            optional=True,
        ),
        # The same for shape_predictor.py, where dlib computes the same. Sums are rounded as
        # dlib's are: no contraction.
        Extension(
            f'{PACKAGE}.faces._shape_predictor',
            sources=[f'{PACKAGE}/faces/shape_predictor.cpp'],
            language='c++',
            extra_compile_args=['-std=c++17', '-O3', '-g0', '-ffp-contract=off', '-pthread'],
            extra_link_args=['-pthread'],
            optional=True,
        ),
    ],
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        (f'share/{PACKAGE}/launch', files_in('launch')),
        (f'share/{PACKAGE}/config', files_in('config')),
    ],
    zip_safe=False,
    # Lower bounds are versions that the tests passed with. ROS itself is not here: it comes from
    # the distribution, or from scripts/requirements-ros.txt.
    install_requires=[
        # Imports as dlib. A machine with its own build of dlib (say with CUDA, or on a processor
        # without a wheel) needs no dlib-bin: install with `pip install --no-deps`, as colcon does.
        'dlib-bin>=20.0.1',
        'numpy>=1.26',
        'opencv-python-headless>=4.9',
        'rosbags>=0.11.7',
        'safetensors>=0.5',
        'scipy>=1.12',
        'torch>=2.13',
        'tqdm>=4.66',
    ],
    extras_require={
        'test': ['hypothesis>=6.100', 'pytest>=8.0'],  # the name by which colcon finds pytest
        'plots': ['matplotlib>=3.8'],
        'evaluation': ['matplotlib>=3.8', 'scikit-learn>=1.7'],  # fer_evaluate
        'onnx': ['onnxruntime>=1.20'],
        'view': ['aiohttp>=3.9'],  # fer_view
        'training': [
            'matplotlib>=3.8',
            'onnx>=1.17',
            'onnxruntime>=1.20',
            'scikit-learn>=1.7',
            'tensorboard>=2.18',
        ],
        'ray': ['ray>=2.60'],  # fer_train crossval --engine ray
        'dev': [
            'aiohttp>=3.9',
            'hypothesis>=6.100',
            'mypy>=2.4',
            'pytest>=8.0',
            'ruff>=0.17',
            'selenium>=4.51',  # the page of fer_view in a browser
        ],
    },
    entry_points={
        'console_scripts': [
            f'fer_node = {PACKAGE}.node:main',
            f'fer_replay = {PACKAGE}.replay:main',
            f'fer_publish = {PACKAGE}.publish:main',
            f'fer_view = {PACKAGE}.view.cli:main',
            f'fer_evaluate = {PACKAGE}.evaluate:main',
            f'fer_example_greeter = {PACKAGE}.examples.greeter:main',
            f'fer_assets = {PACKAGE}.assets:main',
            'fer_train = fer_training.cli:main',
        ],
    },
)
