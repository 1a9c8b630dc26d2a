"""Events on pods and on the node: what a user has to know, told where ``kubectl describe`` shows it.

Best effort by design: a bounded queue, repeats of one event within ten minutes dropped, and no retry; the same fact is
in the log and in a metric.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from eniway import log
from eniway.errors import KubeError
from eniway.kube.client import KubeClient
from eniway.model import PodRef

_LOG = log.get(__name__)
_QUEUE = 256
_QUIET_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class NodeRef:
    """A node by name."""

    name: str


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """Any other object; ``namespace`` is "" for one that has none."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing to tell; ``about`` None means this node. ``reason`` is CamelCase, as Kubernetes has it."""

    about: PodRef | NodeRef | ObjectRef | None
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


class Recorder:
    """Takes events at any time without waiting; ``run`` sends them."""

    def __init__(self, client: KubeClient, *, node: str, clock: Callable[[], float], new_id: Callable[[], str]) -> None:
        self._client = client
        self._node = node
        self._clock = clock
        self._new_id = new_id
        self._queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
        self._told: dict[Event, float] = {}

    def tell(self, event: Event) -> None:
        """Queue ``event`` unless it was told a short while ago or the queue is full."""
        now = self._clock()
        self._told = {told: at for told, at in self._told.items() if now - at < _QUIET_SECONDS}
        if event in self._told or self._queue.full():
            return
        self._told[event] = now
        self._queue.put_nowait(event)

    async def run(self) -> None:
        """Send queued events until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await self._send(event)
            except KubeError as error:
                _LOG.warning("event not recorded", reason=event.reason, text=event.message, error=str(error))

    async def _send(self, event: Event) -> None:
        if event.about is None or isinstance(event.about, NodeRef):
            # The kubelet's own Events about a node carry the name as the uid, and live in "default".
            namespace, node = "default", event.about.name if event.about else self._node
            about = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node}
        elif isinstance(event.about, ObjectRef):
            namespace = event.about.namespace or "default"
            about = {"apiVersion": event.about.api_version, "kind": event.about.kind, "name": event.about.name}
            about |= {"namespace": event.about.namespace} if event.about.namespace else {}
        else:
            namespace = event.about.namespace
            about = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace}
            about |= {"name": event.about.name, "uid": event.about.uid}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{about['name']}.{self._new_id()}", "namespace": namespace},
            "involvedObject": about,
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": "eniway", "host": self._node},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        await self._client.request("POST", f"/api/v1/namespaces/{namespace}/events", body=body)
