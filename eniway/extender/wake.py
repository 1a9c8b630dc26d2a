"""Wakes pods that found no room, when there is some.

kube-scheduler lets a pod that an extender refused sleep until something happens in the cluster that it watches. Room on
a node is nothing it watches. So the node is marked with the time, an annotation: that it does.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from random import Random
from typing import Final

from eniway import log, metrics, names
from eniway.backoff import full_jitter
from eniway.errors import KubeError
from eniway.kube.client import MERGE, KubeClient

_log = log.get(__name__)

INTERVAL: Final = 0.5
"""Seconds between two marks: one wakes all that sleep."""


class Waker:
    """``run`` marks the node that ``wake`` was last called with."""

    def __init__(self, client: KubeClient, *, random: Random) -> None:
        self._client = client
        self._random = random
        self._node = ""
        self._due = asyncio.Event()

    def wake(self, node: str) -> None:
        """``node`` has room that it had not, and somebody sleeps who needs it."""
        self._node = node
        self._due.set()

    async def run(self) -> None:
        """Mark nodes until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            await self._mark()
            await asyncio.sleep(INTERVAL)

    async def _mark(self) -> None:
        for delay in full_jitter(base=0.2, cap=5, random=self._random):
            node = self._node
            stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            body = {"metadata": {"annotations": {names.ANNOTATION_ROOM_SINCE: stamp}}}
            try:
                # The status subresource takes metadata too, and gives no right to the Node's spec
                await self._client.request("PATCH", f"/api/v1/nodes/{node}/status", body=body, content_type=MERGE)
            except KubeError as error:
                _log.warning("waiting pods are not woken", node=node, error=str(error), retry_in=round(delay, 1))
                if error.status == _NOT_FOUND and self._node == node:
                    return
            else:
                metrics.EXTENDER_WAKES.inc()
                return
            await asyncio.sleep(delay)


_NOT_FOUND: Final = 404
