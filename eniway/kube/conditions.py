"""Conditions of other components' objects, written so that nothing else of the object is touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eniway import names
from eniway.kube.client import APPLY, MERGE, KubeClient


async def write_node(client: KubeClient, name: str, condition: Mapping[str, Any]) -> None:
    """Set one condition of a Node: the list is merged by type."""
    await client.request(
        "PATCH", f"/api/v1/nodes/{name}/status", body={"status": {"conditions": [condition]}}, content_type=MERGE
    )


async def write_node_network(client: KubeClient, name: str, condition: Mapping[str, Any], *, manager: str) -> None:
    """Set ``manager``'s one condition of a NodeNetwork (server-side apply); the node's daemon owns all else."""
    await client.request(
        "PATCH",
        f"/apis/{names.API_VERSION}/nodenetworks/{name}/status",
        body={
            "apiVersion": names.API_VERSION,
            "kind": "NodeNetwork",
            "metadata": {"name": name},
            "status": {"conditions": [condition]},
        },
        content_type=APPLY,
        query={"fieldManager": manager, "force": "true"},
    )
