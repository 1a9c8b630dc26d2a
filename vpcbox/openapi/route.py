"""Entries of a route table: create and delete, one or up to 50, and describe.

https://help.aliyun.com/zh/vpc/developer-reference/api-vpc-2016-04-28-createrouteentries and its neighbours
"""

from ipaddress import IPv4Network
from typing import Any

from vpcbox.openapi.paging import Paging
from vpcbox.openapi.params import Params, missing
from vpcbox.world.clock import iso
from vpcbox.world.errors import Refused
from vpcbox.world.model import REGION, NextHopType, RouteEntry, RouteType
from vpcbox.world.routing import Unwanted, Wanted
from vpcbox.world.world import World

MOST_ENTRIES = 50
MOST_DESTINATIONS = 50

_IN_A_LIST = {  # what a refused entry of a list is called, where the documents show it
    "InvalidCIDRBlock.Duplicate": "VPC_ROUTE_ENTRY_CIDR_BLOCK_DUPLICATE",
    "InvalidRouteEntry.NotFound": "VPC_ROUTER_ENTRY_NOT_EXIST",
    "InvalidRouteEntryId.NotFound": "VPC_ROUTER_ENTRY_NOT_EXIST",
}


async def create_route_entry(world: World, p: Params) -> dict[str, Any]:
    """CreateRouteEntry: answers with an id at once, the entry is Available later."""
    wanted = Wanted(
        table_id=p.required("RouteTableId"),
        destination=_destination(p, "DestinationCidrBlock"),
        next_hop_id=p.required("NextHopId"),
        next_hop_type=_next_hop_type(p, "NextHopType"),
        name=p.text("RouteEntryName", longest=128) or "",
        description=p.text("Description") or "",
    )
    p.finish()
    try:
        (made,) = world.routing.create([wanted], around_vswitches=True)
    except Refused as refused:
        raise _one_at_a_time(refused) from refused
    if isinstance(made, Refused):
        raise made
    return {"RouteEntryId": made.id}


async def create_route_entries(world: World, p: Params) -> dict[str, Any]:
    """CreateRouteEntries: answers at once with what is begun and what is refused, which is no error of the whole."""
    wanted = []
    for row in p.rows("RouteEntries", MOST_ENTRIES):
        p.choice(f"{row}IpVersion", "4")
        wanted.append(
            Wanted(
                table_id=p.required(f"{row}RouteTableId"),
                destination=_destination(p, f"{row}DstCidrBlock"),
                next_hop_id=p.required(f"{row}NextHop"),
                next_hop_type=_next_hop_type(p, f"{row}NextHopType"),
                name=p.text(f"{row}Name", longest=128) or "",
                description=p.text(f"{row}Description") or "",
            )
        )
    p.finish()
    made = world.routing.create(wanted, around_vswitches=False)
    failed = [
        {"DstCidrBlock": str(want.destination), "NextHop": want.next_hop_id, **_failure(refused)}
        for want, refused in zip(wanted, made, strict=True)
        if isinstance(refused, Refused)
    ]
    return {
        "RouteEntryIds": [entry.id for entry in made if isinstance(entry, RouteEntry)],
        "SuccessCount": len(made) - len(failed),
        "FailedCount": len(failed),
        "FailedRouteEntries": failed,
    }


async def delete_route_entry(world: World, p: Params) -> dict[str, Any]:
    """DeleteRouteEntry: by id, or by table, destination and next hop; answers at once, the entry is gone later."""
    entry_id = p.text("RouteEntryId")
    if entry_id is None:
        unwanted = Unwanted(
            p.required("RouteTableId"),
            destination=_destination(p, "DestinationCidrBlock"),
            next_hop_id=p.required("NextHopId"),
        )
    elif p.text("RouteTableId") or p.text("DestinationCidrBlock"):
        raise Refused(
            "ParamExclusive.RouteEntryIdAndRouteTableIdOrDestCidrBlock",
            "RouteEntryId excludes RouteTableId and DestinationCidrBlock.",
        )
    else:
        table_ids = [table.id for table in world.route_tables.values() if entry_id in table.entries]
        if not table_ids:
            raise Refused("InvalidRouteEntryId.NotFound", "Specified RouteEntryId does not exist.")
        unwanted = Unwanted(table_ids[0], entry_id=entry_id)
        p.text("NextHopId")
    p.finish()
    try:
        (deleted,) = world.routing.delete([unwanted])
    except Refused as refused:
        raise _one_at_a_time(refused) from refused
    if isinstance(deleted, Refused):
        raise deleted
    return {}


