"""How often the OpenAPI is called: a bucket per Action and minute, as the cloud counts.

Quotas are per account, region and Action and counted by the minute: once over in a minute, everything is refused until
the next one begins (help page 437902). So a throttled Action rests until then, and a little longer, or all nodes would
come back together.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from random import Random
from typing import Final

from eniallocator.clock import Clock

MINUTE: Final = 60.0
SPREAD: Final = 5.0
"""Seconds after the turn of the minute over which callers come back."""


@dataclass(slots=True)
class _Bucket:
    minute: int = -1
    used: int = 0
    resting_until: float = 0.0


class Limiter:
    """``admit`` before a call, ``throttled`` when it was answered so."""

    def __init__(self, *, calls_per_minute: int, clock: Clock, random: Random) -> None:
        self._most = calls_per_minute
        self._clock = clock
        self._random = random
        self._buckets: defaultdict[str, _Bucket] = defaultdict(_Bucket)

    async def admit(self, action: str) -> None:
        """Return when ``action`` may be called, having counted the call."""
        while (delay := self._delay(action)) > 0:
            await self._clock.sleep(delay)

    def throttled(self, action: str) -> None:
        """Let ``action`` rest until the next minute."""
        rest = self._to_next_minute() + self._random.uniform(0.1, SPREAD)
        self._buckets[action].resting_until = self._clock.monotonic() + rest

    def _delay(self, action: str) -> float:
        """0 with the call counted, or seconds to wait before asking again."""
        bucket = self._buckets[action]
        # Minutes are the wall clock's, as the cloud counts them; a rest is not, or a clock set back would draw it out.
        if (rest := bucket.resting_until - self._clock.monotonic()) > 0:
            return rest
        minute = int(self._clock.wall() // MINUTE)
        if bucket.minute != minute:
            bucket.minute, bucket.used = minute, 0
        if bucket.used >= self._most:
            return self._to_next_minute() + self._random.uniform(0.0, SPREAD)
        bucket.used += 1
        return 0.0

    def _to_next_minute(self) -> float:
        return MINUTE - self._clock.wall() % MINUTE
