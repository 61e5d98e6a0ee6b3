# SPDX-License-Identifier: Apache-2.0
"""Measure the pipeline against the package fer on the sample clip, one after the other.

    python3.11 -m venv fer_environment
    fer_environment/bin/pip install fer==25.10.3 'setuptools<81'
    python benchmarks/against_fer.py --fer-python fer_environment/bin/python --out fer.json

fer 25.10.3 (MIT) is what a user would pick instead: its network comes with it, and so do the
weights of the MTCNN that it can search faces with. It asks for older versions of NumPy, OpenCV and
PyTorch than this package, and for TensorFlow: it runs in an interpreter of its own, gets the
frames by a pipe before the clock starts, and reads the clock itself. Both sides keep the settings
that they come with. The ways take turns: each plays the whole clip without a pause, so that a
search that is only due now and then counts with its share in the mean. With other work on the
cores, MTCNN's threads wait for each other: OMP_NUM_THREADS=1 keeps that out. Reported for each:
wall clock and processor time (of all threads) for a frame; how often its first face is called
neutral before the smile, happy during it, and neutral in the last frame, where the face has
relaxed; how many frames after the first of the smile it first says so; and what it says of its
own uncertainty.
"""

import argparse
import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from clips import sample_frames
from tqdm import tqdm

from fer_perception.assets import AssetError
from fer_perception.faces import FaceTrackerConfig
from fer_perception.pipeline import Pipeline, PipelineConfig
from fer_perception.uncertainty.estimate import ExpressionState

FRAME_PERIOD_NS = 33_333_333
PAUSE_S = 0.5  # before each turn: threads of the one before may wait for work at full speed
# In the sample clip the corners of the mouth begin to move in frame 17 and come down in 69; 0.4 s
# after its start the smile is at its full.
SMILE_STARTS = 17
NEUTRAL_FRAMES = range(SMILE_STARTS)
SMILE_FRAMES = range(29, 69)
RELAXED_FRAME = 71  # the last one
SAME_LABELS = {'happiness': 'happy'}  # ours, and what fer calls it

FER = 'fer, its default'
FER_MTCNN = 'fer, MTCNN'
OURS = 'fer_perception'
OURS_EVERY_FRAME = 'fer_perception, search on every frame'
UNCERTAINTY = {
    FER: 'none: seven softmax scores, rounded to 0.01, of one image',
    FER_MTCNN: 'none: seven softmax scores, rounded to 0.01, of one image',
    OURS: 'standard deviation of each probability, mutual information, and a state',
    OURS_EVERY_FRAME: 'standard deviation of each probability, mutual information, and a state',
}
INSTALL = (
    "python3.11 -m venv fer_environment && fer_environment/bin/pip install fer==25.10.3 "
    "'setuptools<81' (7 GB), then --fer-python fer_environment/bin/python"
)


def serve_fer() -> None:
    """Answer on the standard output as fer: this function's source is all that its process runs.

    First comes a line of JSON with versions and ways, or with an error. Then the frames are read
    from the standard input, after a line with their shape (N, H, W, 3), and each further line
    names a way to play them in, which a line with times and answers follows.
    """
    import importlib
    import importlib.metadata
    import json
    import os
    import sys
    import time
    from typing import Any

    import numpy as np

    replies = os.fdopen(os.dup(1), 'w')  # for the libraries print to the standard output
    os.dup2(2, 1)

    def reply(**content: Any) -> None:
        print(json.dumps(content), file=replies, flush=True)

    try:
        make = importlib.import_module('fer.fer').FER
        recognizers = {'fer, its default': make()}
    except Exception as error:  # whatever the packages that it needs may raise
        return reply(error=f'{type(error).__name__}: {error}')
    try:
        recognizers['fer, MTCNN'] = make(mtcnn=True)
    except Exception as error:
        print(error, file=sys.stderr)
    names = ('fer', 'facenet-pytorch', 'numpy', 'opencv-contrib-python', 'tensorflow', 'torch')
    versions = {'python': sys.version.split()[0]}
    for distribution in importlib.metadata.distributions():
        if distribution.metadata['Name'] in names:
            versions[distribution.metadata['Name']] = distribution.version
    reply(versions=versions, ways=list(recognizers))
    shape = json.loads(sys.stdin.buffer.readline())
    content = bytearray(sys.stdin.buffer.read(int(np.prod(shape))))
    frames = np.frombuffer(content, np.uint8).reshape(shape)  # (N, H, W, 3)
    for line in sys.stdin.buffer:
        recognizer = recognizers[json.loads(line)]
        times_ms, answers = [], []
        processor_s = time.process_time()
        for frame in frames:
            started = time.perf_counter()
            found = recognizer.detect_emotions(frame)
            times_ms.append((time.perf_counter() - started) * 1e3)
            answer: dict[str, Any] = {'faces': len(found)}
            if found:  # the first, as in its top_emotion
                scores = found[0]['emotions']
                answer['label'] = max(scores, key=scores.__getitem__)
                answer['score'] = scores[answer['label']]
            answers.append(answer)
        processor_ms = (time.process_time() - processor_s) * 1e3
        reply(times_ms=times_ms, processor_ms=processor_ms, answers=answers)


