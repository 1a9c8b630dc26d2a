"""Events about packets that NetworkPolicy drops, from samples that the kernel logs.

It logs in the node's namespace, and in an exclusive pod's what that pod's card drops. A socket in a pod's namespace
would keep that, and the card in it, after the pod's end, so it is closed before the pod's network is taken down.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from itertools import islice
from typing import Final

from datapath import nflog
from eniway import log, metrics, names
from eniway.kube.events import Event
from eniway.model import Kind, Lease, LeaseKey
from networkpolicy.drops import Drop, Pace, ends, judge
from networkpolicy.model import Model

_log = log.get(__name__)
_PORTION: Final = 500
"""Pods that are looked at in half a millisecond."""
_AGAIN_SECONDS: Final = 60.0
"""Between attempts to have the group, when another program has it."""


class DropEvents:
    """``model`` says whose packets they are and why they were dropped; ``path``: of the namespace, None: this one."""

    def __init__(self, model: Model, *, tell: Callable[[Event], None], path: str | None = None) -> None:
        self._model = model
        self._tell = tell
        self._path = path
        self._pace = Pace()
        self._due: asyncio.Queue[Drop] = asyncio.Queue()
        self._wanted: dict[LeaseKey, str] = {}
        """Namespaces of exclusive pods."""
        self._heard: dict[LeaseKey | None, socket.socket] = {}
        """None: the node's."""
        self._opening: set[LeaseKey] = set()
        self._refused: set[LeaseKey] = set()
        """Pods in which another program has the group."""

    async def run(self) -> None:
        """Tell of drops until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                if not self._hears_node():
                    group.create_task(self._insist())
                while True:
                    drop = await self._due.get()
                    text = drop.text(await self._name(drop.peer))
                    _log.info("policy dropped a packet", pod=str(drop.pod), audit=drop.audit, text=text)
                    if drop.audit:
                        self._tell(Event(drop.pod, "Warning", "NetworkPolicyAudit", text))
                    else:
                        self._tell(Event(drop.pod, "Warning", "NetworkPolicyDropped", text))
        finally:
            self._wanted.clear()
            for key in list(self._heard):
                await asyncio.shield(self._close(key))

    async def follow(self, leases: Iterable[Lease]) -> None:
        """Listen in the exclusive ones of ``leases`` and nowhere else."""
        self._wanted = {lease.key: lease.netns for lease in leases if lease.kind is Kind.EXCLUSIVE}
        self._refused &= self._wanted.keys()
        for key in [key for key in self._heard if key is not None and key not in self._wanted]:
            await self._close(key)
        for key in list(self._wanted):
            await self._hear(key)

    async def listen(self, lease: Lease) -> None:
        """In a pod that starts, if it is exclusive."""
        if lease.kind is Kind.EXCLUSIVE:
            self._wanted[lease.key] = lease.netns
            await self._hear(lease.key)

    async def forget(self, key: LeaseKey) -> None:
        """In a pod that ends; of any kind, known or not."""
        self._wanted.pop(key, None)
        self._refused.discard(key)
        await self._close(key)

    def _hears_node(self) -> bool:
        try:
            self._add(None, nflog.listener(names.POLICY_SAMPLE_GROUP, self._path))
        except OSError as error:
            _log.warning("packets that policies drop are not told of", error=str(error))
            return False
        return True

    async def _insist(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN_SECONDS)
            if self._hears_node():
                return

    async def _hear(self, key: LeaseKey) -> None:
        path = self._wanted.get(key)
        if path is None or key in self._heard or key in self._refused or key in self._opening:
            return
        self._opening.add(key)
        opening = asyncio.ensure_future(asyncio.to_thread(nflog.listener, names.POLICY_SAMPLE_GROUP, path))
        try:
            made = await asyncio.shield(opening)
        except OSError as error:
            if error.errno == errno.EPERM:
                self._refused.add(key)
                _log.warning("what a pod's card drops is not told of", container=key.container_id, error=str(error))
            return
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise
        finally:
            self._opening.discard(key)
        if self._wanted.get(key) == path and key not in self._heard:
            self._add(key, made)
        else:
            await asyncio.to_thread(made.close)

    def _add(self, key: LeaseKey | None, made: socket.socket) -> None:
        self._heard[key] = made
        asyncio.get_running_loop().add_reader(made, self._receive, made)

    async def _close(self, key: LeaseKey | None) -> None:
        made = self._heard.pop(key, None)
        if made is not None:
            asyncio.get_running_loop().remove_reader(made)
            await asyncio.to_thread(made.close)  # may wait for the kernel to free rules

    def _receive(self, listening: socket.socket) -> None:
        now = asyncio.get_running_loop().time()
        local_ends = ends(self._model)
        for logged in nflog.receive(listening):
            drop = judge(self._model, local_ends, logged)
            if drop is not None:
                metrics.POLICY_DROPS.labels("audit" if drop.audit else "drop").inc()
                if self._pace.allows(drop, now):
                    self._due.put_nowait(drop)

    async def _name(self, address: IPv4Address) -> str | None:
        """namespace/name of the pod at an address; the loop goes on between portions of all pods."""
        pods = self._model.each_pod()
        while portion := list(islice(pods, _PORTION)):
            if (pod := self._model.pod_at(address.packed, portion)) is not None:
                return f"{pod.namespace}/{pod.name}"
            await asyncio.sleep(0)
        return None


def _close_late(opening: asyncio.Future[socket.socket]) -> None:
    """Of a socket that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
