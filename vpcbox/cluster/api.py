"""The few questions the box itself asks the API server."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp


@dataclass(frozen=True, slots=True)
class NodeState:
    """How far a node is part of the cluster."""

    ready: bool
    has_pod_cidr: bool  # the controller manager gives it, a moment after kubelet has registered the node
    boot_id: str  # as kubelet has last reported it


class Api:
    """A client of the cluster's API server, with the administrator's certificate."""

    def __init__(self, server: str, authority: Path, certificate: Path, key: Path) -> None:
        """Talk to `server` (https://127.0.0.1:port); the files are PEM."""
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(certificate, key)
        self._session = aiohttp.ClientSession(
            server, connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(total=10)
        )

    async def __aenter__(self) -> Self:
        """The connection is made with the first question."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._session.close()

    async def ready(self) -> bool:
        """Whether the API server serves and its own roles and namespaces are in place."""
        try:
            async with self._session.get("/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def nodes(self) -> Mapping[str, NodeState]:
        """The registered nodes."""
        async with self._session.get("/api/v1/nodes") as answer:
            answer.raise_for_status()
            items = (await answer.json())["items"]
        return {
            item["metadata"]["name"]: NodeState(
                ready=any(
                    condition["type"] == "Ready" and condition["status"] == "True"
                    for condition in item["status"].get("conditions", [])
                ),
                has_pod_cidr="podCIDR" in item["spec"],
                boot_id=item["status"].get("nodeInfo", {}).get("bootID", ""),
            )
            for item in items
        }

    async def delete_node(self, name: str) -> None:
        """Forget a node; one that is not there is no error."""
        async with self._session.delete(f"/api/v1/nodes/{name}") as answer:
            if answer.status != 404:
                answer.raise_for_status()
