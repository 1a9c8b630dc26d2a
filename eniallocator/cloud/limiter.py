"""How often the OpenAPI is called: a bucket per Action and minute, as the cloud counts.

Quotas are per account, region and Action and counted by the minute: once over in a minute, everything is refused until
the next one begins (help page 437902). So a throttled Action rests until then, and a little longer, or all nodes would
come back together. Nodes do not know of each other: who was refused more often comes back earlier in the minute, so
that none is left behind for ever by those that ask for more.

A process takes no more of an Action than ``share`` of the account's quota, nor than ``calls_per_minute``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from eniallocator.clock import Clock

MINUTE: Final = 60.0
SPREAD: Final = 5.0
"""Seconds after the turn of the minute over which callers come back."""

STRAINED: Final = 3 * MINUTE

QUOTAS: Final[Mapping[str, int]] = {
    "DescribeNetworkInterfaces": 800,
    "CreateNetworkInterface": 500,
    "AttachNetworkInterface": 500,
    "DeleteNetworkInterface": 500,
    "DetachNetworkInterface": 400,
    "AssignPrivateIpAddresses": 400,
    "UnassignPrivateIpAddresses": 400,
    "DescribeInstanceTypes": 400,
    "DescribeVSwitches": 300,
    "CreateRouteEntries": 60,
    "DeleteRouteEntries": 60,
}
"""Calls a minute that an account has as a rule: what Terway ships with; the Quota Center shows the real ones."""
OTHER_QUOTA: Final = 500


@dataclass(slots=True)
class _Bucket:
    minute: int = -1
    used: int = 0
    resting_until: float = 0.0
    refusals: int = 0
    """One after the other."""


class Limiter:
    """``admit`` before a call, ``throttled`` when it was answered so, ``passed`` when not."""

    def __init__(
        self,
        *,
        calls_per_minute: int,
        clock: Clock,
        random: Random,
        quotas: Mapping[str, int] | None = None,
        share: float = 1.0,
    ) -> None:
        self._most = calls_per_minute
        self._quotas = {**QUOTAS, **(quotas or {})}
        self._share = share
        self._throttled = -STRAINED
        self._clock = clock
        self._random = random
        self._buckets: defaultdict[str, _Bucket] = defaultdict(_Bucket)

    async def admit(self, action: str) -> None:
        """Return when ``action`` may be called, having counted the call."""
        while (delay := self._delay(action)) > 0:
            await self._clock.sleep(delay)

    def throttled(self, action: str) -> None:
        """Let ``action`` rest until the next minute."""
        bucket = self._buckets[action]
        self._throttled = now = self._clock.monotonic()
        # Answers to calls that went out together are one refusal.
        if bucket.resting_until <= now:
            bucket.refusals += 1
        late = self._random.uniform(0.1, max(0.2, SPREAD / bucket.refusals))
        bucket.resting_until = now + self._to_next_minute() + late

    @property
    def strained(self) -> bool:
        """Whether anything was throttled in the last minutes."""
        return self._clock.monotonic() < self._throttled + STRAINED

    def passed(self, action: str) -> None:
        """``action`` was let through."""
        self._buckets[action].refusals = 0

    def most(self, action: str) -> int:
        """Calls of ``action`` in a minute."""
        return max(1, min(self._most, int(self._share * self._quotas.get(action, OTHER_QUOTA))))

    def _delay(self, action: str) -> float:
        """0 with the call counted, or seconds to wait before asking again."""
        bucket = self._buckets[action]
        # Minutes are the wall clock's, as the cloud counts them; a rest is not, or a clock set back would draw it out.
        if (rest := bucket.resting_until - self._clock.monotonic()) > 0:
            return rest
        minute = int(self._clock.wall() // MINUTE)
        if bucket.minute != minute:
            bucket.minute, bucket.used = minute, 0
        if bucket.used >= self.most(action):
            return self._to_next_minute() + self._random.uniform(0.0, SPREAD)
        bucket.used += 1
        return 0.0

    def _to_next_minute(self) -> float:
        return MINUTE - self._clock.wall() % MINUTE
