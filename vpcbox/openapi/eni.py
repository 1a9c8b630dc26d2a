"""Elastic network interfaces: create, attach, detach, delete, describe, modify.

https://help.aliyun.com/zh/ecs/developer-reference/api-ecs-2014-05-26-createnetworkinterface and its neighbours
"""

from typing import Any

from vpcbox.openapi.paging import Paging
from vpcbox.openapi.params import Params, invalid, missing, only_one
from vpcbox.world.clock import iso
from vpcbox.world.errors import Refused
from vpcbox.world.model import ACCOUNT, Eni, EniStatus, EniType
from vpcbox.world.world import World

MOST_GROUPS = 5
MOST_BY_TAG = 1000  # of all pages together: a Describe that filters by tag shows no more


async def create_network_interface(world: World, p: Params) -> dict[str, Any]:
    """CreateNetworkInterface: answers when the ENI is Available."""
    vswitch_id = p.required("VSwitchId")
    group = p.text("SecurityGroupId")
    groups = p.texts("SecurityGroupIds", MOST_GROUPS)
    if not group and not groups:
        raise missing("SecurityGroupId")
    if group and groups:
        raise only_one("SecurityGroupId", "SecurityGroupIds")
    secondary = p.addresses("PrivateIpAddress", 10)
    count = p.number("SecondaryPrivateIpAddressCount", 1, 49)
    if secondary and count:
        raise only_one("PrivateIpAddress", "SecondaryPrivateIpAddressCount")
    primary = p.address("PrimaryIpAddress")
    name = p.text("NetworkInterfaceName", shortest=2, longest=128)
    description = p.text("Description", shortest=2, longest=256)
    source_dest_check = p.flag("SourceDestCheck")
    delete_on_release = p.flag("DeleteOnRelease")
    tags = p.tags()
    p.choice("InstanceType", "Secondary")
    p.choice("NetworkInterfaceTrafficMode", "Standard")
    p.finish()
    try:
        eni = await world.create_eni(
            vswitch_id,
            (group,) if group else groups,
            name=name or "",
            description=description or "",
            primary_address=primary,
            secondary_addresses=secondary,
            secondary_count=count or 0,
            source_dest_check=source_dest_check is not False,
            delete_on_release=delete_on_release is not False,
            tags=tags,
        )
    except Refused as refused:
        if refused.code == "InvalidIp.IpAssigned":  # a name this Action does not use
            raise Refused("InvalidPrivateIpAddress.Duplicated", refused.message) from refused
        raise
    return _shared_fields(eni)


async def attach_network_interface(world: World, p: Params) -> dict[str, Any]:
    """AttachNetworkInterface: answers at once, the ENI is InUse later."""
    eni_id, instance_id = p.required("NetworkInterfaceId"), p.required("InstanceId")
    p.finish()
    world.attach_eni(eni_id, instance_id)
    return {}


async def detach_network_interface(world: World, p: Params) -> dict[str, Any]:
    """DetachNetworkInterface: answers at once, the ENI is Available later."""
    eni_id, instance_id = p.required("NetworkInterfaceId"), p.required("InstanceId")
    p.finish()
    world.detach_eni(eni_id, instance_id)
    return {}


async def delete_network_interface(world: World, p: Params) -> dict[str, Any]:
    """DeleteNetworkInterface: answers at once, the ENI is gone later."""
    eni_id = p.required("NetworkInterfaceId")
    p.finish()
    world.delete_eni(eni_id)
    return {}


