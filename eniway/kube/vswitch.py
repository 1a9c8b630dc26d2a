"""The VSwitch objects: how many addresses each vSwitch has left, told once for the cluster.

Object name: the vSwitch's id. status: {zone, cidr, available, readAt}. Written by the operator alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from eniway import names
from eniway.errors import KubeError
from eniway.kube.client import APPLY, KubeClient

KIND: Final = "VSwitch"
PATH: Final = f"/apis/{names.API_VERSION}/vswitches"
_NOT_FOUND: Final = 404
_MANAGER: Final = {"fieldManager": "eniway-operator", "force": "true"}


async def told(client: KubeClient) -> frozenset[str]:
    """Ids of the vSwitches that there are objects of."""
    return frozenset(item["metadata"]["name"] for item in (await client.request("GET", PATH)).get("items", []))


async def write(client: KubeClient, vswitch_id: str, status: Mapping[str, Any]) -> None:
    """Tell a vSwitch's status; its object is made where there is none."""
    head = {"apiVersion": names.API_VERSION, "kind": KIND, "metadata": {"name": vswitch_id}}
    path = f"{PATH}/{vswitch_id}"
    for attempt in range(2):
        try:
            await client.request(
                "PATCH", f"{path}/status", body={**head, "status": status}, content_type=APPLY, query=_MANAGER
            )
        except KubeError as error:
            if error.status != _NOT_FOUND or attempt:
                raise
            await client.request("PATCH", path, body=head, content_type=APPLY, query=_MANAGER)
        else:
            return


async def delete(client: KubeClient, vswitch_id: str) -> None:
    """Tell nothing of it any more."""
    try:
        await client.request("DELETE", f"{PATH}/{vswitch_id}")
    except KubeError as error:
        if error.status != _NOT_FOUND:
            raise
