"""A pod's labels change again and again: at rest, one change behind the other, and while one is under way."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from eniway.model import Kind
from networkpolicy.change import Change
from networkpolicy.place import Place
from tests.netns.datapath.fabric import Node, Vpc
from tests.netns.networkpolicy.cluster import Cluster, cluster

STEPS = 60
LABELS: tuple[dict[str, str], ...] = (
    {"pod": "a"},
    {"pod": "a", "target": "isolated"},
    {"pod": "a", "target": "web"},
    {"pod": "a", "target": "isolated", "side": "out"},
    {"pod": "a", "side": "out"},
)


PEER: dict[str, Any] = {
    "podSelector": {"matchLabels": {"pod": "b"}},
    "ingress": [{"from": [{"podSelector": {"matchLabels": {"target": "web"}}}]}],
}
"""Lets the pod into another; without it the node has no rule at all while no policy selects the pod."""


def policies(made: Cluster) -> None:
    """By label of the pod that changes."""
    made.policy("isolated", {"podSelector": {"matchLabels": {"target": "isolated"}}, "policyTypes": ["Ingress"]})
    made.policy("web", {"podSelector": {"matchLabels": {"target": "web"}}, "ingress": [{"ports": [{"port": 80}]}]})
    made.policy("out", {"podSelector": {"matchLabels": {"side": "out"}}, "policyTypes": ["Egress"]})


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("back_end", ["iptables-nft", "iptables-legacy"])
async def test_the_last_labels_decide(
    vpc: Vpc, nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch, kind: Kind, back_end: str
) -> None:
    """Once they are in force, whether or not what the ones before left over was cleaned up by then."""
    random, loop = Random(3), asyncio.get_running_loop()
    under_way = asyncio.Event()
    apply = Place.apply

    def noting(place: Place, change: Change, *, bury: bool = True) -> None:
        loop.call_soon_threadsafe(under_way.set)
        apply(place, change, bury=bury)

    monkeypatch.setattr(Place, "apply", noting)
    async with cluster(vpc, nodes, iptables=back_end) as made:
        await made.start("x/a", kind, 0)
        await made.start("x/b", Kind.SHARED, 0)
        await made.start("y/c", Kind.SHARED, 1)
        policies(made)
        await made.in_force()
        sites = [site for enforcer in made.enforcers for site in enforcer._sites()]
        told = LABELS[0]
        for step in range(STEPS):
            match random.choice(("at rest", "at once", "under way", "while cleaned up")):
                case "at rest":
                    for enforcer in made.enforcers:
                        while not all(site.is_clean for site in enforcer._sites()):
                            await enforcer._moved()
                case "under way":
                    told = random.choice([labels for labels in LABELS if labels != told])
                    under_way.clear()
                    made.relabel("x/a", told)
                    made.enforcers[0].wake()
                    await under_way.wait()
                case "while cleaned up" if any(not site.is_clean and not site.busy for site in sites):
                    under_way.clear()
                    await under_way.wait()
                case _:
                    pass
            if random.random() < 0.3:
                made.policy("peer", PEER)
            elif random.random() < 0.3:
                made.no_policy("peer")
            told = random.choice([labels for labels in LABELS if labels != told])
            made.relabel("x/a", told)
            await made.in_force()
            made.verify(f"{step}: {told}")