async def describe_network_interfaces(world: World, p: Params) -> dict[str, Any]:
    """DescribeNetworkInterfaces: all filters must hold; ids nobody has give an empty list."""
    ids = p.texts("NetworkInterfaceId", 100)
    instance_id = p.text("InstanceId")
    vpc_id = p.text("VpcId")
    vswitch_id = p.text("VSwitchId")
    primary = p.address("PrimaryIpAddress")
    addresses = p.addresses("PrivateIpAddress", 100)
    group = p.text("SecurityGroupId")
    name = p.text("NetworkInterfaceName")
    kind = p.choice("Type", *EniType, "Trunk", "Member")
    status = p.choice("Status", *EniStatus)
    service_managed = p.flag("ServiceManaged")
    tags = p.tags()
    paging = Paging.of(p, most=500, most_by_number=1000, clamp=True)
    p.finish()

    def wanted(eni: Eni) -> bool:
        return (
            (not ids or eni.id in ids)
            and (instance_id is None or eni.instance_id == instance_id)
            and (vpc_id is None or eni.vpc_id == vpc_id)
            and (vswitch_id is None or eni.vswitch_id == vswitch_id)
            and (primary is None or eni.primary_address == primary)
            and (not addresses or not set(addresses).isdisjoint(eni.addresses))
            and (group is None or (group in eni.security_group_ids and eni.type is EniType.SECONDARY))
            and (name is None or eni.name == name)
            and (kind is None or eni.type == kind)
            and (status is None or eni.status == status)
            and not service_managed
            and all(key in eni.tags and value in {"", eni.tags[key]} for key, value in tags.items())
        )

    found = sorted(filter(wanted, world.enis.values()), key=lambda eni: eni.id)
    page = paging.cut(found[:MOST_BY_TAG] if tags else found, key=lambda eni: eni.id)
    return {
        "NetworkInterfaceSets": {"NetworkInterfaceSet": [_item(eni) for eni in page.items]},
        **page.tokens(),
        **page.numbers(),
    }


async def describe_network_interface_attribute(world: World, p: Params) -> dict[str, Any]:
    """DescribeNetworkInterfaceAttribute: one ENI, its fields at the top of the answer."""
    eni_id = p.required("NetworkInterfaceId")
    p.choice("Attribute", "attachment", "basic")
    p.finish()
    return _item(world.eni(eni_id))


async def modify_network_interface_attribute(world: World, p: Params) -> dict[str, Any]:
    """ModifyNetworkInterfaceAttribute: a list of security groups takes the place of the old one."""
    eni_id = p.required("NetworkInterfaceId")
    groups = p.texts("SecurityGroupId", MOST_GROUPS)
    name = p.text("NetworkInterfaceName", shortest=2, longest=128)
    description = p.text("Description", shortest=2, longest=256)
    source_dest_check = p.flag("SourceDestCheck")
    delete_on_release = p.flag("DeleteOnRelease")
    p.finish()
    if not groups and {name, description, source_dest_check, delete_on_release} == {None}:
        raise invalid("NetworkInterfaceName", "something to modify")
    await world.modify_eni(
        eni_id,
        name=name,
        description=description,
        security_group_ids=groups,
        source_dest_check=source_dest_check,
        delete_on_release=delete_on_release,
    )
    return {}


def private_ip_sets(eni: Eni) -> dict[str, Any]:
    """``PrivateIpSets`` of an ENI, wherever it is shown."""
    return {
        "PrivateIpSet": [
            {"PrivateIpAddress": str(address), "Primary": address == eni.primary_address} for address in eni.addresses
        ]
    }


def _shared_fields(eni: Eni) -> dict[str, Any]:
    """What Create and Describe both say."""
    return {
        "NetworkInterfaceId": eni.id,
        "NetworkInterfaceName": eni.name,
        "Description": eni.description,
        "MacAddress": eni.mac,
        "Status": eni.status.value,
        "Type": eni.type.value,
        "VpcId": eni.vpc_id,
        "VSwitchId": eni.vswitch_id,
        "ZoneId": eni.zone,
        "PrivateIpAddress": str(eni.primary_address),
        "PrivateIpSets": private_ip_sets(eni),
        "Ipv6Sets": {"Ipv6Set": []},
        "Ipv4PrefixSets": {"Ipv4PrefixSet": []},
        "Ipv6PrefixSets": {"Ipv6PrefixSet": []},
        "SecurityGroupIds": {"SecurityGroupId": list(eni.security_group_ids)},
        "Tags": {"Tag": [{"TagKey": key, "TagValue": value} for key, value in eni.tags.items()]},
        "ResourceGroupId": "",
        "OwnerId": ACCOUNT,
        "ServiceManaged": False,
        "SourceDestCheck": eni.source_dest_check,
    }


def _item(eni: Eni) -> dict[str, Any]:
    """A NetworkInterfaceSet; only an attached ENI has the fields of an attachment."""
    attachment = {} if eni.instance_id is None else {"InstanceId": eni.instance_id, "DeviceIndex": eni.slot}
    return {
        **_shared_fields(eni),
        "CreationTime": iso(eni.created),
        "InstanceId": eni.instance_id or "",
        "Attachment": attachment,
        "DeleteOnRelease": eni.delete_on_release,
        "NetworkInterfaceTrafficMode": "Standard",
    }
