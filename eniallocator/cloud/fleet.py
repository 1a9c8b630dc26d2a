"""All ENIs of a VPC, as the operator looks at them: whose they are and whether somebody has them.

By VPC, not by tag: a Describe that filters by tag shows a thousand ENIs at most (API reference,
DescribeNetworkInterfaces, Tag.N), and one by VPC shows the primary cards of living instances too, which are evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from eniallocator.cloud.api import EniStatus
from eniallocator.cloud.caller import Caller, cursor_of, existing, listed, nothing
from eniway.model import EniId, InstanceId

PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class FleetEni:
    """An ENI of the VPC, whoever made it."""

    eni_id: EniId
    status: EniStatus
    secondary_type: bool
    instance_id: InstanceId | None
    """Where it is attached, or being attached or detached."""
    tags: Mapping[str, str]


class FleetApi(Protocol):
    """The OpenAPI (ECS 2014-05-26), as far as abandoned ENIs need it. Errors are those of ``cloud.errors``."""

    async def enis(self, vpc_id: str) -> tuple[FleetEni, ...]:
        """DescribeNetworkInterfaces of a VPC, all pages."""
        ...

    async def instances(self, ids: Collection[InstanceId]) -> frozenset[InstanceId]:
        """DescribeInstances: those of ``ids``, at most ``caller.MOST_INSTANCES``, that exist."""
        ...

    async def delete_eni(self, eni_id: EniId) -> None:
        """DeleteNetworkInterface; begun when it returns, NotFound where it is gone."""
        ...


class Fleet:
    """``FleetApi`` over a caller."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def enis(self, vpc_id: str) -> tuple[FleetEni, ...]:
        """As FleetApi says."""
        found: list[FleetEni] = []
        cursor = ""
        while True:
            params = {"VpcId": vpc_id, "MaxResults": str(PAGE), **({"NextToken": cursor} if cursor else {})}
            page, cursor = await self._caller.call("Ecs", "DescribeNetworkInterfaces", params, _page)
            found += page
            if not cursor:
                return tuple(found)

    async def instances(self, ids: Collection[InstanceId]) -> frozenset[InstanceId]:
        """As FleetApi says."""
        return await existing(self._caller, ids)

    async def delete_eni(self, eni_id: EniId) -> None:
        """As FleetApi says."""
        await self._caller.call("Ecs", "DeleteNetworkInterface", {"NetworkInterfaceId": eni_id}, nothing)


def _page(answer: Mapping[str, Any]) -> tuple[list[FleetEni], str]:
    return [_eni(item) for item in listed(answer, "NetworkInterfaceSets", "NetworkInterfaceSet")], cursor_of(answer)


def _eni(item: Mapping[str, Any]) -> FleetEni:
    status = item.get("Status", "")
    return FleetEni(
        eni_id=EniId(item["NetworkInterfaceId"]),
        status=EniStatus(status) if status in EniStatus.__members__.values() else EniStatus.OTHER,
        secondary_type=item.get("Type") == "Secondary",
        instance_id=InstanceId(item["InstanceId"]) if item.get("InstanceId") else None,
        tags={tag["TagKey"]: tag["TagValue"] for tag in listed(item, "Tags", "Tag")},
    )
