"""Calling until the answer is about what was asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import TypeVar

from eniallocator.clock import Clock
from eniallocator.cloud.errors import ApiError, Busy, Credentials, Throttled, Transient, Withheld
from eniway.backoff import full_jitter

_T = TypeVar("_T")


class Insist:
    """``await insist(call)``.

    Tries again after errors that do not concern what was asked, each class at its own pace.
    """

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random

    async def __call__(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The answer, or an error that trying again will not change soon. ``call`` must be safe to repeat."""
        delays: dict[type[ApiError], Iterator[float]] = {}
        while True:
            try:
                return await call()
            except (Throttled, Transient, Busy, Credentials, Withheld) as error:
                base, cap = error.patience
                delay = next(delays.setdefault(type(error), full_jitter(base=base, cap=cap, random=self._random)))
            await self._clock.sleep(delay)
