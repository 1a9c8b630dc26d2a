"""Events about packets that NetworkPolicy drops, from samples that the kernel logs in the node's namespace.

What an exclusive pod's card drops is logged in the pod's own namespace and not told of: a socket in there would keep
the namespace, and the card in it, after the pod's end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from itertools import islice
from typing import Final

from datapath import nflog
from eniway import log, metrics, names
from eniway.kube.events import Event
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

    async def run(self) -> None:
        """Tell of drops until cancelled."""
        listening = await self._listen()
        loop = asyncio.get_running_loop()
        loop.add_reader(listening, self._receive, listening)
        try:
            while True:
                drop = await self._due.get()
                text = drop.text(await self._name(drop.peer))
                _log.info("policy dropped a packet", pod=str(drop.pod), audit=drop.audit, text=text)
                if drop.audit:
                    self._tell(Event(drop.pod, "Warning", "NetworkPolicyAudit", text))
                else:
                    self._tell(Event(drop.pod, "Warning", "NetworkPolicyDropped", text))
        finally:
            loop.remove_reader(listening)
            # May wait for the kernel to free rules
            await asyncio.shield(asyncio.to_thread(listening.close))

    async def _listen(self) -> socket.socket:
        while True:
            try:
                return nflog.listener(names.POLICY_SAMPLE_GROUP, self._path)
            except OSError as error:
                _log.warning("packets that policies drop are not told of", error=str(error))
            await asyncio.sleep(_AGAIN_SECONDS)

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
