"""Route tables through the OpenAPI: ``eniallocator.cloud.routes.RouteApi``.

Pages of the API reference: CreateRouteEntries, CreateRouteEntry, DeleteRouteEntries, DeleteRouteEntry,
DescribeRouteEntryList, DescribeRouteTableList (VPC 2016-04-28), DescribeInstances (ECS 2014-05-26).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any, Final

from eniallocator.cloud.caller import Caller, cursor_of, existing, listed, nothing
from eniallocator.cloud.errors import Refused
from eniallocator.cloud.routes import NewEntry, RouteEntry, RouteStatus, Tables
from eniway.model import InstanceId

ENTRY_PAGE: Final = 100
TABLE_PAGE: Final = 50


class VpcRoutes:
    """``RouteApi`` over a caller."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def tables(self, vpc_id: str) -> Tables:
        """As RouteApi says; Refused where the VPC is not there."""
        system, custom, page = "", [], 1
        while True:
            kinds = await self._caller.call(
                "Vpc",
                "DescribeRouteTableList",
                {"VpcId": vpc_id, "PageNumber": str(page), "PageSize": str(TABLE_PAGE)},
                _tables,
            )
            for table_id, kind in kinds:
                if kind == "System":
                    system = table_id
                else:
                    custom.append(table_id)
            if len(kinds) < TABLE_PAGE:
                break
            page += 1
        if not system:
            raise Refused("DescribeRouteTableList", "unknown", f"VPC {vpc_id} has no system route table in this region")
        return Tables(system, tuple(custom))

    async def entries(self, table_id: str) -> tuple[RouteEntry, ...]:
        """As RouteApi says."""
        found: list[RouteEntry] = []
        cursor = ""
        while True:
            params = {"RouteTableId": table_id, "IpVersion": "ipv4", "MaxResult": str(ENTRY_PAGE)}
            page, cursor = await self._caller.call(
                "Vpc", "DescribeRouteEntryList", params | ({"NextToken": cursor} if cursor else {}), _entries
            )
            found += page
            if not cursor:
                return tuple(found)

    async def create(self, table_id: str, entries: Sequence[NewEntry]) -> Mapping[IPv4Network, str]:
        """As RouteApi says."""
        form = _numbered(
            {
                "RouteTableId": table_id,
                "DstCidrBlock": str(entry.destination),
                "NextHop": entry.instance_id,
                "NextHopType": "Instance",
                "Name": entry.name,
                "Description": entry.description,
            }
            for entry in entries
        )
        return await self._caller.call(
            "Vpc",
            "CreateRouteEntries",
            {},
            lambda answer: {
                IPv4Network(item["DstCidrBlock"]): item["FailedCode"] for item in answer.get("FailedRouteEntries") or ()
            },
            form=form,
        )

    async def create_one(self, table_id: str, entry: NewEntry, *, token: str) -> None:
        """As RouteApi says."""
        await self._caller.call(
            "Vpc",
            "CreateRouteEntry",
            {
                "RouteTableId": table_id,
                "DestinationCidrBlock": str(entry.destination),
                "NextHopId": entry.instance_id,
                "NextHopType": "Instance",
                "RouteEntryName": entry.name,
                "Description": entry.description,
                "ClientToken": token,
            },
            nothing,
        )

    async def delete(self, table_id: str, entries: Sequence[RouteEntry]) -> Mapping[str, str]:
        """As RouteApi says."""
        form = _numbered(
            {
                "RouteTableId": table_id,
                "RouteEntryId": entry.entry_id,
                "DstCidrBlock": str(entry.destination),
                "NextHop": entry.hops[0],
            }
            for entry in entries
        )
        by_destination = {str(entry.destination): entry.entry_id for entry in entries}
        return await self._caller.call(
            "Vpc",
            "DeleteRouteEntries",
            {},
            lambda answer: {
                item.get("RouteEntryId") or by_destination[item["DstCidrBlock"]]: item["FailedCode"]
                for item in answer.get("FailedRouteEntries") or ()
            },
            form=form,
        )

    async def delete_one(self, entry_id: str) -> None:
        """As RouteApi says."""
        await self._caller.call("Vpc", "DeleteRouteEntry", {"RouteEntryId": entry_id}, nothing)

    async def instances(self, ids: Collection[InstanceId]) -> frozenset[InstanceId]:
        """As RouteApi says."""
        return await existing(self._caller, ids)


def _numbered(rows: Any) -> dict[str, str]:
    return {f"RouteEntries.{n}.{key}": value for n, row in enumerate(rows, 1) for key, value in row.items()}


def _tables(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(RouteTableId, RouteTableType) of a page."""
    items = listed(answer, "RouterTableList", "RouterTableListType")
    return [(item["RouteTableId"], item["RouteTableType"]) for item in items]


def _entries(answer: Mapping[str, Any]) -> tuple[list[RouteEntry], str]:
    """A page without what leads elsewhere than to an IPv4 network: prefix lists (pl-…) and IPv6, never ours."""
    items = ((_network(item["DestinationCidrBlock"]), item) for item in listed(answer, "RouteEntrys", "RouteEntry"))
    return [_entry(network, item) for network, item in items if network is not None], cursor_of(answer)


def _network(destination: str) -> IPv4Network | None:
    try:
        return IPv4Network(destination)
    except ValueError:
        return None


def _entry(destination: IPv4Network, item: Mapping[str, Any]) -> RouteEntry:
    status = item.get("Status", "")
    return RouteEntry(
        entry_id=item["RouteEntryId"],
        destination=destination,
        status=RouteStatus(status) if status in set(RouteStatus) else RouteStatus.OTHER,
        origin=item.get("Type", ""),
        hops=tuple(hop["NextHopId"] for hop in listed(item, "NextHops", "NextHop") if hop.get("NextHopId")),
        name=item.get("RouteEntryName") or "",
        description=item.get("Description") or "",
    )
