"""Keep this node's NodeNetwork as the books have it.

A change from no free capacity to some is written at once, so that a waiting pod is scheduled; everything else at most
every ``interval``. A failed write is tried again with backoff: the object is derived, nothing is lost while the API
server is away. It is also written again now and then as it is, and at once where a write made it anew, under the Node
as it is by then: someone may have deleted or edited it, and a Node that registered anew has another uid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
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
        reassert: float = 600.0,
    ) -> None:
        self._client = client
        self._node = node
        self._status = status
        self._changed = changed
        self._random = random
        self._interval = interval
        self._reassert = reassert

    async def run(self) -> None:
        """Publish until cancelled."""
        loop = asyncio.get_running_loop()
        owner: dict[str, Any] | None = None
        owned_at = 0.0
        uid: str | None = None
        written: Status | None = None
        wrote_at = 0.0
        while True:
            if owner is None or loop.time() - owned_at >= self._reassert:
                owner = await self._forever(self._owner)
                owned_at = loop.time()
                written = None
            status = self._status()
            age = loop.time() - wrote_at
            if status != written and (age >= self._interval or urgent(written, status)):
                before, uid = uid, await self._forever(partial(self._write, owner, status))
                written, wrote_at = status, loop.time()
                if before not in (None, uid):
                    # Made anew: it went with the Node that it is written under, or somebody deleted it
                    owner = None
            elif status != written and not self._is_none_left(written):
                # Nothing of it is urgent before the interval is over, so changes need not be looked at.
                await asyncio.sleep(self._interval - age)
            else:
                await self._change_within(self._interval - age if status != written else self._reassert)

    @staticmethod
    def _is_none_left(written: Status | None) -> bool:
        return written is None or any(count <= 0 for count in free(written).values())

    async def _change_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed()

    async def _owner(self) -> dict[str, Any]:
        """The Node, as owner: its NodeNetwork goes when it goes."""
        node = await self._client.request("GET", f"/api/v1/nodes/{self._node}")
        return {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"]}

    async def _write(self, owner: dict[str, Any], status: Status) -> str | None:
        """The uid of what was written."""
        head = {"apiVersion": names.API_VERSION, "kind": "NodeNetwork"}
        path = f"{_PATH}/{self._node}"
        answer = await self._client.request(
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
        uid: str | None = answer.get("metadata", {}).get("uid")
        return uid

    async def _forever(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        for delay in full_jitter(base=1, cap=30, random=self._random):
            try:
                return await attempt()
            except KubeError as error:
                _LOG.warning("NodeNetwork not published", node=self._node, error=str(error), retry_in=round(delay, 1))
            await asyncio.sleep(delay)
        raise AssertionError("full_jitter is endless")