class FerProcess:
    """The package fer, in an interpreter that has it."""

    def __init__(self, python: str, frames: list[np.ndarray]) -> None:
        """Start it and give it the frames; RuntimeError if it is not there."""
        self._log = tempfile.TemporaryFile('w+')  # noqa: SIM115 - close() closes it
        environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
        try:
            self._process = subprocess.Popen(
                [python, '-c', f'{inspect.getsource(serve_fer)}\nserve_fer()\n'],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
            )
        except OSError as error:
            raise RuntimeError(
                f'{python} cannot be started ({error.strerror}): {INSTALL}'
            ) from None
        try:
            about = self._reply()
            if 'error' in about:
                raise RuntimeError(f'{python} cannot run fer ({about["error"]}): {INSTALL}')
            self.versions: dict[str, str] = about['versions']
            self.ways: list[str] = about['ways']
            self._send(json.dumps([len(frames), *frames[0].shape]).encode() + b'\n')
            for frame in frames:
                self._send(np.ascontiguousarray(frame).tobytes())
        except Exception:
            self.close()
            raise

    def _send(self, content: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._reply()  # says why
            raise

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ['it said nothing'])[-1]
            raise RuntimeError(f"fer's process ended with code {code}: {last}")
        try:
            content: dict[str, Any] = json.loads(line)
        except ValueError:
            raise RuntimeError(f'this is no answer of a Python interpreter: {line!r}') from None
        return content

    def play(self, way: str) -> dict[str, Any]:
        """Play the frames once; return the times and answers."""
        self._send(json.dumps(way).encode() + b'\n')
        return self._reply()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30.0)
        self._log.close()


def play_ours(pipeline: Pipeline, frames: list[np.ndarray]) -> dict[str, Any]:
    """Play the frames once, from no face known; return the times and answers."""
    pipeline.reset()
    times_ms, answers = [], []
    processor_s = time.process_time()
    for index, frame in enumerate(frames):
        started = time.perf_counter()
        result = pipeline.process(frame, index * FRAME_PERIOD_NS)
        times_ms.append((time.perf_counter() - started) * 1e3)
        answer: dict[str, Any] = {'faces': len(result.faces)}
        estimate = result.faces[0].estimate if result.faces else None
        if estimate is not None:
            leading = int(estimate.probabilities.argmax())
            answer |= {
                'label': SAME_LABELS.get(estimate.expression, estimate.expression),
                'score': estimate.confidence,
                'standard_deviation': float(estimate.standard_deviations[leading]),
                'mutual_information': estimate.mutual_information,
                'state': estimate.state,
                'mc_samples': estimate.mc_samples,
            }
        answers.append(answer)
    processor_ms = (time.process_time() - processor_s) * 1e3
    return {'times_ms': times_ms, 'processor_ms': processor_ms, 'answers': answers}


