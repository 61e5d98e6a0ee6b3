# SPDX-License-Identifier: Apache-2.0
"""The order of a camera's stamps: one that is wrong costs its image, not the faces."""

PATIENCE = 3  # images in a row that must agree before their time is believed
FAR_AHEAD_NS = 10_000_000_000
NANOSECONDS = 1_000_000_000


class StampError(ValueError):
    """A stamp that no image is read for; the text says why."""


class StampOrder:
    """
    Admits images whose stamps go forward.

    A stamp that is not after the last one, or more than 10 s after it and ahead of the clock, is
    refused: a lost packet, a second camera on the topic, a broken header. If three in a row go
    forward among themselves, time itself has changed (a rosbag that starts again, a clock that
    was set) and is followed.
    """

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._strays: list[int] = []

    def admit(self, stamp_ns: int, *, clock_ns: int) -> None:
        """Take the stamp of the next image; clock_ns: the time of the node's clock.

        Raises StampError for an image that should not be read.
        """
        last_ns = self._last_ns
        if last_ns is not None and not self._follows(stamp_ns, last_ns, clock_ns):
            if self._strays and not self._follows(stamp_ns, self._strays[-1], clock_ns):
                self._strays.clear()
            self._strays.append(stamp_ns)
            if len(self._strays) < PATIENCE:
                raise StampError(
                    f'its stamp {stamp_ns / NANOSECONDS:.3f} s does not follow '
                    f'{last_ns / NANOSECONDS:.3f} s of the image before'
                )
        self._strays.clear()
        self._last_ns = stamp_ns

    def reset(self) -> None:
        """Forget the last stamp."""
        self._last_ns = None
        self._strays.clear()

    @staticmethod
    def _follows(stamp_ns: int, last_ns: int, clock_ns: int) -> bool:
        is_far_ahead = stamp_ns > max(last_ns, clock_ns) + FAR_AHEAD_NS
        return stamp_ns > last_ns and not is_far_ahead


def check_stamp(seconds: int, nanoseconds: int) -> None:
    """Raise StampError if the fields of a builtin_interfaces/Time are no time since 1970."""
    if seconds < 0 or not 0 <= nanoseconds < NANOSECONDS:
        raise StampError(f'its stamp is no time: {seconds} s and {nanoseconds} ns')