async def delete_route_entries(world: World, p: Params) -> dict[str, Any]:
    """DeleteRouteEntries: answers at once with how many are begun and what is refused."""
    unwanted = []
    for row in p.rows("RouteEntries", MOST_ENTRIES):
        table_id, entry_id = p.required(f"{row}RouteTableId"), p.text(f"{row}RouteEntryId")
        if entry_id is None:
            destination = _destination(p, f"{row}DstCidrBlock")
            unwanted.append(Unwanted(table_id, None, destination, p.required(f"{row}NextHop")))
        else:
            unwanted.append(Unwanted(table_id, entry_id, p.cidr(f"{row}DstCidrBlock"), p.text(f"{row}NextHop") or ""))
    p.finish()
    deleted = world.routing.delete(unwanted)
    failed = [
        {
            "RouteEntryId": which.entry_id or "",
            "DstCidrBlock": str(which.destination or ""),
            "NextHop": which.next_hop_id,
            **_failure(refused),
        }
        for which, refused in zip(unwanted, deleted, strict=True)
        if isinstance(refused, Refused)
    ]
    return {
        "SuccessCount": len(deleted) - len(failed),
        "FailedCount": len(failed),
        "FailedRouteEntries": failed,
    }


async def describe_route_entry_list(world: World, p: Params) -> dict[str, Any]:
    """DescribeRouteEntryList: all filters must hold; the size of a page is MaxResult here, without s."""
    table_id = p.required("RouteTableId")
    entry_id = p.text("RouteEntryId")
    destination = p.cidr("DestinationCidrBlock")
    destinations = p.texts("DestCidrBlockList", MOST_DESTINATIONS)
    name = p.text("RouteEntryName")
    kind = p.choice("RouteEntryType", *RouteType, "BGP", "CEN", "ECR")
    version = p.choice("IpVersion", "ipv4", "ipv6")
    next_hop_id = p.text("NextHopId")
    next_hop_type = p.text("NextHopType")
    paging = Paging.by_token(p, most=100, default=10, name="MaxResult")
    p.finish()

    def wanted(entry: RouteEntry) -> bool:
        return (
            (entry_id is None or entry.id == entry_id)
            and (destination is None or entry.destination == destination)
            and (not destinations or str(entry.destination) in destinations)
            and (name is None or entry.name == name)
            and (kind is None or entry.type == kind)
            and version != "ipv6"
            and (next_hop_id is None or entry.next_hop_id == next_hop_id)
            and (next_hop_type is None or entry.next_hop_type == next_hop_type)
        )

    page = paging.cut(filter(wanted, world.route_table(table_id).entries.values()), key=lambda entry: entry.id)
    return {"RouteEntrys": {"RouteEntry": [_item(world, entry) for entry in page.items]}, "NextToken": page.next_token}


def _destination(p: Params, name: str) -> IPv4Network:
    destination = p.cidr(name)
    if destination is None:
        raise missing(name)
    return destination


def _next_hop_type(p: Params, name: str) -> NextHopType:
    return NextHopType(p.choice(name, NextHopType.INSTANCE, NextHopType.NETWORK_INTERFACE) or NextHopType.INSTANCE)


def _one_at_a_time(refused: Refused) -> Refused:
    """What the Actions for one entry call a write that comes while another is under way."""
    if refused.code == "TaskConflict":
        return Refused("IncorrectRouteEntryStatus", "Some route entry status blocked this operation.")
    return refused


def _failure(refused: Refused) -> dict[str, str]:
    return {"FailedCode": _IN_A_LIST.get(refused.code, refused.code), "FailedMessage": refused.message}


def _item(world: World, entry: RouteEntry) -> dict[str, Any]:
    """A RouteEntry; a next hop that is gone still stands in it, not enabled."""
    return {
        "RouteEntryId": entry.id,
        "RouteEntryName": entry.name,
        "RouteTableId": entry.table_id,
        "DestinationCidrBlock": str(entry.destination),
        "Description": entry.description,
        "Status": entry.status.value,
        "Type": entry.type.value,
        "IpVersion": "ipv4",
        "GmtModified": iso(entry.modified),
        "NextHops": {
            "NextHop": [
                {
                    "NextHopId": entry.next_hop_id,
                    "NextHopType": entry.next_hop_type.value,
                    "NextHopRegionId": REGION,
                    "NextHopRelatedInfo": {},
                    "Enabled": int(entry.eni_id is None or entry.eni_id in world.enis),
                    "Weight": 0,
                }
            ]
        },
    }
