"""Whose address it is, is found out without holding up the daemon."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network

from eniway.node.drops import DropEvents
from networkpolicy.model import Model
from networkpolicy.views import NamespaceView, PodView
from tests.property.networkpolicy.worlds import namespace, pod, view

PODS = 10_000
NETWORK = IPv4Network("10.0.0.0/16")


async def test_a_namespace_of_thousands_does_not_hold_the_loop() -> None:
    """While they are looked through, everything else has a turn every few hundred."""
    model = Model(4)
    model.put_namespace(view(NamespaceView, namespace("x", {})))
    for number in range(PODS):
        made = pod("x", f"p{number}", uid=str(number), labels={}, spec={}, phase="Running", ips=[str(NETWORK[number])])
        model.put_pod(view(PodView, made))
    events = DropEvents(model, tell=lambda _event: None)
    turns = 0

    async def elsewhere() -> None:
        nonlocal turns
        while True:
            turns += 1
            model.drop_pod("x", f"p{turns}")
            await asyncio.sleep(0)

    for wanted, name in ((NETWORK[PODS - 1], f"x/p{PODS - 1}"), (IPv4Address("192.0.2.1"), None)):
        turns = 0
        other = asyncio.ensure_future(elsewhere())
        assert await events._name(wanted) == name
        assert turns >= PODS // 1000
        other.cancel()
