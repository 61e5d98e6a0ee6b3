# SPDX-License-Identifier: Apache-2.0
"""What became of images that were played to a running node: answers, drops, latency."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class NodeError(Exception):
    """Say why a running node cannot be evaluated, and what to do."""


@dataclass(frozen=True, kw_only=True)
class PlayedImages:
    """Hold what became of the images of one recording."""

    sent: int
    latencies_ms: tuple[float, ...]  # of each answered image: receipt of its answer minus sending
    malformed: int  # answers that were no expressions; their images count as dropped
    latest_ms: float  # by how much the image that was sent the latest was late for its stamp


@dataclass(frozen=True, kw_only=True)
class LiveScores:
    """Summarise played images; the latencies are in milliseconds, None without an answer."""

    sent: int
    answered: int
    dropped: int  # sent without an answer
    drop_rate: float | None  # share of the sent ones
    malformed: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    latency_longest_ms: float | None
    sent_late_ms: float  # at worst; far above a frame's period, this machine was too slow to play


def measure_live(played: Sequence[PlayedImages]) -> LiveScores:
    """Summarise the played images of one recording or of several."""
    latencies = np.array([value for item in played for value in item.latencies_ms])
    sent = sum(item.sent for item in played)
    p50, p95, p99, longest = (
        float(np.percentile(latencies, share)) if len(latencies) else None
        for share in (50, 95, 99, 100)
    )
    return LiveScores(
        sent=sent,
        answered=len(latencies),
        dropped=sent - len(latencies),
        drop_rate=(sent - len(latencies)) / sent if sent else None,
        malformed=sum(item.malformed for item in played),
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        latency_longest_ms=longest,
        sent_late_ms=max((item.latest_ms for item in played), default=0.0),
    )
