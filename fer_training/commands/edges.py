# SPDX-License-Identifier: Apache-2.0
"""fer_train edges: make the frozen edge lists from a mean face."""

import argparse
from pathlib import Path

from fer_training.commands.arguments import Commands
from fer_training.edge_lists import reference_edges, unique_edges, write_edge_list
from fer_training.face_basis import load_face_basis


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser('edges', help='make the frozen edge lists from a mean face')
    parser.add_argument('--basis', type=Path, required=True,
                         help='3D landmark basis (.npz), or a checkout of ICT-FaceKit (folder)')
    parser.add_argument('--out', type=Path, required=True, help='folder for the lists')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write both edge lists."""
    basis = load_face_basis(options.basis, progress=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_edge_list(
        options.out / 'edges_181.json',
        unique_edges(basis),
        description='Unique edges of the mean face of ICT-FaceKit: Delaunay triangles of the 51 '
        'inner landmarks and every landmark to the nose (33). Made by fer_train edges.',
    )
    write_edge_list(
        options.out / 'edges_312_reference.json',
        reference_edges(basis),
        description='Edges as the reference implementation makes them, duplicates and the self-'
        'edge of the nose included; for comparison only. Made by fer_train edges.',
    )
