# SPDX-License-Identifier: Apache-2.0
"""Types of command line arguments that several subcommands share."""

import argparse
from pathlib import Path
from typing import TypeAlias

from fer_training.track_sources import TrackFile

# What add_subparsers returns; argparse gives it no public name.
Commands: TypeAlias = 'argparse._SubParsersAction[argparse.ArgumentParser]'


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, not {value}')
    return value


def positive_number(text: str) -> float:
    """Read a finite number above 0."""
    value = float(text)
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'must be above 0 and finite, not {text}')
    return value


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'must be from 0 to 1, not {text}')
    return value


def track_file(text: str) -> TrackFile:
    """Read FILE or FILE@SHARE."""
    name, _, share = text.rpartition('@')
    try:
        return TrackFile(path=Path(name), share=positive_number(share)) if name else TrackFile(
            path=Path(text)
        )
    except ValueError:  # an @ in the file's name
        return TrackFile(path=Path(text))
