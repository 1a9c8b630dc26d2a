"""A place in which nothing can be done is tried once a second, whatever happens meanwhile, and holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from itertools import pairwise

import pytest

from datapath.ipset import Element
from eniway.model import Kind
from networkpolicy.change import Change, Held
from networkpolicy.enforcer import _RETRY_SECONDS
from networkpolicy.place import Place
from tests.netns.datapath.fabric import Node, Vpc
from tests.netns.networkpolicy.cluster import cluster

DENY = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [{"podSelector": {}}]}]}


@pytest.mark.parametrize("where", ["node", "pod"])
async def test_a_place_in_error_is_tried_once_a_second(
    vpc: Vpc, nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Though sets wait to be taken away in it, and the cluster does not stand still."""
    loop = asyncio.get_running_loop()
    tried: list[float] = []
    enough = asyncio.Event()
    observe = Place.observe

    def noting(place: Place) -> tuple[Held, Mapping[str, Collection[Element]]]:
        if place is bad:
            tried.append(loop.time())
            if len(tried) == 3:
                loop.call_soon_threadsafe(enough.set)
        return observe(place)

    async with cluster(vpc, nodes) as made:
        member = await made.start("x/a", Kind.EXCLUSIVE, 0, slot=2)
        await made.start("x/b", Kind.SHARED, 0)
        made.policy("p", DENY)
        await made.in_force()
        enforcer = made.enforcers[0]
        half = enforcer._halves[0]
        site = half.node if where == "node" else half.pods[member.lease.key]
        bad = site.place
        bad.apply(Change(destroy=tuple(site.held.sets) if site.held else ()))
        assert not bad.is_clean
        if where == "node":
            bad._iptables = "iptables-none"
        else:
            bad._path = "/run/netns/none"
        monkeypatch.setattr(Place, "observe", noting)
        made.policy("p", {**DENY, "ingress": [{"ports": [{"port": 80}]}]})
        while not enough.is_set():
            enforcer.wake()
            await enforcer._moved()
            await asyncio.sleep(0.01)  # a busy cluster's events
        assert [each.place for each in enforcer._sites() if each.error is not None] == [bad]
        assert all(later - earlier >= _RETRY_SECONDS for earlier, later in pairwise(tried))
        others = [other for other in enforcer._sites() if other is not site]
        while not all(other.is_clean for other in others):
            await enforcer._moved()
        bad._iptables, bad._path = "iptables", nodes[0].path if where == "node" else member.lease.netns
        while site.error is not None:
            await enforcer._moved()
        await made.in_force()
        made.verify("after it has gone")
