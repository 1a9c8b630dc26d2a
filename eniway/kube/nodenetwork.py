"""Keep this node's NodeNetwork as the books have it.

A change from no free capacity to some is written at once, so that a waiting pod is scheduled; everything else at most
every ``interval``. A failed write is tried again with backoff: the object is derived, nothing is lost while the API
server is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from random import Random
from typing import Any, TypeVar

from eniway import log, names
from eniway.backoff import full_jitter
from eniway.errors import KubeError
from eniway.kube.client import APPLY, KubeClient

_T = TypeVar("_T")
Status = Mapping[str, Any]
_LOG = log.get(__name__)
_PATH = f"/apis/{names.API_VERSION}/nodenetworks"
_MANAGER = {"fieldManager": "eniway-node", "force": "true"}


def free(status: Status) -> Mapping[str, int]:
    """Free slots and addresses of a status."""
    return {what: int(words.get("free", 0)) for what, words in status.get("capacity", {}).items()}


def urgent(before: Status | None, after: Status) -> bool:
    """Whether ``after`` has to be written at once: the first one, or one that turns none into some."""
    if before is None:
        return True
    earlier = free(before)
    return any(count > 0 and earlier.get(what, 0) <= 0 for what, count in free(after).items())


class NodeNetworkPublisher:
    """Writes ``status()`` whenever ``changed()`` returns."""

    def __init__(
        self,
        client: KubeClient,
        *,
        node: str,
        status: Callable[[], Status],
        changed: Callable[[], Awaitable[None]],
        random: Random,
        interval: float = 5.0,
    ) -> None:
        self._client = client
        self._node = node
        self._status = status
        self._changed = changed
        self._random = random
        self._interval = interval

    async def run(self) -> None:
        """Publish until cancelled."""
        loop = asyncio.get_running_loop()
        written: Status | None = None
        wrote_at = 0.0
        owner = await self._forever(self._owner)
        while True:
            status = self._status()
            if status != written:
                rest = wrote_at + self._interval - loop.time()
                if rest > 0 and not urgent(written, status):
                    await self._sleep_or_change(rest)
                    continue
                await self._forever(partial(self._write, owner, status))
                written, wrote_at = status, loop.time()
                continue
            await self._changed()

    async def _sleep_or_change(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed()
        except TimeoutError:
            pass

    async def _owner(self) -> dict[str, Any]:
        """The Node, as owner: its NodeNetwork goes when it goes."""
        node = await self._client.request("GET", f"/api/v1/nodes/{self._node}")
        return {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"]}

    async def _write(self, owner: dict[str, Any], status: Status) -> None:
        head = {"apiVersion": names.API_VERSION, "kind": "NodeNetwork"}
        path = f"{_PATH}/{self._node}"
        await self._client.request(
            "PATCH",
            path,
            body={**head, "metadata": {"name": self._node, "ownerReferences": [owner]}},
            content_type=APPLY,
            query=_MANAGER,
        )
        await self._client.request(
            "PATCH",
            f"{path}/status",
            body={**head, "metadata": {"name": self._node}, "status": status},
            content_type=APPLY,
            query=_MANAGER,
        )

    async def _forever(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        for delay in full_jitter(base=1, cap=30, random=self._random):
            try:
                return await attempt()
            except KubeError as error:
                _LOG.warning("NodeNetwork not published", node=self._node, error=str(error), retry_in=round(delay, 1))
            await asyncio.sleep(delay)
        raise AssertionError("full_jitter is endless")