def median(answers: list[dict[str, Any]], key: str) -> float | None:
    """Return the median of what answers say, or None where there is none."""
    values = [answer[key] for answer in answers if key in answer]
    return round(float(np.median(values)), 3) if values else None


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Put together what the turns of one way gave."""
    times_ms = np.array([turn['times_ms'] for turn in turns])  # (turns, N)
    low, middle, high, late = np.percentile(times_ms, [25, 50, 75, 95]).tolist()
    neutral = [turn['answers'][index] for turn in turns for index in NEUTRAL_FRAMES]
    smile = [turn['answers'][index] for turn in turns for index in SMILE_FRAMES]
    relaxed = [turn['answers'][RELAXED_FRAME] for turn in turns]
    right = [a for a in neutral + relaxed if a.get('label') == 'neutral']
    right += [a for a in smile if a.get('label') == 'happy']
    wrong = [a for a in neutral + relaxed if a.get('label', 'neutral') != 'neutral']
    wrong += [a for a in smile if a.get('label', 'happy') != 'happy']
    everything = [answer for turn in turns for answer in turn['answers']]
    first_happy = [
        next((i for i, a in enumerate(after) if a.get('label') == 'happy'), len(after))
        for after in (turn['answers'][SMILE_STARTS:] for turn in turns)
    ]

    def share(answers: list[dict[str, Any]], holds: Callable[[dict[str, Any]], bool]) -> float:
        return round(sum(map(holds, answers)) / len(answers), 4)

    found: dict[str, Any] = {
        'milliseconds': {
            'median': round(middle, 2),
            'quartiles': [round(low, 2), round(high, 2)],
            'p95': round(late, 2),
            'mean': round(float(times_ms.mean()), 2),
            'mean_of_turns': times_ms.mean(axis=1).round(2).tolist(),
            'processor': round(sum(turn['processor_ms'] for turn in turns) / times_ms.size, 2),
        },
        'answers': {
            'one_face': share(everything, lambda answer: answer['faces'] == 1),
            'neutral_before_smile': share(neutral, lambda a: a.get('label') == 'neutral'),
            'happy_in_smile': share(smile, lambda a: a.get('label') == 'happy'),
            'neutral_when_relaxed': share(relaxed, lambda a: a.get('label') == 'neutral'),
            'frames_until_happy': float(np.median(first_happy)),
            'score_where_right': median(right, 'score'),
            'score_where_wrong': median(wrong, 'score'),
        },
    }
    if any('state' in answer for answer in everything):
        confident = ExpressionState.CONFIDENT
        found['answers'] |= {
            'confident': share(everything, lambda a: a.get('state') == confident),
            'wrong_though_confident': sum(a['state'] == confident for a in wrong) / len(turns),
            'standard_deviation': median(right, 'standard_deviation'),
            'mutual_information': median(right, 'mutual_information'),
            'mc_samples': median(everything, 'mc_samples'),
        }
    return found


def print_tables(rows: dict[str, dict[str, Any]]) -> None:
    """Print the figures as Markdown."""
    print('| ms for a frame | median | quartiles | p95 | mean | processor | mean, against fer |')
    print('|---|---|---|---|---|---|---|')
    for name, row in rows.items():
        times = row['milliseconds']
        low, high = times['quartiles']
        print(f'| {name} | {times["median"]:.2f} | {low:.2f} to {high:.2f} | {times["p95"]:.2f} '
              f'| {times["mean"]:.2f} | {times["processor"]:.2f} '
              f'| {row["ratio_to_fer"]["mean"]:.2f} |')
    print('\n| answers | one face found | neutral before the smile | happy in it '
          '| frames until happy | neutral in the last frame | score where right | where wrong '
          '| uncertainty |')
    print('|---|---|---|---|---|---|---|---|---|')
    for name, row in rows.items():
        answers = row['answers']
        said = [
            'none' if answers[key] is None else f'{answers[key]:.2f}'
            for key in ('score_where_right', 'score_where_wrong')
        ]
        uncertainty = row['uncertainty']
        if 'confident' in answers:
            uncertainty += (f' (CONFIDENT on {answers["confident"]:.0%} of the frames, and '
                            f'wrong on {answers["wrong_though_confident"]:.0f} of those)')
        print(f'| {name} | {answers["one_face"]:.0%} | {answers["neutral_before_smile"]:.0%} '
              f'| {answers["happy_in_smile"]:.0%} | {answers["frames_until_happy"]:.0f} '
              f'| {answers["neutral_when_relaxed"]:.0%} '
              f'| {said[0]} | {said[1]} | {uncertainty} |')


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--fer-python', default=sys.executable, metavar='PATH',
        help='interpreter that has fer 25.10.3 (the one that runs this)',
    )
    parser.add_argument('--mc-samples', type=int, default=100, help='(%(default)s)')
    parser.add_argument('--threads', type=int, default=1, help='of PyTorch, ours (%(default)s)')
    parser.add_argument('--turns', type=int, default=9, help='of each way (%(default)s)')
    parser.add_argument('--out', type=Path, help='JSON file (the tables are printed anyway)')
    options = parser.parse_args()
    for name in ('mc_samples', 'threads', 'turns'):
        if getattr(options, name) < 1:
            parser.error(
                f'--{name.replace("_", "-")} must be 1 or more, not {getattr(options, name)}'
            )
    if options.out and not options.out.parent.is_dir():
        parser.error(f'--out: there is no folder {options.out.parent}')
    return options


def measure(
    options: argparse.Namespace, frames: list[np.ndarray], fer: FerProcess
) -> dict[str, dict[str, Any]]:
    """Let all ways play the clip in turns, the first of which does not count."""
    settings: dict[str, Any] = {
        'device': 'cpu',
        'mc_samples': options.mc_samples,
        'threads': options.threads,
        'seed': 1,
    }
    pipelines = {
        OURS: Pipeline(PipelineConfig(**settings)),
        OURS_EVERY_FRAME: Pipeline(
            PipelineConfig(**settings, tracker=FaceTrackerConfig(detection_interval=1))
        ),
    }
    ways = [*fer.ways, *pipelines]
    played: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for turn in tqdm(range(options.turns + 1), unit='turn', leave=False, disable=None):
        for name in ways:
            pipeline = pipelines.get(name)
            time.sleep(PAUSE_S)
            result = fer.play(name) if pipeline is None else play_ours(pipeline, frames)
            if turn:
                played[name].append(result)
    for pipeline in pipelines.values():
        pipeline.close()
    rows = {
        name: {**summary(turns), 'uncertainty': UNCERTAINTY[name]}
        for name, turns in played.items()
    }
    for row in rows.values():
        row['ratio_to_fer'] = {
            key: round(row['milliseconds'][key] / rows[FER]['milliseconds'][key], 3)
            for key in ('median', 'mean', 'processor')
        }
    return rows


def main() -> int:
    """Measure, print and write the figures; return the exit code."""
    options = parse_arguments()
    load = os.getloadavg()[0]
    try:
        frames = sample_frames()
        fer = FerProcess(options.fer_python, frames)
        try:
            rows = measure(options, frames, fer)
        finally:
            fer.close()
    except (AssetError, OSError, RuntimeError, ValueError) as error:
        print(f'against_fer: {error}', file=sys.stderr)
        return 1
    height, width = frames[0].shape[:2]
    figures = {
        'benchmark': 'against_fer',
        'machine': {'processor': platform.processor(), 'cores': os.cpu_count()},
        'load_before_start': load,
        'image_size': [width, height],
        'frames': len(frames),
        'turns': options.turns,
        'mc_samples': options.mc_samples,
        'threads': options.threads,
        'omp_num_threads': os.environ.get('OMP_NUM_THREADS'),
        'fer_versions': fer.versions,
        'ways': rows,
    }
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + '\n', 'utf-8')
    print(f'sample clip, {width}x{height}, {len(frames)} frames, {options.turns} turns, '
          f'{options.mc_samples} Monte Carlo samples; fer {fer.versions.get("fer", "?")}; '
          f'{os.cpu_count()} cores, load before the start {load:.1f}, '
          f'OMP_NUM_THREADS {os.environ.get("OMP_NUM_THREADS", "not set")}\n')
    if FER_MTCNN not in rows:
        print('against_fer: no row for MTCNN, facenet-pytorch is missing', file=sys.stderr)
    print_tables(rows)
    return 0


if __name__ == '__main__':
    sys.exit(main())
