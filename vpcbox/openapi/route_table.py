"""Route tables, read only: each VPC has its system route table.

https://help.aliyun.com/zh/vpc/developer-reference/api-vpc-2016-04-28-describeroutetablelist
"""

from typing import Any

from vpcbox.openapi.paging import Paging
from vpcbox.openapi.params import Params
from vpcbox.world.clock import iso
from vpcbox.world.model import ACCOUNT
from vpcbox.world.route_table import RouteTable
from vpcbox.world.world import World


async def describe_route_table_list(world: World, p: Params) -> dict[str, Any]:
    """DescribeRouteTableList: all filters must hold; ids nobody has give an empty list."""
    vpc_id = p.text("VpcId")
    table_id = p.text("RouteTableId")
    router_id = p.text("RouterId")
    router_type = p.choice("RouterType", "VRouter", "VBR")
    kind = p.choice("RouteTableType", "System", "Custom")
    name = p.text("RouteTableName")
    tags = p.tags()
    paging = Paging.of(p, most=50, most_by_number=50)
    p.finish()

    def wanted(table: RouteTable) -> bool:
        return (
            (vpc_id is None or table.vpc.id == vpc_id)
            and (table_id is None or table.id == table_id)
            and (router_id is None or table.vpc.router_id == router_id)
            and router_type != "VBR"
            and kind != "Custom"
            and name is None
            and not tags
        )

    page = paging.cut(filter(wanted, world.route_tables.values()), key=lambda table: table.id)
    return {
        "RouterTableList": {"RouterTableListType": [_item(world, table) for table in page.items]},
        **page.tokens(),
        **page.numbers(),
    }


def _item(world: World, table: RouteTable) -> dict[str, Any]:
    return {
        "RouteTableId": table.id,
        "RouteTableName": "",
        "RouteTableType": "System",
        "RouterId": table.vpc.router_id,
        "RouterType": "VRouter",
        "VpcId": table.vpc.id,
        "Status": "Available",
        "AssociateType": "VSwitch",
        "Description": "",
        "VSwitchIds": {"VSwitchId": [v.id for v in world.vswitches.values() if v.vpc_id == table.vpc.id]},
        "Tags": {"Tag": []},
        "OwnerId": int(ACCOUNT),
        "CreationTime": iso(table.vpc.created),
    }
