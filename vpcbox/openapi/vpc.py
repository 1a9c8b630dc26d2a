"""VPCs and vSwitches, read only.

https://help.aliyun.com/zh/vpc/developer-reference/api-vpc-2016-04-28-describevswitches
"""

from typing import Any

from vpcbox.openapi.paging import Paging
from vpcbox.openapi.params import Params, missing
from vpcbox.world.clock import iso
from vpcbox.world.model import ACCOUNT, REGION, Vpc, VSwitch
from vpcbox.world.world import World


async def describe_vpcs(world: World, p: Params) -> dict[str, Any]:
    """DescribeVpcs: by id (several, with commas) or name."""
    ids = p.text("VpcId", longest=1024)
    name = p.text("VpcName")
    paging = Paging.of(p, most=50, most_by_number=50)
    p.finish()
    vpcs = [
        vpc
        for vpc in world.vpcs.values()
        if (ids is None or vpc.id in ids.split(",")) and (name is None or vpc.name == name)
    ]
    page = paging.cut(vpcs, key=lambda vpc: vpc.id)
    return {"Vpcs": {"Vpc": [_vpc(world, vpc) for vpc in page.items]}, **page.tokens(), **page.numbers()}


async def describe_vswitches(world: World, p: Params) -> dict[str, Any]:
    """DescribeVSwitches: by id (several, with commas), VPC, zone, name; an id nobody has is an error."""
    ids = p.text("VSwitchId", longest=1024)
    vpc_id = p.text("VpcId")
    if vpc_id is None and p.text("RegionId") is None:
        raise missing("RegionId")
    zone = p.text("ZoneId")
    name = p.text("VSwitchName")
    route_table_id = p.text("RouteTableId")
    paging = Paging.of(p, most=50, most_by_number=50)
    p.finish()
    wanted = None if ids is None else {world.vswitch(vswitch_id).id for vswitch_id in ids.split(",")}
    vswitches = [
        vswitch
        for vswitch in world.vswitches.values()
        if (wanted is None or vswitch.id in wanted)
        and (vpc_id is None or vswitch.vpc_id == vpc_id)
        and (zone is None or vswitch.zone == zone)
        and (name is None or vswitch.name == name)
        and (route_table_id is None or world.vpcs[vswitch.vpc_id].route_table_id == route_table_id)
    ]
    page = paging.cut(vswitches, key=lambda vswitch: vswitch.id)
    return {
        "VSwitches": {"VSwitch": [_vswitch(world, vswitch) for vswitch in page.items]},
        **page.tokens(),
        **page.numbers(),
    }


def _vpc(world: World, vpc: Vpc) -> dict[str, Any]:
    return {
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "RegionId": REGION,
        "CidrBlock": str(vpc.cidr),
        "Status": "Available",
        "IsDefault": False,
        "VRouterId": vpc.router_id,
        "RouterTableIds": {"RouterTableIds": [vpc.route_table_id]},
        "VSwitchIds": {"VSwitchId": [v.id for v in world.vswitches.values() if v.vpc_id == vpc.id]},
        "Tags": {"Tag": []},
        "OwnerId": int(ACCOUNT),
        "CreationTime": iso(vpc.created),
    }


def _vswitch(world: World, vswitch: VSwitch) -> dict[str, Any]:
    return {
        "VSwitchId": vswitch.id,
        "VSwitchName": vswitch.name,
        "VpcId": vswitch.vpc_id,
        "ZoneId": vswitch.zone,
        "CidrBlock": str(vswitch.cidr),
        "Ipv6CidrBlock": "",
        "AvailableIpAddressCount": world.stock(vswitch.id),
        "Status": "Available",
        "EnabledIpv6": False,
        "IsDefault": False,
        "RouteTable": {"RouteTableId": world.vpcs[vswitch.vpc_id].route_table_id, "RouteTableType": "System"},
        "Tags": {"Tag": []},
        "OwnerId": int(ACCOUNT),
        "CreationTime": iso(vswitch.created),
    }
