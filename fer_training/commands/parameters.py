# SPDX-License-Identifier: Apache-2.0
"""fer_train parameters: print the parameter counts of all networks beside the paper's."""

import argparse
import textwrap

from fer_perception.graph.edges import EDGE_LISTS, load_edge_list
from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_training.commands.arguments import Commands, positive
from fer_training.comparison.building import COMPARISON_NETWORKS, build_comparison_network
from fer_training.comparison.config import PAPER_CHANNELS

GROWN_CHANNELS = (15, 10, 15, 5, 5, 10)  # the paper's network grown on AFEW

# What the paper prints for AFEW (7 classes, 312 edges), and where it comes from.
PAPER_COUNTS = {
    'st_gcn': (
        '131.3k',
        'ST-GCN: the count without learned topology, to the digit. That takes three adjacency '
        'partitions (own node, one edge, two edges away) and the skip inside each layer that '
        'AGCN has. The edge importance weights, 3 x 51 x 51 in each of 7 layers, are left out.',
    ),
    'agcn': (
        '143.7k',
        "AGCN: the count without learned topology, 143,775, cut off instead of rounded: ST-GCN's "
        'and 12,468 for the embeddings of the attention. The matrices B, 3 x 51 x 51 in each of '
        '7 layers, are left out.',
    ),
    'dgnn': (
        '538k',
        'DGNN: the count with learned topology, to the digit: here alone the paper counts what '
        'is learned about the graph, two incidence matrices of 51 x 312 in each of 7 layers. '
        'Its 535.7k for the other data sets is the same with 6 classes and 309 edges (535,720). '
        'Counted as the other networks are, DGNN is 2.4 times the size of ST-BLN, not 4 times.',
    ),
    'st_bln': (
        '132.3k',
        'ST-BLN: the count without U, 132,351, cut off instead of rounded; layers, strides and '
        'three subsets as in the reference implementation.',
    ),
    'pst_bln': (
        '10.8k',
        'PST-BLN, the network grown on AFEW: the count without U, rounded. Its U matrices, '
        '3 x 312 x 312 in each of 6 layers, are 163 times as many parameters as all the rest.',
    ),
}


def add_parser(commands: Commands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        'parameters', help="print the parameter counts of all networks beside the paper's"
    )
    parser.add_argument('--classes', type=positive, default=7,
                         help='number of classes (%(default)s, as in AFEW)')
    parser.add_argument('--edge-list', choices=EDGE_LISTS, default='edges_312_reference',
                         help='edges of the face graph (%(default)s, as in the paper)')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print a table of the counts and the reasons of what differs from the paper's."""
    counts = parameter_counts(classes=options.classes, edge_list=options.edge_list)
    edges = len(load_edge_list(options.edge_list))
    print(f'Parameters for {options.classes} classes and {edges} edges; the paper: 7 and 312.\n')
    print(f'{"network":<9}{"without topology":>18}{"with":>12}{"paper":>9}')
    for name, (without, with_topology) in counts.items():
        print(f'{name:<9}{without:>18,}{with_topology:>12,}{PAPER_COUNTS[name][0]:>9}')
    print('\nTopology is what is learned about the graph: U, B, edge importance, incidence.\n')
    for _, reason in PAPER_COUNTS.values():
        print(textwrap.fill(reason, width=79, initial_indent='- ', subsequent_indent='  '))


def parameter_counts(*, classes: int, edge_list: str) -> dict[str, tuple[int, int]]:
    """Count the parameters of each network without learned topology and with it, by name."""
    counts = {
        name: build_comparison_network(
            name, classes=classes, edge_list=edge_list, quiet=True
        ).parameter_counts()
        for name in COMPARISON_NETWORKS
    }
    edges = len(load_edge_list(edge_list))
    for name, channels in (('st_bln', PAPER_CHANNELS), ('pst_bln', GROWN_CHANNELS)):
        config = PstBlnConfig.reference(channels=channels, classes=classes, edges=edges)
        counts[name] = PstBln(config, quiet=True).parameter_counts()
    return counts
