# SPDX-License-Identifier: Apache-2.0
"""fer_evaluate: scores what is recognised in labelled recordings, offline or by a running node."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from fer_perception.assets import AssetError
from fer_perception.evaluation.played_images import NodeError
from fer_perception.evaluation.untrusted_text import one_line
from fer_perception.pipeline_arguments import ARGUMENTS, add_pipeline_arguments

ALL_WELL, NOT_EVALUATED, THRESHOLD_MISSED, INTERRUPTED = 0, 1, 3, 130
EXIT_CODES = f"""exit codes:
  {ALL_WELL}    everything was evaluated and every threshold kept
  {NOT_EVALUATED}    something could not be evaluated: a recording, its labels, the model, no node
  2    the command line is wrong
  {THRESHOLD_MISSED}    a threshold is missed
  {INTERRUPTED}  interrupted
"""
# What an option is where it is not given: of evaluation offline, and of that with --live.
OFFLINE_DEFAULTS: dict[str, Any] = {
    'jobs': os.cpu_count() or 1,
    'seed': 1,
}
LIVE_DEFAULTS: dict[str, Any] = {
    'image_topic': '/image_raw',
    'namespace': '/fer',
    'compressed': False,
    'wait': 10.0,
}
# Of packages that may be missing, what brings them.
BROUGHT_BY = {
    'matplotlib': "install the extra [evaluation]: pip install 'fer_perception[evaluation]'",
    'sklearn': "install the extra [evaluation]: pip install 'fer_perception[evaluation]'",
    'fer_msgs': 'build fer_msgs and source the environment',
    'rclpy': 'source the ROS environment',
    'std_srvs': 'source the ROS environment',
}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='fer_evaluate',
        description='Score what is recognised in labelled recordings. Offline, every image is '
        'read by the same pipeline as in the node, and the same recordings give the same numbers; '
        'with --live they are played to a running node, and what it publishes is scored.',
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('recording', type=Path, metavar='BAG', help='rosbag2 (sqlite3 or MCAP), '
                        'video or image folder; or a folder of bags and videos')
    parser.add_argument('--labels', type=Path, metavar='CSV', help='start_s,end_s,label[,face] '
                        'in seconds since the first image, or a folder of such files (BAG.csv '
                        'beside each bag, or labels.csv in it)')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='for evaluation.json, '
                        'evaluation.md and report.html (none is written)')
    parser.add_argument('--thresholds', type=Path, metavar='JSON', help='metric names with '
                        '{"min": x} or {"max": x}; one that is missed sets the exit code')
    parser.add_argument('--topic', help='image topic of a bag that has several')
    offline = parser.add_argument_group('offline', argument_default=argparse.SUPPRESS)
    offline.add_argument('--jobs', type=int, help='recordings of a folder read at once (as many '
                         'as there are processors)')
    add_pipeline_arguments(offline)
    offline.add_argument('--seed', type=int, help='of the dropout masks (1)')
    live = parser.add_argument_group('live', argument_default=argparse.SUPPRESS)
    live.add_argument('--live', action='store_true', default=False, help='play to a running node')
    live.add_argument('--image-topic', metavar='TOPIC', help='where the node reads images '
                      '(/image_raw)')
    live.add_argument('--namespace', help='of the node: it publishes NAMESPACE/expressions (/fer)')
    live.add_argument('--compressed', action='store_true', help='send JPEG on TOPIC/compressed')
    live.add_argument('--wait', type=float, metavar='SECONDS', help='for the node (10)')
    options = parser.parse_args(arguments)
    foreign = [*OFFLINE_DEFAULTS, *ARGUMENTS] if options.live else [*LIVE_DEFAULTS]
    for name in sorted(set(foreign) & vars(options).keys()):
        kind = 'offline' if options.live else 'with --live'
        parser.error(f'--{name.replace("_", "-")} is for evaluation {kind} only')
    for name, value in (OFFLINE_DEFAULTS | LIVE_DEFAULTS).items():
        setattr(options, name, getattr(options, name, value))
    if options.jobs < 1:
        parser.error(f'--jobs must be 1 or more, not {options.jobs}')
    if not 0 <= options.wait < float('inf'):
        parser.error(f'--wait must be 0 or more seconds, not {options.wait}')
    return options


def main(arguments: list[str] | None = None) -> int:
    """Evaluate recordings; return the exit code."""
    options = parse_arguments(arguments)
    try:
        from fer_perception.evaluation.run import run  # needs packages that a robot does not

        evaluation = run(options)
    except ImportError as error:
        remedy = BROUGHT_BY.get((error.name or '').partition('.')[0])
        print(f'fer_evaluate: {error}' + (f': {remedy}' if remedy else ''), file=sys.stderr)
        return NOT_EVALUATED
    except (AssetError, NodeError, OSError, ValueError) as error:
        print(f'fer_evaluate: {one_line(str(error))}', file=sys.stderr)
        return NOT_EVALUATED
    except KeyboardInterrupt:
        return INTERRUPTED
    if evaluation.failures:
        return NOT_EVALUATED
    if not all(item.is_passed for item in evaluation.thresholds):
        return THRESHOLD_MISSED
    return ALL_WELL


if __name__ == '__main__':
    sys.exit(main())
