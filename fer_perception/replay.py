# SPDX-License-Identifier: Apache-2.0
"""fer_replay: reads every frame of a video, image folder or rosbag, without ROS running."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from fer_perception.assets import AssetError
from fer_perception.drawing import draw_result
from fer_perception.pipeline import Pipeline
from fer_perception.pipeline_arguments import add_pipeline_arguments, pipeline_config
from fer_perception.recording import BagRecorder, RecordingError
from fer_perception.records import ExpressionRecord, expression_records
from fer_perception.sources import FALLBACK_FRAME_RATE, SourceError, open_source
from fer_perception.timeline import draw_timeline
from fer_perception.video_file import VideoFile


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='fer_replay',
        description='Read every frame of a source through the same pipeline as the node and '
        'write one JSON line for each face and update. The same source and seed give the same '
        'lines, but for latency_ms.',
    )
    parser.add_argument('source', help='video, image folder, or rosbag2 (sqlite3 or MCAP)')
    parser.add_argument('--out', type=Path, metavar='JSONL', help='file for the lines (stdout)')
    parser.add_argument('--record', type=Path, metavar='BAG', help='write images and results to '
                        'a new MCAP bag')
    parser.add_argument('--annotated', type=Path, metavar='MP4', help='write an annotated video')
    parser.add_argument('--timeline', type=Path, metavar='PNG', help='draw the probabilities '
                        'over time (needs the extra [plots])')
    parser.add_argument('--topic', help='image topic of a bag that has several')
    add_pipeline_arguments(parser)
    parser.add_argument('--seed', type=int, default=1, help='of the dropout masks (%(default)s)')
    return parser.parse_args(arguments)


def replay(options: argparse.Namespace) -> int:
    """Read the source; return the number of records written."""
    pipeline = Pipeline(pipeline_config(options, deterministic_ids=True, seed=options.seed))
    timeline: list[ExpressionRecord] = []
    written = 0
    with ExitStack() as stack:
        source = stack.enter_context(open_source(options.source, topic=options.topic))
        out: TextIO = sys.stdout
        if options.out:
            out = stack.enter_context(options.out.open('w', encoding='utf-8'))
        recorder = stack.enter_context(BagRecorder(options.record)) if options.record else None
        rate = source.frame_rate or FALLBACK_FRAME_RATE
        video = None
        if options.annotated:
            video = stack.enter_context(VideoFile(options.annotated, frame_rate=rate))
        bar = stack.enter_context(
            tqdm(source, total=source.frame_count, unit='frame', disable=not sys.stderr.isatty())
        )
        for frame in bar:
            result = pipeline.process(frame.image, frame.stamp_ns)
            for record in expression_records(
                result, frame_id=frame.frame_id, updated_only=True
            ):
                print(record.to_json(), file=out)
                written += 1
                if options.timeline:
                    timeline.append(record)
            if recorder:
                recorder.record(frame, result)
            if video:
                video.write(draw_result(frame.image, result))
        if source.skipped:
            print(f'fer_replay: {source.skipped} damaged frames skipped', file=sys.stderr)
    if options.timeline and timeline:
        draw_timeline(timeline, options.timeline, title=source.name)
    return written


def main(arguments: list[str] | None = None) -> int:
    """Replay a source; return the exit code."""
    options = parse_arguments(arguments)
    try:
        written = replay(options)
    except OSError as error:
        # A file that could not be opened is named in the error; one that could not be written not.
        hint = '' if error.filename or not error.errno else ': what was written is incomplete'
        print(f'fer_replay: {error}{hint}', file=sys.stderr)
        return 1
    except (AssetError, ImportError, RecordingError, SourceError, ValueError) as error:
        print(f'fer_replay: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not written:
        print('fer_replay: no face was found in any frame', file=sys.stderr)
    return 0


if __name__ == '__main__':
    sys.exit(main())
