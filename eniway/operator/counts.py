"""Addresses as the scheduler itself counts them, and the condition SufficientIP, on the Nodes.

``aliyun/eni-ip`` is how many pods that ask for nothing a node can have at best: by its instance type and configuration,
whatever is in stock. kubelet refuses pods beyond the count of its node, for good, so it must not sink below what runs.
It keeps resources that others write, but forgets them when it registers anew: they are looked at again after each
change of a Node. Allocatable is written too, or the scheduler would wait for kubelet's next report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any, Final

from eniway import log, names
from eniway.backoff import full_jitter
from eniway.errors import KubeError
from eniway.kube.client import MERGE, KubeClient
from eniway.kube.reflector import Reflector, either_changed
from eniway.kube.views import Condition, Node, NodeNetwork, NodeNetworkStatus, condition_of
from eniway.model import Wish

_log = log.get(__name__)

CONDITION: Final = "SufficientIP"


def count(status: NodeNetworkStatus) -> int | None:
    """``aliyun/eni-ip`` of a node; None while its daemon does not know."""
    ready = condition_of(status.conditions, "Ready")
    if ready is None or ready.status != "True":
        return None
    shared, routed = status.capacity.addresses.most, status.capacity.routed.most
    return {Wish.SHARED: shared, Wish.ROUTED: routed, Wish.SHARED_ELSE_ROUTED: shared + routed}[status.default]


def writes(nodes: Mapping[str, Node], networks: Mapping[str, NodeNetwork]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the Nodes do not say yet: name, and the status to merge."""
    for name, network in networks.items():
        node = nodes.get(name)
        if node is None:
            continue
        status: dict[str, Any] = {}
        addresses = count(network.status)
        for what, resources in (("capacity", node.status.capacity), ("allocatable", node.status.allocatable)):
            if addresses is not None and str(resources.addresses) != str(addresses):
                status[what] = {names.RESOURCE_ENI_IP: str(addresses)}
        said, known = (condition_of(of.status.conditions, CONDITION) for of in (network, node))
        if said is not None and said.status != "Unknown" and not _same(said, known):
            status["conditions"] = [
                {
                    "type": CONDITION,
                    "status": said.status,
                    "reason": said.reason,
                    "message": said.message,
                    "lastTransitionTime": said.last_transition_time,
                }
            ]
        if status:
            yield name, status


def _same(said: Condition, known: Condition | None) -> bool:
    return known is not None and (known.status, known.reason, known.message) == (said.status, said.reason, said.message)


class Counts:
    """``run`` while leading."""

    def __init__(
        self,
        client: KubeClient,
        *,
        nodes: Reflector[Node],
        networks: Reflector[NodeNetwork],
        random: Random,
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._networks = networks
        self._random = random

    async def run(self) -> None:
        """Keep the Nodes' counts and conditions until cancelled."""
        delays = full_jitter(base=1, cap=30, random=self._random)
        while True:
            seen = self._nodes.generation, self._networks.generation
            failed = False
            for name, status in list(writes(self._nodes.items, self._networks.items)):
                try:
                    path = f"/api/v1/nodes/{name}/status"
                    await self._client.request("PATCH", path, body={"status": status}, content_type=MERGE)
                except KubeError as error:
                    failed = True
                    _log.warning("a node's count of addresses is not written", node=name, error=str(error))
            if failed:
                await asyncio.sleep(next(delays))
                continue
            delays = full_jitter(base=1, cap=30, random=self._random)
            await either_changed((self._nodes, seen[0]), (self._networks, seen[1]))
