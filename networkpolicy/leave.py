"""Leaving: every chain and set of NetworkPolicy is taken away, of both address families."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from eniway.errors import KernelError
from eniway.model import Kind, Lease
from networkpolicy.change import repair
from networkpolicy.place import Place, PlaceGone
from networkpolicy.render import EMPTY


async def leave(leases: Iterable[Lease], *, path: str | None = None, iptables: str = "iptables") -> tuple[str, ...]:
    """On the node, and in the namespaces of its exclusive pods.

    What remains and why, a line each, such as a set that a rule that is not ours looks into.
    """
    inside = [lease.netns for lease in leases if lease.kind is Kind.EXCLUSIVE]
    remains: list[str] = []
    for where in (path, *inside):
        for place in (Place(where, family=4, iptables=iptables), Place(where, family=6, iptables=iptables)):
            try:
                remains += await asyncio.to_thread(_clear, place)
            except PlaceGone:
                continue
            except (KernelError, OSError) as error:
                remains.append(f"chains and sets of NetworkPolicy: {error}")
    return tuple(remains)


def _clear(place: Place) -> tuple[str, ...]:
    try:
        held, sets = place.observe()
    except PlaceGone:
        raise
    except KernelError:
        if place.family == 6:
            return ()  # a kernel without IPv6: where none can be read none was written
        raise
    if not (change := repair(held, sets, EMPTY, {})):
        return ()
    place.apply(change)
    return place.bury_patiently()
