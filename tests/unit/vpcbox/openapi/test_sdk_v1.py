"""The official SDK, V1, with its own request classes."""

import json
from typing import Any

from aliyunsdkecs.request.v20140526 import (
    AssignPrivateIpAddressesRequest,
    AttachNetworkInterfaceRequest,
    CreateNetworkInterfaceRequest,
    DeleteNetworkInterfaceRequest,
    DescribeInstancesRequest,
    DescribeInstanceTypesRequest,
    DescribeNetworkInterfaceAttributeRequest,
    DescribeNetworkInterfacesRequest,
    DetachNetworkInterfaceRequest,
    ListTagResourcesRequest,
    ModifyNetworkInterfaceAttributeRequest,
    TagResourcesRequest,
    UnassignPrivateIpAddressesRequest,
    UntagResourcesRequest,
)
from aliyunsdkvpc.request.v20160428 import DescribeVpcsRequest, DescribeVSwitchesRequest


async def test_an_eni_lives_its_whole_life(box: Any) -> None:
    """Create, attach, assign, unassign, detach and delete do what they say, each seen in Describe."""
    create = CreateNetworkInterfaceRequest.CreateNetworkInterfaceRequest()
    create.set_VSwitchId(box.vswitch_id)
    create.set_SecurityGroupIdss([box.group_id])
    create.set_NetworkInterfaceName("pods-1")
    create.set_Tags([{"Key": "eniway.io/cluster", "Value": "box"}])
    create.set_ClientToken("once")
    made = await box.send(create)
    eni_id = made["NetworkInterfaceId"]
    assert made["Status"] == "Available"
    assert made["MacAddress"].startswith("00:16:3e:")
    assert made["Tags"]["Tag"] == [{"TagKey": "eniway.io/cluster", "TagValue": "box"}]

    attach = AttachNetworkInterfaceRequest.AttachNetworkInterfaceRequest()
    attach.set_NetworkInterfaceId(eni_id)
    attach.set_InstanceId(box.instance.id)
    assert set(await box.send(attach)) == {"RequestId"}
    assert (await _describe(box, eni_id))["Status"] == "Attaching"
    await box.clock.advance(10)
    attached = await _describe(box, eni_id)
    assert attached["Status"] == "InUse"
    assert attached["InstanceId"] == box.instance.id
    assert attached["Attachment"]["DeviceIndex"] == 1

    assign = AssignPrivateIpAddressesRequest.AssignPrivateIpAddressesRequest()
    assign.set_NetworkInterfaceId(eni_id)
    assign.set_SecondaryPrivateIpAddressCount(3)
    given = (await box.send(assign))["AssignedPrivateIpAddressesSet"]["PrivateIpSet"]["PrivateIpAddress"]
    assert len(given) == 3
    rows = (await _describe(box, eni_id))["PrivateIpSets"]["PrivateIpSet"]
    assert [row["PrivateIpAddress"] for row in rows if not row["Primary"]] == given

    unassign = UnassignPrivateIpAddressesRequest.UnassignPrivateIpAddressesRequest()
    unassign.set_NetworkInterfaceId(eni_id)
    unassign.set_PrivateIpAddresss(given[:2])
    await box.send(unassign)
    assert len((await _describe(box, eni_id))["PrivateIpSets"]["PrivateIpSet"]) == 2

    detach = DetachNetworkInterfaceRequest.DetachNetworkInterfaceRequest()
    detach.set_NetworkInterfaceId(eni_id)
    detach.set_InstanceId(box.instance.id)
    await box.send(detach)
    assert (await _describe(box, eni_id))["Status"] == "Detaching"
    await box.clock.advance(5)
    detached = await _describe(box, eni_id)
    assert detached["Status"] == "Available"
    assert detached["InstanceId"] == ""
    assert len(detached["PrivateIpSets"]["PrivateIpSet"]) == 2, "secondary addresses stay on a detached ENI"

    delete = DeleteNetworkInterfaceRequest.DeleteNetworkInterfaceRequest()
    delete.set_NetworkInterfaceId(eni_id)
    await box.send(delete)
    assert (await _describe(box, eni_id))["Status"] == "Deleting"
    await box.clock.advance(2)
    assert await box.eni(eni_id) is None


async def _describe(box: Any, eni_id: str) -> dict[str, Any]:
    request = DescribeNetworkInterfacesRequest.DescribeNetworkInterfacesRequest()
    request.set_NetworkInterfaceIds([eni_id])
    (eni,) = (await box.send(request))["NetworkInterfaceSets"]["NetworkInterfaceSet"]
    assert isinstance(eni, dict)
    return eni


