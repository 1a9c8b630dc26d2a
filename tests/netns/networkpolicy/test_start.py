"""The start of a pod, whatever comes between: its object while a turn is under way, its end, another of its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from eniway.errors import NotReady
from eniway.model import Lease, PodUid
from networkpolicy.change import Change
from networkpolicy.enforcer import Enforcer
from networkpolicy.model import Model
from networkpolicy.place import Place
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.netns.datapath.fabric import Node, Vpc, exclusive_lease, shared_lease
from tests.netns.networkpolicy.test_hands import state
from tests.property.networkpolicy.worlds import view


def tell(enforcer: Enforcer, lease: Lease) -> None:
    """The pod's object comes."""
    meta = {"namespace": lease.pod.namespace, "name": lease.pod.name, "uid": lease.pod.uid}
    enforcer.model.put_pod(view(PodView, {"metadata": meta, "spec": {}, "status": {"phase": "Pending"}}))
    enforcer.wake()


def isolate(model: Model, lease: Lease) -> None:
    """Its namespace, with a policy for all pods."""
    space = lease.pod.namespace
    model.put_namespace(view(NamespaceView, {"metadata": {"name": space}}))
    peers: list[Any] = [{"podSelector": {}}]
    spec: dict[str, Any] = {"podSelector": {}, "ingress": [{"from": peers}], "egress": [{"to": peers}]}
    model.put_policy(view(PolicyView, {"metadata": {"namespace": space, "name": "own"}, "spec": spec}))


@asynccontextmanager
async def enforcing(node: Node, *, wait_seconds: float = 20) -> AsyncIterator[Enforcer]:
    """A node's enforcer, at work from ``start`` on."""
    enforcer = Enforcer(Model(4, sampled=True), path=node.path, wait_seconds=wait_seconds, six=True)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(enforcer.run())
        try:
            yield enforcer
        finally:
            running.cancel()
            enforcer.close()


async def nothing_left(enforcer: Enforcer) -> None:
    """Nothing is to be done, and nothing waits to be taken away."""
    await enforcer.in_force()
    while not all(site.is_clean for site in enforcer._sites()):
        await enforcer.in_force()


async def test_an_object_that_comes_while_a_turn_is_under_way_is_not_missed(
    vpc: Vpc, nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no other event follows: the turn that begins at it has begun before the ADD looks again."""
    node, lease = nodes[0], shared_lease(vpc, nodes[0], vpc.pod())
    loop = asyncio.get_running_loop()
    apply, told = Place.apply, asyncio.Event()

    def applied(place: Place, change: Change, *, bury: bool) -> None:
        apply(place, change, bury=bury)
        if not told.is_set():
            asyncio.run_coroutine_threadsafe(come(), loop).result()

    async def come() -> None:
        tell(enforcer, lease)
        told.set()

    monkeypatch.setattr(Place, "apply", applied)
    async with enforcing(node) as enforcer:
        isolate(enforcer.model, lease)
        enforcer.start((), nodes=[node.address])
        await enforcer.prepare(lease)
        assert told.is_set()


@pytest.mark.parametrize("is_known", [False, True])
async def test_an_add_whose_network_is_given_up_meanwhile_fails_at_once(
    vpc: Vpc, nodes: tuple[Node, Node], *, is_known: bool
) -> None:
    """Its links are not to come up behind a DEL."""
    node, lease = nodes[0], shared_lease(vpc, nodes[0], vpc.pod())
    async with enforcing(node) as enforcer:
        isolate(enforcer.model, lease)
        enforcer.start((), nodes=[node.address])
        if is_known:
            tell(enforcer, lease)
        waiting = asyncio.ensure_future(enforcer.prepare(lease))
        await asyncio.sleep(0)
        assert lease.key in enforcer.model.endpoints
        await enforcer.release(lease.key)
        with pytest.raises(NotReady, match="given up while its policies were waited for"):
            await waiting
        await nothing_left(enforcer)
        assert "ENIWAY-NP" not in state(node)


async def test_an_add_cancelled_at_any_point_leaves_nothing(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """As its caller takes back what it began: on the node, and in the enforcer's books."""
    node, where = nodes[0], vpc.pod()
    lease = exclusive_lease(vpc, node, where, slot=2)
    async with enforcing(node) as enforcer:
        isolate(enforcer.model, lease)
        enforcer.start((), nodes=[node.address])
        tell(enforcer, lease)
        await enforcer.in_force()
        before, steps, ended = state(node), 0, False
        while not ended:
            adding = asyncio.ensure_future(enforcer.prepare(lease))
            for _ in range(steps):
                await asyncio.sleep(0.001 if steps > 8 else 0)
            ended = adding.done()
            adding.cancel()
            with suppress(asyncio.CancelledError):
                await adding
            await enforcer.release(lease.key)
            await nothing_left(enforcer)
            assert state(node) == before
            assert not any(half.pods for half in enforcer._halves)
            assert not enforcer.model.active()
            steps += 1
        assert steps > 1


async def test_a_daemon_that_starts_while_the_api_server_is_away_touches_nothing(
    vpc: Vpc, nodes: tuple[Node, Node]
) -> None:
    """What stands stays, a new pod does not start; when all objects are known nothing is written anew."""
    node, lease = nodes[0], shared_lease(vpc, nodes[0], vpc.pod())
    async with enforcing(node) as first:
        isolate(first.model, lease)
        tell(first, lease)
        first.start([lease], nodes=[node.address])
        await first.in_force()
    stands = state(node)
    assert "ENIWAY-NP" in stands
    async with enforcing(node, wait_seconds=0.2) as second:
        late = shared_lease(vpc, node, vpc.pod())
        with pytest.raises(NotReady, match="all pods of this node, are not known yet"):
            await second.prepare(late)
        assert state(node) == stands
        assert late.key not in second.model.endpoints
        isolate(second.model, lease)
        tell(second, lease)
        second.start([lease], nodes=[node.address])
        await second.in_force()
        assert state(node) == stands


async def test_a_pod_waits_for_its_own_object_not_for_one_of_its_name(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """Deleted by force and made anew, while the sandbox of the first is still there and stays isolated."""
    node, old = nodes[0], shared_lease(vpc, nodes[0], vpc.pod())
    async with enforcing(node) as enforcer:
        isolate(enforcer.model, old)
        tell(enforcer, old)
        enforcer.start([old], nodes=[node.address])
        await enforcer.in_force()
        fresh = shared_lease(vpc, node, vpc.pod())
        fresh = replace(fresh, pod=replace(old.pod, uid=PodUid("another")))
        adding = asyncio.ensure_future(enforcer.prepare(fresh))
        await enforcer.in_force()
        await enforcer.in_force()
        assert not adding.done()
        tell(enforcer, fresh)
        await adding
        assert enforcer.model.endpoints[old.key].programs
        assert enforcer.model.endpoints[fresh.key].programs
        (pods,) = {ref for site in enforcer._sites() if site.held for ref in site.held.sets.values()}
        assert [element.address for element in enforcer.model.members(pods)] == [fresh.address.packed]
        await enforcer.release(old.key)
        await nothing_left(enforcer)
        assert enforcer.model.endpoints[fresh.key].programs
        assert [element.address for element in enforcer.model.members(pods)] == [fresh.address.packed]
