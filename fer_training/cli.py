# SPDX-License-Identifier: Apache-2.0
"""fer_train: one command for making data and models, with a subcommand for each step."""

import argparse
import sys
from collections.abc import Sequence

from fer_training.commands import (
    crossval,
    curves,
    edges,
    evaluate,
    explain,
    export,
    extract,
    fit,
    grow,
    noise,
    parameters,
    prepare,
    report,
    synth,
)

# In the order of --help.
COMMANDS = (
    edges,
    extract,
    prepare,
    noise,
    synth,
    fit,
    grow,
    evaluate,
    explain,
    curves,
    crossval,
    report,
    export,
    parameters,
)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='fer_train', description='Make data and models, step by step.'
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return the exit code."""
    options = parse_arguments(arguments)
    try:
        options.run(options)
    except (ImportError, OSError, ValueError) as error:
        print(f'fer_train {options.command}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            '\nfer_train: interrupted; the same command goes on from what is done',
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
