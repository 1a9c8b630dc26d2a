"""The podCIDR of this node, read from its Node.

It is set once in the life of a Node (API server validation: podCIDR cannot change), soon after it is made; another one
comes with another Node of the same name. So it is asked for eagerly until it is there, and now and then afterwards: no
watch, no right to list Nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from random import Random
from typing import Any, Final

from eniway import log
from eniway.backoff import full_jitter
from eniway.errors import KubeError
from eniway.kube.client import KubeClient

_LOG = log.get(__name__)

AGAIN_SECONDS: Final = 300.0


def pod_cidr(node: dict[str, Any]) -> IPv4Network | None:
    """The IPv4 network among ``spec.podCIDRs``; KubeError for one that is none."""
    spec = node.get("spec", {})
    given = spec.get("podCIDRs") or filter(None, [spec.get("podCIDR")])
    try:
        return next((IPv4Network(cidr) for cidr in given if ":" not in cidr), None)
    except ValueError as error:
        raise KubeError(f"spec.podCIDRs: {error}") from error


class PodCidrReader:
    """Tells ``found`` what the Node says, each time it is read: None while it has no podCIDR."""

    def __init__(
        self, client: KubeClient, *, node: str, found: Callable[[IPv4Network | None], Awaitable[None]], random: Random
    ) -> None:
        self._client = client
        self._node = node
        self._found = found
        self._random = random

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            for delay in full_jitter(base=1, cap=60, random=self._random):
                try:
                    cidr = pod_cidr(await self._client.request("GET", f"/api/v1/nodes/{self._node}"))
                except KubeError as error:
                    _LOG.warning("Node not read", node=self._node, error=str(error), retry_in=round(delay, 1))
                else:
                    await self._found(cidr)
                    if cidr is not None:
                        break
                await asyncio.sleep(delay)
            await asyncio.sleep(self._random.uniform(0.8, 1.2) * AGAIN_SECONDS)
