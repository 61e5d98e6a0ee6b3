# SPDX-License-Identifier: Apache-2.0
"""A compiled library is used if it is of the same sources, else left out with a reason."""

import logging
import shutil
import sysconfig
from pathlib import Path

import pytest

from fer_perception.compiled_library import open_compiled_library
from fer_perception.inference import row_product
from fer_perception.inference.row_product import native_is_available

needs_library = pytest.mark.skipif(
    not native_is_available(), reason='the compiled library of row_product is not there'
)


@needs_library
def test_the_library_of_the_same_sources_is_opened() -> None:
    found = open_compiled_library(
        Path(row_product.__file__), interface=row_product.INTERFACE, instead='torch'
    )
    assert found is not None and found.row_product_interface() == row_product.INTERFACE


@needs_library
def test_a_library_of_other_sources_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert open_compiled_library(
            Path(row_product.__file__), interface=999, instead='torch'
        ) is None
    assert '999' in caplog.text and 'torch is used instead' in caplog.text


@needs_library
def test_a_library_of_another_module_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    suffix = sysconfig.get_config_var('EXT_SUFFIX')
    own = Path(row_product.__file__).with_name(f'_row_product{suffix}')
    shutil.copy(own, tmp_path / f'_other{suffix}')
    with caplog.at_level(logging.WARNING):
        assert open_compiled_library(tmp_path / 'other.py', interface=3, instead='torch') is None
    assert '_other' in caplog.text and 'cannot be used' in caplog.text


def test_no_library_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert open_compiled_library(tmp_path / 'other.py', interface=3, instead='torch') is None
    assert not caplog.text
