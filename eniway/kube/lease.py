"""The leader's lock: of several processes one acts, by a Lease of coordination.k8s.io/v1.

The rules are those of Kubernetes' own leader election: the holder renews the Lease; who sees it unchanged for its whole
duration, by its own monotonic clock, takes it; every write names the version that was read, so of two only one
succeeds. The holder stops acting well before others may take over. A request that was sent before that can still
arrive: what is done under the lock has to be harmless when done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

import msgspec

from eniway import log, metrics
from eniway.errors import KubeError
from eniway.kube.client import KubeClient

_log = log.get(__name__)
_CONFLICT: Final = 409
_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. ``renew_within`` is how old the last renewal may get before the holder stops acting."""

    duration: int = 15
    renew_within: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        assert 0 < self.retry < self.renew_within < self.duration


class LeaseSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """spec of a Lease; times are RFC 3339 with microseconds."""

    holder: str | None = msgspec.field(default=None, name="holderIdentity")
    duration: int | None = msgspec.field(default=None, name="leaseDurationSeconds")
    acquired: str | None = msgspec.field(default=None, name="acquireTime")
    renewed: str | None = msgspec.field(default=None, name="renewTime")
    transitions: int | None = msgspec.field(default=None, name="leaseTransitions")


@dataclass(frozen=True, slots=True)
class Sighting:
    """A Lease as it was read; ``since`` is the monotonic time it was first seen so. None: there is no Lease."""

    spec: LeaseSpec | None
    version: str
    since: float


class Step(Enum):
    """What to do about a Lease."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


def decide(seen: Sighting, *, me: str, now: float) -> Step:
    """The step of process ``me`` at monotonic time ``now``."""
    if seen.spec is None:
        return Step.CREATE
    if seen.spec.holder == me:
        return Step.RENEW
    if not seen.spec.holder or now >= seen.since + (seen.spec.duration or 0):
        return Step.TAKE
    return Step.WAIT


def held_by(me: str, before: LeaseSpec | None, *, duration: int, wall: datetime) -> LeaseSpec:
    """What ``me`` writes to hold the Lease at ``wall``."""
    stamp = wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if before is not None and before.holder == me:
        return msgspec.structs.replace(before, duration=duration, renewed=stamp)
    transitions = 0 if before is None else (before.transitions or 0) + 1
    return LeaseSpec(me, duration, stamp, stamp, transitions)


class LeaderLock:
    """One process's side of the lock. ``me`` has to differ between processes, restarts included."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        me: str,
        clock: Callable[[], float],
        wall: Callable[[], datetime],
        timing: Timing | None = None,
    ) -> None:
        self._client = client
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._name = name
        self._me = me
        self._clock = clock
        self._wall = wall
        self._timing = timing or Timing()
        self._seen: Sighting | None = None

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` whenever the lock is held, cancelled when it is lost; for ever. Given back when cancelled."""
        while True:
            renewed_at = await self._acquire()
            _log.info("leading", lease=self._name, identity=self._me)
            metrics.LEADER.set(1)
            try:
                async with asyncio.TaskGroup() as group:
                    working = group.create_task(_endless(work))
                    await self._keep(renewed_at)
                    working.cancel()
                _log.warning("the leader's lock is lost", lease=self._name, identity=self._me)
            finally:
                metrics.LEADER.set(0)
                await self._release()

    async def _acquire(self) -> float:
        """Return once the lock is held, with the monotonic time of the renewal."""
        while True:
            began = self._clock()
            try:
                if await self._try():
                    return began
            except KubeError as error:
                _log.warning("leader's lock: no answer", lease=self._name, error=str(error))
            await asyncio.sleep(self._timing.retry)

    async def _keep(self, renewed_at: float) -> None:
        """Renew; return when somebody else holds it, or nothing has been heard for ``renew_within``."""
        while True:
            left = renewed_at + self._timing.renew_within - self._clock()
            try:
                async with asyncio.timeout(left):
                    await asyncio.sleep(self._timing.retry)
                    began = self._clock()
                    if not await self._try():
                        return
                    renewed_at = began
            except KubeError as error:
                _log.warning("leader's lock: not renewed", lease=self._name, error=str(error))
            except TimeoutError:
                return

    async def _try(self) -> bool:
        """One look and, if it is for us to, one write; whether we hold it now."""
        seen = await self._look()
        step = decide(seen, me=self._me, now=self._clock())
        if step is Step.WAIT:
            return False
        try:
            await self._write(seen, held_by(self._me, seen.spec, duration=self._timing.duration, wall=self._wall()))
        except KubeError as error:
            if error.status != _CONFLICT:
                raise
            return False
        return True

    async def _look(self) -> Sighting:
        try:
            found = await self._client.request("GET", f"{self._leases}/{self._name}")
        except KubeError as error:
            if error.status != _NOT_FOUND:
                raise
            found = {}
        version = found.get("metadata", {}).get("resourceVersion", "")
        if self._seen is None or self._seen.version != version:
            spec = msgspec.convert(found.get("spec") or {}, LeaseSpec) if found else None
            self._seen = Sighting(spec, version, self._clock())
        return self._seen

    async def _write(self, seen: Sighting, spec: LeaseSpec) -> None:
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        if seen.spec is None:
            await self._client.request("POST", self._leases, body=body)
        else:
            metadata["resourceVersion"] = seen.version
            await self._client.request("PUT", f"{self._leases}/{self._name}", body=body)

    async def _release(self) -> None:
        """Let the next one have it at once. If that fails, it waits for the Lease to run out."""
        try:
            async with asyncio.timeout(self._timing.retry):
                seen = await self._look()
                if seen.spec is not None and seen.spec.holder == self._me:
                    await self._write(seen, msgspec.structs.replace(seen.spec, holder="", duration=1))
        except (KubeError, TimeoutError) as error:
            _log.info("the leader's lock was not given back", lease=self._name, error=str(error))


async def _endless(work: Callable[[], Awaitable[None]]) -> None:
    await work()
    raise AssertionError("what is done under the lock does not end by itself")
