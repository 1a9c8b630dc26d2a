"""Bandwidth while pods run: annotations that change are followed, limits that somebody took away are put back.

At ADD the annotations come with the request and the lease keeps what they said, so a restart or an API server that is
away changes nothing. Here this node's pods are watched; what a pod asks for now and its lease does not say yet is noted
there, then made so in place. A value that makes no sense changes nothing: the last good one stays, an Event says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from random import Random
from typing import Final, Protocol

from datapath.diff import Op
from datapath.state import Direction, Ifb, Redirect, Tbf
from datapath.tc import Queue
from eniway import log, metrics
from eniway.errors import BadAnnotation, EniwayError
from eniway.kube.client import KubeClient
from eniway.kube.events import Event
from eniway.kube.reflector import Reflector
from eniway.kube.views import BandwidthAnnotations, LimitedPod
from eniway.model import UNLIMITED, Bandwidth, Kind, Lease, LeaseKey
from eniway.units import bandwidth_of

_log = log.get(__name__)

LOOK_SECONDS: Final = 15.0
"""How often queues are read, and annotations compared though none was heard to change: an ADD was under way then."""
_GATHER_SECONDS: Final = 0.2
_NONE: Final = BandwidthAnnotations()


class Books(Protocol):
    """The books' part."""

    def leases(self) -> Sequence[Lease]:
        """All leases."""
        ...

    def lease(self, key: LeaseKey) -> Lease | None:
        """The lease of ``key``."""
        ...

    def limit(self, key: LeaseKey, bandwidth: Bandwidth) -> Lease | None:
        """Note a lease's bandwidth; the lease as it is then."""
        ...


class Network(Protocol):
    """The kernel's part."""

    async def repair(self, lease: Lease) -> Sequence[Op]:
        """Bring the kernel to what the lease says; what was done."""
        ...

    async def limits_touched(self) -> LeaseKey | None:
        """Return when somebody may have touched the limits of an exclusive pod's lease; None: any other's."""
        ...

    async def queues(self, lease: Lease) -> Mapping[Direction, Queue]:
        """How the pod's buckets are doing."""
        ...


def watch_of(client: KubeClient, *, node: str, random: Random) -> Reflector[LimitedPod]:
    """This node's pods."""
    query = {"fieldSelector": f"spec.nodeName={node}"}
    return Reflector(client, "/api/v1/pods", LimitedPod, random=random, query=query)


class BandwidthFollower:
    """Follows annotations, minds limits, counts drops. ``turn`` is the doors' order of requests for one lease."""

    def __init__(
        self,
        books: Books,
        network: Network,
        pods: Reflector[LimitedPod],
        *,
        turn: Callable[[LeaseKey], AbstractAsyncContextManager[None]],
        tell: Callable[[Event], None],
    ) -> None:
        self._books = books
        self._network = network
        self._pods = pods
        self._turn = turn
        self._tell = tell
        self._refused: dict[LeaseKey, str] = {}
        self._drops: dict[tuple[LeaseKey, Direction], int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pods.run())
            group.create_task(self._follow())
            group.create_task(self._mind())
            group.create_task(self._measure())

    def mended(self, lease: Lease, ops: Iterable[object]) -> None:
        """Tell of limits among what was put back."""
        if any(isinstance(getattr(op, "item", None), Ifb | Tbf | Redirect) for op in ops):
            metrics.BANDWIDTH_RESTORED.inc()
            text = f"limits were missing or changed and were put back: {lease.bandwidth}"
            self._tell(Event(lease.pod, "Warning", "BandwidthRestored", text))

    async def _follow(self) -> None:
        seen = 0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._pods.changed(seen)
            seen = self._pods.generation
            leases = self._books.leases()
            self._refused = {lease.key: self._refused[lease.key] for lease in leases if lease.key in self._refused}
            for lease in leases:
                await self._compare(lease)

    async def _compare(self, lease: Lease) -> None:
        pod = self._pods.items.get(str(lease.pod))
        if pod is None or pod.metadata.uid != lease.pod.uid:
            return
        try:
            wanted = bandwidth_of((pod.metadata.annotations or _NONE).as_mapping())
        except BadAnnotation as error:
            self._refuse(lease, str(error))
            return
        self._refused.pop(lease.key, None)
        if wanted != lease.bandwidth:
            with log.bind(pod=lease.pod, container=lease.key.container_id):
                await self._limit(lease.key, wanted)

    def _refuse(self, lease: Lease, why: str) -> None:
        if self._refused.get(lease.key) != why:
            self._refused[lease.key] = why
            metrics.INVALID_REQUESTS.labels(BadAnnotation.__name__).inc()
            _log.warning("bandwidth not changed", pod=str(lease.pod), error=why)
            text = f"{why}; the pod keeps what it had: {lease.bandwidth}"
            self._tell(Event(lease.pod, "Warning", "BandwidthIgnored", text))

    async def _limit(self, key: LeaseKey, wanted: Bandwidth) -> None:
        try:
            async with self._turn(key):
                # Since it was compared a DEL may have come.
                if (lease := self._books.limit(key, wanted)) is None:
                    return
                await self._network.repair(lease)
        except EniwayError as error:
            _log.warning("bandwidth is left to the next sweep", error=str(error))
            return
        _log.info("bandwidth changed", bandwidth=str(wanted))
        self._tell(Event(lease.pod, "Normal", "BandwidthChanged", str(wanted)))

    async def _mind(self) -> None:
        while True:
            key = await self._network.limits_touched()
            # One hand that takes away a device is heard several times.
            await asyncio.sleep(_GATHER_SECONDS)
            for lease in self._limited():
                if (lease.key == key) if key is not None else (lease.kind is not Kind.EXCLUSIVE):
                    await self._restore(lease.key)

    async def _restore(self, key: LeaseKey) -> None:
        try:
            async with self._turn(key):
                if (lease := self._books.lease(key)) is None:
                    return
                ops = await self._network.repair(lease)
        except EniwayError as error:
            _log.warning("limits are left to the next sweep", container=key.container_id, error=str(error))
            return
        self.mended(lease, ops)

    async def measure(self) -> None:
        """Bring the metrics up to date."""
        backlog = dict.fromkeys(Direction, 0)
        drops: dict[tuple[LeaseKey, Direction], int] = {}
        for lease in self._limited():
            with suppress(EniwayError):
                for direction, queue in (await self._network.queues(lease)).items():
                    backlog[direction] += queue.backlog
                    drops[lease.key, direction] = queue.drops
        for (key, direction), count in drops.items():
            before = self._drops.get((key, direction), 0)
            # Fewer than before: a new bucket.
            metrics.BANDWIDTH_DROPS.labels(direction.value).inc(count - before if count >= before else count)
        held = {lease.key for lease in self._limited()}
        self._drops = {of: count for of, count in self._drops.items() if of[0] in held} | drops
        for direction, waiting in backlog.items():
            metrics.BANDWIDTH_BACKLOG.labels(direction.value).set(waiting)

    async def _measure(self) -> None:
        while True:
            await self.measure()
            await asyncio.sleep(LOOK_SECONDS)

    def _limited(self) -> list[Lease]:
        return [lease for lease in self._books.leases() if lease.bandwidth != UNLIMITED]
