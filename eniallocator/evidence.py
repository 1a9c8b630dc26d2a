"""When an instance is gone for good: only on positive evidence.

No Node is the instance, and the cloud, asked for it and for some that are nodes in one and the same DescribeInstances,
lists at least half of those and not it. So neither an API server that knows too little nor a cloud that wrongly answers
empty can make anything go. When much is gone at once, something else is wrong: then nothing is believed until a person
has looked.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Final, Protocol

from eniallocator.cloud.caller import MOST_INSTANCES
from eniway.model import InstanceId

MOST_A_ROUND: Final = 25
"""ENIs, and route entries, of vanished instances that are removed at once."""
WITNESSES: Final = 10
"""Nodes whose instances are asked for beside those in doubt."""


class Instances(Protocol):
    """Who knows which instances exist."""

    async def instances(self, ids: Collection[InstanceId]) -> frozenset[InstanceId]:
        """DescribeInstances: those of ``ids``, at most ``MOST_INSTANCES``, that exist."""
        ...


async def gone(
    api: Instances, suspects: Collection[InstanceId], placed: Collection[InstanceId], *, random: Random
) -> frozenset[InstanceId]:
    """Those of ``suspects`` that are proved not to exist. ``placed``: instances that are nodes; without any, no proof.

    Raises what ``api`` does.
    """
    doubtful = sorted(set(suspects) - set(placed))
    witnesses = random.sample(sorted(placed), min(WITNESSES, len(placed)))
    found: set[InstanceId] = set()
    if not witnesses:
        return frozenset()
    at_once = MOST_INSTANCES - len(witnesses)
    for start in range(0, len(doubtful), at_once):
        some = doubtful[start : start + at_once]
        there = await api.instances([*some, *witnesses])
        if 2 * len(there & set(witnesses)) >= len(witnesses):
            found |= set(some) - there
    return frozenset(found)


def too_many(gone: Collection[InstanceId], known: Collection[InstanceId], *, most_percent: int) -> bool:
    """Whether more of the instances that we ``know`` of are gone than is to be believed. One always may be."""
    return len(gone) > max(1, len(known) * most_percent // 100)
