"""What has lain idle long enough to be given back.

What is spare at one moment is wanted at the next, and giving back and asking again are two calls. So only that goes
back which was spare all the time for a while: pods that come and go in equal number cost no call. Pure.
"""

from __future__ import annotations

from collections import deque


class Idle:
    """``spare`` follows a number; ``seconds``: for how long. ``now`` is monotonic."""

    def __init__(self, seconds: float, *, now: float) -> None:
        self._seconds = seconds
        # (since when, what): ever later, ever more. The first is the least of the last ``seconds``.
        self._least: deque[tuple[float, int]] = deque([(now, 0)])

    def spare(self, surplus: int, now: float) -> int:
        """The least that ``surplus`` has been over the last seconds, this time included."""
        since = now
        while self._least and self._least[-1][1] >= surplus:
            since, _ = self._least.pop()
        self._least.append((since, surplus))
        while len(self._least) > 1 and self._least[1][0] + self._seconds <= now:
            self._least.popleft()
        return max(0, self._least[0][1])

    def next(self, now: float) -> float | None:
        """When ``spare`` grows if nothing else changes."""
        return max(now, self._least[1][0] + self._seconds) if len(self._least) > 1 else None
