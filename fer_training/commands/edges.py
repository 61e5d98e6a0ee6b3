# SPDX-License-Identifier: Apache-2.0
"""fer_train edges: make the frozen edge lists and the frozen mean face from a face basis."""

import argparse
from pathlib import Path

from fer_perception.graph.head_pose import MEAN_FACE_FILE
from fer_training.commands.arguments import Commands
from fer_training.edge_lists import reference_edges, unique_edges
from fer_training.face_basis import load_face_basis
from fer_training.frozen_rows import write_frozen_rows
from fer_training.mean_face import mean_face_points


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'edges', help='make the frozen edge lists and the frozen mean face from a 3D basis'
    )
    parser.add_argument('--basis', type=Path, required=True,
                         help='3D landmark basis (.npz), or a checkout of ICT-FaceKit (folder)')
    parser.add_argument('--out', type=Path, required=True,
                        help='folder for the lists and mean_face.json')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write both edge lists and the mean face."""
    basis = load_face_basis(options.basis, progress=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_frozen_rows(
        options.out / 'edges_181.json',
        unique_edges(basis),
        name='edges',
        description='Unique edges of the mean face of ICT-FaceKit: Delaunay triangles of the 51 '
        'inner landmarks and every landmark to the nose (33). Made by fer_train edges.',
        per_line=8,
    )
    write_frozen_rows(
        options.out / 'edges_312_reference.json',
        reference_edges(basis),
        name='edges',
        description='Edges as the reference implementation makes them, duplicates and the self-'
        'edge of the nose included; for comparison only. Made by fer_train edges.',
        per_line=8,
    )
    write_frozen_rows(
        options.out / MEAN_FACE_FILE,
        mean_face_points(basis),
        name='points',
        description='Mean face of ICT-FaceKit (MIT, (c) 2020 USC Institute for Creative '
        'Technologies): 68 landmarks in face sizes about the nose (33), x to the right of the '
        'image, y down, z to the camera. Made by fer_train edges.',
        per_line=4,
    )
