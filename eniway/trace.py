"""What the last requests of pods did, step by step: kept in memory, for `eniway trace` and for the metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

KEPT: Final = 1024
"""Requests remembered: several restarts of every pod that a node can have."""


class Step(msgspec.Struct, frozen=True):
    """A part of a request, in the order they were taken; the last one of a failed request is where it failed.

    Where an ADD took back what it had done, ``take back`` follows the one that failed.
    """

    name: str
    seconds: float


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is over."""

    verb: str
    pod: str
    """``namespace/name``."""
    uid: str
    container: str
    kind: str
    result: str
    """``success``, ``error`` or ``cancelled``: the runtime went away."""
    error: str = ""
    at: float
    """When it came, in seconds since the epoch."""
    seconds: float
    steps: tuple[Step, ...]


class Steps:
    """The steps of one request that is under way; times are ``clock``'s."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began: list[tuple[str, float]] = []

    def enter(self, name: str) -> None:
        """The step before is over, this one begins."""
        self._began.append((name, self._clock()))

    def over(self) -> tuple[Step, ...]:
        """All of them; the last one ends now."""
        ends = [began for _, began in self._began[1:]] + [self._clock()]
        return tuple(Step(name, end - began) for (name, began), end in zip(self._began, ends, strict=bool(self._began)))


class Recent:
    """The last requests; the oldest is forgotten for the newest."""

    def __init__(self, kept: int = KEPT) -> None:
        self._records: deque[Record] = deque(maxlen=kept)

    def add(self, record: Record) -> None:
        """Remember a request."""
        self._records.append(record)

    def of(self, pod: str) -> list[Record]:
        """Those of the pod ``namespace/name``, oldest first, whatever its UID was."""
        return [record for record in self._records if record.pod == pod]
