"""Retry arithmetic: exponential with full jitter, pure."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random


def full_jitter(*, base: float, cap: float, random: Random) -> Iterator[float]:
    """Endless delays in seconds, each uniform in [0, min(cap, base·2ⁿ)], never below a tenth of that bound.

    The floor keeps an unlucky draw from becoming a tight loop.
    """
    bound = base
    while True:
        yield random.uniform(bound / 10, bound)
        bound = min(cap, bound * 2)
