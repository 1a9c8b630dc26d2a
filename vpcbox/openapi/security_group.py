"""Security groups: ids that ENIs must name, without rules.

https://help.aliyun.com/zh/ecs/developer-reference/api-ecs-2014-05-26-createsecuritygroup
https://help.aliyun.com/zh/ecs/developer-reference/api-ecs-2014-05-26-describesecuritygroups
"""

from typing import Any

from vpcbox.openapi.paging import Paging
from vpcbox.openapi.params import Params
from vpcbox.world.clock import iso
from vpcbox.world.errors import Refused
from vpcbox.world.model import EniType, SecurityGroup
from vpcbox.world.world import World


async def create_security_group(world: World, p: Params) -> dict[str, Any]:
    """CreateSecurityGroup: a basic one in a VPC."""
    vpc_id, name = p.required("VpcId"), p.text("SecurityGroupName") or ""
    p.choice("SecurityGroupType", "normal")
    p.text("Description")
    p.finish()
    if vpc_id not in world.vpcs:
        raise Refused("InvalidVpcId.NotFound", f'The specified VpcId "{vpc_id}" is not found.')
    return {"SecurityGroupId": world.create_security_group(name, vpc_id).id}


async def describe_security_groups(world: World, p: Params) -> dict[str, Any]:
    """DescribeSecurityGroups: all filters must hold; pages go by token only, ids nobody has give an empty list."""
    if p.text("PageNumber") or p.text("PageSize"):
        raise Refused("NotSupported.PageNumberAndPageSize", "The parameters PageNumber and PageSize are not supported.")
    ids = p.json_texts("SecurityGroupIds", 100)
    group_id = p.text("SecurityGroupId")
    vpc_id = p.text("VpcId")
    name = p.text("SecurityGroupName")
    kind = p.choice("SecurityGroupType", "normal", "enterprise")
    network = p.choice("NetworkType", "vpc", "classic")
    tags = p.tags()
    paging = Paging.by_token(p, most=100, default=10)
    p.finish()

    def wanted(group: SecurityGroup) -> bool:
        return (
            (ids is None or group.id in ids)
            and (group_id is None or group.id == group_id)
            and (vpc_id is None or group.vpc_id == vpc_id)
            and (name is None or group.name == name)
            and kind != "enterprise"
            and network != "classic"
            and not tags
        )

    page = paging.cut(filter(wanted, world.security_groups.values()), key=lambda group: group.id)
    return {"SecurityGroups": {"SecurityGroup": [_item(world, group) for group in page.items]}, **page.tokens()}


def _item(world: World, group: SecurityGroup) -> dict[str, Any]:
    """A SecurityGroup; EcsCount is what counts against its limit: private addresses."""
    enis = [eni for eni in world.enis.values() if group.id in eni.security_group_ids]
    return {
        "SecurityGroupId": group.id,
        "SecurityGroupName": group.name,
        "SecurityGroupType": "normal",
        "Description": "",
        "VpcId": group.vpc_id,
        "CreationTime": iso(group.created),
        "ServiceManaged": False,
        "RuleCount": 0,
        "GroupToGroupRuleCount": 0,
        "EcsCount": sum(len(eni.addresses) for eni in enis if eni.type is EniType.SECONDARY),
        "Tags": {"Tag": []},
    }
