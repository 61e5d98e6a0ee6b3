# SPDX-License-Identifier: Apache-2.0
"""fer_train report: tables and pictures of cross-validations, as Markdown."""

import argparse
from pathlib import Path

from fer_training.commands.arguments import Commands
from fer_training.report import write_report
from fer_training.results import read_crossval_result


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'report', help='write tables and pictures of cross-validations as Markdown'
    )
    parser.add_argument('results', type=Path, nargs='+', metavar='RESULT.json',
                        help='result files of crossval, networks in the order of the table')
    parser.add_argument('--out', type=Path, required=True,
                        help='Markdown file to write; the pictures are put beside it')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the report."""
    results = [read_crossval_result(path) for path in options.results]
    written = write_report(options.out, results)
    print(f'{len(results)} results in {options.out}, {len(written) - 1} pictures beside it')
