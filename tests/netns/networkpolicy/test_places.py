"""Each place follows the model at its own pace: a slow one holds up no other, and misses nothing."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from eniway.model import Kind
from networkpolicy.change import Change
from networkpolicy.enforcer import Enforcer
from networkpolicy.place import Place
from tests.netns.datapath.fabric import Node, Vpc
from tests.netns.networkpolicy.cluster import Cluster, cluster
from tests.netns.networkpolicy.test_start import nothing_left


@dataclass
class Slow:
    """A cluster of which one exclusive pod's namespace, x/slow, does not end a change before ``go``."""

    made: Cluster
    enforcer: Enforcer
    began: threading.Event
    go: threading.Event

    async def node_follows(self) -> None:
        """Until what is said now is in force on the node."""
        self.enforcer.wake()
        await self.enforcer._reach(lambda: [half.node for half in self.enforcer._halves])

    async def agree(self) -> None:
        """Every place has come to what the model says, sets with their members."""
        await nothing_left(self.enforcer)
        for site in self.enforcer._sites():
            held, sets = site.place.observe()
            assert site.held is not None
            assert held.chains == site.held.chains
            for name, ref in site.held.sets.items():
                assert sets[name] == set(self.enforcer.model.members(ref)), name
        self.made.verify()


@pytest.fixture
async def slow(vpc: Vpc, nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Slow]:
    """Its first change is under way."""
    apply, began, go = Place.apply, threading.Event(), threading.Event()
    async with _started(vpc, nodes) as made:
        enforcer = made.enforcers[0]
        lease = made.members["x/slow"].lease
        places = [half.pods[lease.key].place for half in enforcer._halves]

        def applied(place: Place, change: Change, *, bury: bool = True) -> None:
            if place in places:
                began.set()
                go.wait()
            apply(place, change, bury=bury)

        monkeypatch.setattr(Place, "apply", applied)
        made.policy("p", _from("y", port=80))
        one = Slow(made, enforcer, began, go)
        try:
            await one.node_follows()
            began.wait(10)
            yield one
        finally:
            go.set()


@asynccontextmanager
async def _started(vpc: Vpc, nodes: tuple[Node, Node]) -> AsyncIterator[Cluster]:
    async with cluster(vpc, nodes) as made:
        await made.start("x/slow", Kind.EXCLUSIVE, 0, slot=2)
        await made.start("x/quick", Kind.SHARED, 0)
        await made.start("y/client", Kind.SHARED, 1)
        yield made


def _from(space: str, *, port: int, pod: str = "client") -> dict[str, object]:
    peer = {"namespaceSelector": {"matchLabels": {"ns": space}}, "podSelector": {"matchLabels": {"pod": pod}}}
    return {"podSelector": {}, "ingress": [{"from": [peer], "ports": [{"port": port}]}]}


async def test_a_slow_pod_holds_up_neither_the_node_nor_the_start_of_others(slow: Slow) -> None:
    """Policies change, pods start; the slow one comes to all of it at last."""
    made = slow.made
    for port in (81, 80, 81):
        made.policy("p", _from("y", port=port))
        await slow.node_follows()
    await made.start("x/late", Kind.SHARED, 0)
    await made.start("x/alone", Kind.EXCLUSIVE, 0, slot=3)
    assert not slow.go.is_set()
    slow.go.set()
    await slow.agree()


async def test_members_that_come_and_go_while_a_place_is_worked_on_are_not_missed(slow: Slow) -> None:
    """One after the other, and the last word counts."""
    for labels in ({"pod": "other"}, {"pod": "client"}, {"pod": "other"}):
        slow.made.relabel("y/client", labels)
        await slow.node_follows()
    assert not slow.go.is_set()
    slow.go.set()
    await slow.agree()


async def test_a_set_that_nobody_wanted_while_a_place_was_worked_on_is_right_again(slow: Slow) -> None:
    """The place never let go of it, and what changed of it meanwhile was not noted."""
    made = slow.made
    made.no_policy("p")
    await slow.node_follows()
    made.relabel("y/client", {"pod": "other"})
    await slow.node_follows()
    made.policy("p", _from("y", port=80))
    await slow.node_follows()
    assert not slow.go.is_set()
    slow.go.set()
    await slow.agree()
