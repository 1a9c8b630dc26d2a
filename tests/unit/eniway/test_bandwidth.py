"""Bandwidth while pods run, with watch, books and kernel in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from datapath.diff import Add, Op
from datapath.plan.bandwidth import bandwidth
from datapath.state import Direction, Netns, Tbf
from datapath.tc import Queue
from eniway import metrics
from eniway.errors import KernelError
from eniway.kube.events import Event
from eniway.kube.reflector import Reflector
from eniway.kube.views import BandwidthAnnotations, LimitedMeta, LimitedPod
from eniway.model import (
    UNLIMITED,
    Bandwidth,
    Card,
    ContainerId,
    EniId,
    Kind,
    Lease,
    LeaseKey,
    Mac,
    PodRef,
    PodUid,
    Slot,
)
from eniway.node.bandwidth import BandwidthFollower

CARD = Card(
    EniId("eni-1"),
    Mac("00:16:3e:00:00:01"),
    Slot(1),
    IPv4Address("10.0.0.5"),
    IPv4Network("10.0.0.0/24"),
    IPv4Address("10.0.0.253"),
)


def lease(name: str, *, kind: Kind = Kind.SHARED, limits: Bandwidth = UNLIMITED) -> Lease:
    return Lease(
        key=LeaseKey("eniway", ContainerId(name), "eth0"),
        pod=PodRef("default", name, PodUid(f"uid-of-{name}")),
        kind=kind,
        netns=f"/run/netns/{name}",
        card=CARD,
        address=IPv4Address("10.0.0.10"),
        bandwidth=limits,
    )


def pod(name: str, *, uid: str = "", **said: str) -> LimitedPod:
    meta = LimitedMeta(name=name, namespace="default", uid=uid or f"uid-of-{name}")
    return LimitedPod(
        metadata=LimitedMeta(
            name=meta.name, namespace=meta.namespace, uid=meta.uid, annotations=BandwidthAnnotations(**said)
        )
    )


class Pods:
    """What the watch has seen, set by hand."""

    def __init__(self, *pods: LimitedPod) -> None:
        self.generation = 0
        self.items: dict[str, LimitedPod] = {}
        self._news = asyncio.Event()
        self.say(*pods)

    def say(self, *pods: LimitedPod) -> None:
        self.items |= {f"{one.metadata.namespace}/{one.metadata.name}": one for one in pods}
        self.generation += 1
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self, since: int) -> None:
        while self.generation <= since:
            await self._news.wait()

    async def run(self) -> None:
        await asyncio.Event().wait()


@dataclass
class Rooms:
    """Books, kernel and who is told, in memory."""

    held: dict[LeaseKey, Lease]
    touched: asyncio.Queue[LeaseKey | None] = field(default_factory=asyncio.Queue)
    kernel: dict[LeaseKey, Bandwidth] = field(default_factory=dict)
    told: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    fails: str = ""
    refused: asyncio.Event = field(default_factory=asyncio.Event)
    drops: int = 0

    def leases(self) -> Sequence[Lease]:
        return list(self.held.values())

    def lease(self, key: LeaseKey) -> Lease | None:
        return self.held.get(key)

    def limit(self, key: LeaseKey, bandwidth: Bandwidth) -> Lease | None:
        if key in self.held:
            self.held[key] = replace(self.held[key], bandwidth=bandwidth)
        return self.held.get(key)

    async def repair(self, lease: Lease) -> Sequence[Op]:
        await asyncio.sleep(0)
        if self.fails:
            self.refused.set()
            raise KernelError(self.fails)
        was = self.kernel.get(lease.key)
        self.kernel[lease.key] = lease.bandwidth
        return [] if was == lease.bandwidth else [Add(item) for item in bandwidth(lease, mtu=1500)]

    async def limits_touched(self) -> LeaseKey | None:
        return await self.touched.get()

    async def queues(self, lease: Lease) -> Mapping[Direction, Queue]:
        return {} if lease.bandwidth.egress is None else {Direction.EGRESS: Queue(drops=self.drops, backlog=1000)}


@asynccontextmanager
async def following(rooms: Rooms, pods: Pods) -> AsyncIterator[BandwidthFollower]:
    watch: Any = pods
    assert {"changed", "run", "items"} <= set(dir(Reflector))
    follower = BandwidthFollower(rooms, rooms, watch, turn=lambda _key: _turn(), tell=rooms.told.put_nowait)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(follower.run())
        try:
            async with asyncio.timeout(10):
                yield follower
        finally:
            running.cancel()


@asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    with nullcontext():
        yield


def rooms_of(*leases: Lease) -> Rooms:
    return Rooms({one.key: one for one in leases}, kernel={one.key: one.bandwidth for one in leases})


async def test_an_annotation_that_changes_is_noted_and_made_so() -> None:
    """Each change once, with an Event that says the rates in one unit; leaving it off ends the limit."""
    held = lease("web")
    rooms, pods = rooms_of(held), Pods(pod("web"))
    async with following(rooms, pods):
        for said, wanted in (
            ({"ingress_bytes": "1m"}, Bandwidth(ingress=8 * 1024**2)),
            ({"ingress_bytes": "1m", "egress_bits": "10M"}, Bandwidth(8 * 1024**2, 10**7)),
            ({}, UNLIMITED),
        ):
            pods.say(pod("web", **said))
            told = await rooms.told.get()
            assert (told.about, told.type, told.reason) == (held.pod, "Normal", "BandwidthChanged")
            assert told.message == str(wanted)
            assert rooms.held[held.key].bandwidth == rooms.kernel[held.key] == wanted
        assert rooms.told.empty()


async def test_a_bad_value_keeps_the_last_good_one_and_says_so_once() -> None:
    """However often the pod's other fields change; another bad value is said again."""
    held = lease("web", limits=Bandwidth(egress=10**6))
    rooms, pods = rooms_of(held), Pods(pod("web", egress_bits="1M"))
    async with following(rooms, pods):
        for said in ("fast", "faster"):
            for _ in range(2):
                pods.say(pod("web", egress_bits=said))
            told = await rooms.told.get()
            assert (told.type, told.reason) == ("Warning", "BandwidthIgnored")
            assert "annotation kubernetes.io/egress-bandwidth: expected bits per second" in told.message
            assert f"got {said!r}; the pod keeps what it had: ingress unlimited, egress 1000000 bit/s" in told.message
            pods.say(pod("web", egress_bits=said))
        assert rooms.held[held.key] == held
        pods.say(pod("web", egress_bits="2M"))
        assert (await rooms.told.get()).reason == "BandwidthChanged"