async def test_an_attribute_can_be_read_and_changed(box: Any) -> None:
    """ModifyNetworkInterfaceAttribute's changes show in DescribeNetworkInterfaceAttribute."""
    eni_id = await box.create()
    modify = ModifyNetworkInterfaceAttributeRequest.ModifyNetworkInterfaceAttributeRequest()
    modify.set_NetworkInterfaceId(eni_id)
    modify.set_NetworkInterfaceName("renamed")
    modify.add_query_param("SourceDestCheck", "false")
    await box.send(modify)
    describe = DescribeNetworkInterfaceAttributeRequest.DescribeNetworkInterfaceAttributeRequest()
    describe.set_NetworkInterfaceId(eni_id)
    eni = await box.send(describe)
    assert (eni["NetworkInterfaceName"], eni["SourceDestCheck"]) == ("renamed", False)


async def test_instances_and_types_are_described(box: Any) -> None:
    """An instance shows its cards; a type shows how many it may have; what nobody knows is an empty list."""
    await box.attach(await box.create())
    request = DescribeInstancesRequest.DescribeInstancesRequest()
    request.set_InstanceIds(json.dumps([box.instance.id]))
    (instance,) = (await box.send(request))["Instances"]["Instance"]
    assert [card["Type"] for card in instance["NetworkInterfaces"]["NetworkInterface"]] == ["Primary", "Secondary"]
    assert instance["Status"] == "Running"
    request.set_InstanceIds('["i-nobody"]')
    assert (await box.send(request))["Instances"]["Instance"] == []

    types = DescribeInstanceTypesRequest.DescribeInstanceTypesRequest()
    types.set_InstanceTypess(["ecs.g7.xlarge"])
    (kind,) = (await box.send(types))["InstanceTypes"]["InstanceType"]
    assert (kind["EniQuantity"], kind["EniPrivateIpAddressQuantity"], kind["EniTotalQuantity"]) == (4, 15, 20)
    assert (kind["InstanceBandwidthRx"], kind["EniTrunkSupported"]) == (3072000, True)


async def test_tags_come_and_go(box: Any) -> None:
    """TagResources, ListTagResources and UntagResources agree, for ENIs and instances."""
    eni_id = await box.create(Tag__1__Key="a", Tag__1__Value="1")
    tag = TagResourcesRequest.TagResourcesRequest()
    tag.set_ResourceType("eni")
    tag.set_ResourceIds([eni_id])
    tag.set_Tags([{"Key": "a", "Value": "2"}, {"Key": "b", "Value": ""}])
    await box.send(tag)
    tag.set_ResourceType("instance")
    tag.set_ResourceIds([box.instance.id])
    await box.send(tag)

    listed = ListTagResourcesRequest.ListTagResourcesRequest()
    listed.set_ResourceType("eni")
    listed.set_ResourceIds([eni_id])
    assert _pairs(await box.send(listed)) == {(eni_id, "a", "2"), (eni_id, "b", "")}

    untag = UntagResourcesRequest.UntagResourcesRequest()
    untag.set_ResourceType("eni")
    untag.set_ResourceIds([eni_id])
    untag.set_TagKeys(["a"])
    await box.send(untag)
    assert _pairs(await box.send(listed)) == {(eni_id, "b", "")}


def _pairs(answer: dict[str, Any]) -> set[tuple[str, str, str]]:
    rows = answer["TagResources"]["TagResource"]
    return {(row["ResourceId"], row["TagKey"], row["TagValue"]) for row in rows}


async def test_the_vpc_product_is_on_the_same_endpoint(box: Any) -> None:
    """DescribeVSwitches counts free addresses: the size less four, less what is held."""
    request = DescribeVSwitchesRequest.DescribeVSwitchesRequest()
    request.set_VSwitchId(box.small_vswitch_id)
    (vswitch,) = (await box.send(request))["VSwitches"]["VSwitch"]
    assert vswitch["AvailableIpAddressCount"] == 12
    await box.create(VSwitchId=box.small_vswitch_id, SecondaryPrivateIpAddressCount=4)
    (vswitch,) = (await box.send(request))["VSwitches"]["VSwitch"]
    assert vswitch["AvailableIpAddressCount"] == 12, "it lags"
    await box.clock.advance(1)
    (vswitch,) = (await box.send(request))["VSwitches"]["VSwitch"]
    assert vswitch["AvailableIpAddressCount"] == 7

    vpcs = DescribeVpcsRequest.DescribeVpcsRequest()
    (vpc,) = (await box.send(vpcs))["Vpcs"]["Vpc"]
    assert (vpc["VpcId"], vpc["CidrBlock"]) == (box.vpc_id, "10.0.0.0/16")
