# SPDX-License-Identifier: Apache-2.0
"""The optional compiled library of a module, found beside it, if it is of the same sources."""

import ctypes
import logging
import sysconfig
from pathlib import Path

LOGGER = logging.getLogger(__name__)


def open_compiled_library(module: Path, *, interface: int, instead: str) -> ctypes.CDLL | None:
    """Load the compiled library of a module; None if there is none that can be used.

    module: its file, such as `row_product.py`, whose library `_row_product.*` has a function
    `row_product_interface` that returns the version of its functions. interface: the version that
    the module calls. instead: what is used without, for the warning that a library which is there
    cannot be used.
    """
    path = module.with_name(f'_{module.stem}{sysconfig.get_config_var("EXT_SUFFIX")}')
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        found = library[f'{module.stem}_interface']()
    except (OSError, AttributeError) as error:
        LOGGER.warning('%s cannot be used, %s is used instead: %s', path, instead, error)
        return None
    if found != interface:
        LOGGER.warning(
            '%s was compiled from other sources (interface %s, not %s), %s is used instead: '
            'install this package again',
            path,
            found,
            interface,
            instead,
        )
        return None
    return library