async def test_another_pod_of_that_name_is_none_of_the_leases_business() -> None:
    """A StatefulSet's next pod may be seen before the last one's DEL."""
    held, other = lease("web-0"), lease("db-0")
    rooms, pods = rooms_of(held, other), Pods()
    async with following(rooms, pods):
        pods.say(pod("web-0", uid="another", egress_bits="1M"), pod("db-0", egress_bits="1M"))
        assert (await rooms.told.get()).about == other.pod
        assert rooms.held[held.key] == held


async def test_what_the_kernel_refuses_is_left_to_the_sweep() -> None:
    """The books say what is wanted, no Event says that it is so, and others are served."""
    held, other = lease("web"), lease("db")
    rooms, pods = rooms_of(held, other), Pods()
    async with following(rooms, pods):
        rooms.fails = "no such device"
        pods.say(pod("web", egress_bits="1M"))
        await rooms.refused.wait()
        assert rooms.held[held.key].bandwidth == Bandwidth(egress=10**6)
        rooms.fails = ""
        pods.say(pod("db", egress_bits="1M"), pod("web", egress_bits="1M"))
        assert (await rooms.told.get()).about == other.pod


async def test_limits_that_were_taken_are_put_back_and_told() -> None:
    """News of the node concern all pods that have their limits there, those of a pod its own; false ones nobody."""
    limits = Bandwidth(egress=10**6)
    shared, alone = lease("web", limits=limits), lease("db", kind=Kind.EXCLUSIVE, limits=limits)
    rooms, pods = rooms_of(shared, alone), Pods()
    before = metrics.BANDWIDTH_RESTORED._value.get()
    async with following(rooms, pods):
        for key, about in ((None, shared), (alone.key, alone)):
            rooms.kernel = dict.fromkeys(rooms.held, UNLIMITED)
            rooms.touched.put_nowait(key)
            told = await rooms.told.get()
            assert (told.about, told.type, told.reason) == (about.pod, "Warning", "BandwidthRestored")
        rooms.kernel[shared.key] = limits
        rooms.touched.put_nowait(None)
        rooms.kernel[alone.key] = UNLIMITED
        rooms.touched.put_nowait(alone.key)
        assert (await rooms.told.get()).about == alone.pod
    assert metrics.BANDWIDTH_RESTORED._value.get() - before == 3


async def test_drops_are_counted_across_buckets() -> None:
    """A counter that begins again is a new bucket; what waits is a sum."""
    rooms = rooms_of(lease("web", limits=Bandwidth(egress=10**6)), lease("db", limits=Bandwidth(egress=10**6)))
    follower = BandwidthFollower(rooms, rooms, Pods(), turn=lambda _key: _turn(), tell=rooms.told.put_nowait)  # type: ignore[arg-type]
    counter = metrics.BANDWIDTH_DROPS.labels("egress")
    before = counter._value.get()
    for drops in (5, 7, 2):
        rooms.drops = drops
        await follower.measure()
    assert counter._value.get() - before == 2 * (5 + 2 + 2)
    assert metrics.BANDWIDTH_BACKLOG.labels("egress")._value.get() == 2000
    assert metrics.BANDWIDTH_BACKLOG.labels("ingress")._value.get() == 0


def test_only_limits_are_told_of() -> None:
    """What else a sweep mends has its own words."""
    held = lease("web", limits=Bandwidth(ingress=10**6))
    rooms = rooms_of(held)
    follower = BandwidthFollower(rooms, rooms, None, turn=lambda _key: _turn(), tell=rooms.told.put_nowait)  # type: ignore[arg-type]
    follower.mended(held, ["a rule"])
    assert rooms.told.empty()
    follower.mended(held, [Add(Tbf(netns=Netns.NODE, dev="x", rate=1, burst=1, limit=1))])
    assert rooms.told.get_nowait().reason == "BandwidthRestored"
