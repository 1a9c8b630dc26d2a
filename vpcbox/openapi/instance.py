"""Instances and their types.

https://help.aliyun.com/zh/ecs/developer-reference/api-ecs-2014-05-26-describeinstances
https://help.aliyun.com/zh/ecs/developer-reference/api-ecs-2014-05-26-describeinstanceattribute
https://help.aliyun.com/zh/ecs/developer-reference/api-ecs-2014-05-26-describeinstancetypes
"""

from typing import Any

from vpcbox.openapi.eni import private_ip_sets
from vpcbox.openapi.paging import Paging
from vpcbox.openapi.params import Params
from vpcbox.world.clock import iso
from vpcbox.world.errors import Refused
from vpcbox.world.model import REGION, Eni, EniStatus, Instance, InstanceType
from vpcbox.world.world import World


async def describe_instances(world: World, p: Params) -> dict[str, Any]:
    """DescribeInstances: all filters must hold; ids nobody has give an empty list."""
    ids = p.json_texts("InstanceIds", 100)
    vpc_id = p.text("VpcId")
    vswitch_id = p.text("VSwitchId")
    zone = p.text("ZoneId")
    instance_type = p.text("InstanceType")
    name = p.text("InstanceName")
    status = p.choice("Status", "Pending", "Starting", "Running", "Stopping", "Stopped")
    addresses = p.json_texts("PrivateIpAddresses", 100)
    group = p.text("SecurityGroupId")
    tags = p.tags()
    p.texts("AdditionalAttributes", 10)
    paging = Paging.of(p, most=100, most_by_number=100)
    p.finish()

    def wanted(instance: Instance) -> bool:
        return (
            (ids is None or instance.id in ids)
            and (vpc_id is None or instance.vpc_id == vpc_id)
            and (vswitch_id is None or instance.vswitch_id == vswitch_id)
            and (zone is None or instance.zone == zone)
            and (instance_type is None or instance.type.id == instance_type)
            and (name is None or instance.name == name)
            and (status is None or instance.status == status)
            and (addresses is None or str(world.primary(instance.id).primary_address) in addresses)
            and (group is None or group in instance.security_group_ids)
            and all(key in instance.tags and value in {"", instance.tags[key]} for key, value in tags.items())
        )

    page = paging.cut(filter(wanted, world.instances.values()), key=lambda instance: instance.id)
    return {
        "Instances": {"Instance": [_instance(world, instance) for instance in page.items]},
        **page.tokens(),
        **page.numbers(),
    }


async def describe_instance_attribute(world: World, p: Params) -> dict[str, Any]:
    """DescribeInstanceAttribute: one instance, its fields at the top of the answer."""
    instance_id = p.required("InstanceId")
    p.finish()
    instance = world.instances.get(instance_id)
    if instance is None:
        raise Refused("InvalidInstanceId.NotFound", "The specified InstanceId does not exist.")
    return {**_shared_fields(world, instance), "EnableJumboFrame": instance.type.jumbo}


async def describe_instance_types(world: World, p: Params) -> dict[str, Any]:
    """DescribeInstanceTypes: types nobody knows give an empty list; callers that do not page get the first 100."""
    names = p.texts("InstanceTypes", 10)
    family = p.text("InstanceTypeFamily")
    enis = p.number("MinimumEniQuantity", 1, 1000)
    addresses = p.number("MinimumEniPrivateIpAddressQuantity", 1, 1000)
    paging = Paging.of(p, most=100, most_by_number=100, default=100)
    p.finish()

    def wanted(kind: InstanceType) -> bool:
        return (
            (not names or kind.id in names)
            and (family is None or kind.family == family)
            and kind.enis >= (enis or 0)
            and kind.addresses_per_eni >= (addresses or 0)
        )

    page = paging.cut(filter(wanted, world.instance_types.values()), key=lambda kind: kind.id)
    return {"InstanceTypes": {"InstanceType": [_instance_type(kind) for kind in page.items]}, **page.tokens()}


def _shared_fields(world: World, instance: Instance) -> dict[str, Any]:
    """What both ways of describing an instance say."""
    return {
        "InstanceId": instance.id,
        "InstanceName": instance.name,
        "HostName": instance.name,
        "InstanceType": instance.type.id,
        "Cpu": instance.type.cpus,
        "Memory": round(instance.type.memory * 1024),
        "Status": instance.status.value,
        "RegionId": REGION,
        "ZoneId": instance.zone,
        "InstanceNetworkType": "vpc",
        "CreationTime": iso(instance.created),
        "VpcAttributes": {
            "VpcId": instance.vpc_id,
            "VSwitchId": instance.vswitch_id,
            "PrivateIpAddress": {"IpAddress": [str(world.primary(instance.id).primary_address)]},
            "NatIpAddress": "",
        },
        "SecurityGroupIds": {"SecurityGroupId": list(instance.security_group_ids)},
    }


def _instance(world: World, instance: Instance) -> dict[str, Any]:
    cards = [eni for eni in world.attached(instance.id) if eni.status is not EniStatus.ATTACHING]
    return {
        **_shared_fields(world, instance),
        "InstanceTypeFamily": instance.type.family,
        "NetworkInterfaces": {"NetworkInterface": [_card(eni) for eni in cards]},
        "Tags": {"Tag": [{"TagKey": key, "TagValue": value} for key, value in instance.tags.items()]},
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": instance.http_tokens,
            "HttpPutResponseHopLimit": 1,
        },
    }


def _card(eni: Eni) -> dict[str, Any]:
    return {
        "NetworkInterfaceId": eni.id,
        "MacAddress": eni.mac,
        "Type": eni.type.value,
        "PrimaryIpAddress": str(eni.primary_address),
        "PrivateIpSets": private_ip_sets(eni),
    }


def _instance_type(kind: InstanceType) -> dict[str, Any]:
    item = {
        "InstanceTypeId": kind.id,
        "InstanceTypeFamily": kind.family,
        "CpuCoreCount": kind.cpus,
        "MemorySize": kind.memory,
        "EniQuantity": kind.enis,
        "EniPrivateIpAddressQuantity": kind.addresses_per_eni,
        "EniIpv6AddressQuantity": kind.ipv6_per_eni,
        "EniTotalQuantity": kind.enis_total,
        "EniTrunkSupported": kind.enis_total > kind.enis,
        "InstanceBandwidthRx": kind.bandwidth,
        "InstanceBandwidthTx": kind.bandwidth,
        "JumboFrameSupport": kind.jumbo,
    }
    return {name: value for name, value in item.items() if value is not None}
