"""Error codes and HTTP statuses per Action, as clients of the real cloud meet them."""

from typing import Any

import pytest
from aliyunsdkcore.acs_exception.exceptions import ServerException

from vpcbox.faults import Kind, Rule


async def refusal(box: Any, action: str, **params: object) -> tuple[int, str]:
    """HTTP status and code of a call that must fail."""
    with pytest.raises(ServerException) as caught:
        await box.call(action, **params)
    return caught.value.get_http_status(), caught.value.get_error_code()


async def test_create_names_what_is_wrong(box: Any) -> None:
    """Missing, malformed, unknown and conflicting parameters each have a code."""
    good = {"VSwitchId": box.vswitch_id, "SecurityGroupId": box.group_id}

    async def create(**changes: object) -> tuple[int, str]:
        return await refusal(box, "CreateNetworkInterface", **{**good, **changes})

    assert await refusal(box, "CreateNetworkInterface", SecurityGroupId=box.group_id) == (400, "MissingParameter")
    assert await refusal(box, "CreateNetworkInterface", VSwitchId=box.vswitch_id) == (400, "MissingParameter")
    assert await create(SecurityGroupIds=[box.group_id]) == (400, "InvalidParameter.Conflict")
    assert await create(VSwitchId="vsw-nobody") == (404, "InvalidVSwitchId.NotFound")
    assert await create(SecurityGroupId="sg-nobody") == (404, "InvalidSecurityGroupId.NotFound")
    assert await create(PrimaryIpAddress="10.0.16.300") == (400, "InvalidParameter")
    assert await create(PrimaryIpAddress="10.0.0.1") == (403, "InvalidVSwitchId.IpInvalid")
    assert await create(PrimaryIpAddress="10.0.31.253") == (403, "InvalidVSwitchId.IpInvalid"), "the gateway"
    assert await create(PrivateIpAddress=["10.0.16.7", "10.0.16.7"]) == (403, "InvalidIp.IpRepeated")
    assert await create(PrivateIpAddress=["10.0.16.7"], SecondaryPrivateIpAddressCount=1) == (
        400,
        "InvalidParameter.Conflict",
    )
    assert await create(SecondaryPrivateIpAddressCount=50) == (400, "InvalidParameter")
    assert await create(SecondaryPrivateIpAddressCount="many") == (400, "InvalidParameter")
    assert await create(SourceDestCheck="perhaps") == (400, "InvalidParameter")
    assert await create(Tag__1__Key="acs:own") == (400, "InvalidTagKey.Malformed")
    assert await create(Tag__1__Key="a", Tag__2__Key="a") == (400, "Duplicate.TagKey")
    assert await create(Ipv6AddressCount=1) == (400, "UnsupportedParameter")
    assert await create(ClientToken="x" * 65) == (400, "InvalidParameter")
    await box.create(PrimaryIpAddress="10.0.16.9")
    assert await create(PrimaryIpAddress="10.0.16.9") == (400, "InvalidPrivateIpAddress.Duplicated")
    assert await create(VSwitchId=box.small_vswitch_id, SecondaryPrivateIpAddressCount=12) == (
        403,
        "InvalidVSwitchId.IpNotEnough",
    )


async def test_not_found_has_another_status_in_delete(box: Any) -> None:
    """InvalidEniId.NotFound: 403 in Delete, 404 elsewhere."""
    nobody = {"NetworkInterfaceId": "eni-nobody"}
    code = "InvalidEniId.NotFound"
    here = {"InstanceId": box.instance.id}
    assert await refusal(box, "DeleteNetworkInterface", **nobody) == (403, code)
    assert await refusal(box, "AttachNetworkInterface", **nobody, **here) == (404, code)
    assert await refusal(box, "DetachNetworkInterface", **nobody, **here) == (404, code)
    assert await refusal(box, "AssignPrivateIpAddresses", **nobody, SecondaryPrivateIpAddressCount=1) == (404, code)
    assert await refusal(box, "UnassignPrivateIpAddresses", **nobody, PrivateIpAddress=["10.0.16.1"]) == (404, code)
    assert await refusal(box, "DescribeNetworkInterfaceAttribute", **nobody) == (404, code)


async def test_attach_and_detach_mind_the_state(box: Any) -> None:
    """An ENI attaches when Available and detaches when InUse, from where it is."""
    eni_id = await box.create()
    here = {"NetworkInterfaceId": eni_id, "InstanceId": box.instance.id}
    state = (400, "InvalidOperation.InvalidEniState")
    assert await refusal(box, "DetachNetworkInterface", **here) == state
    assert await refusal(box, "AttachNetworkInterface", NetworkInterfaceId=eni_id, InstanceId="i-nobody") == (
        404,
        "InvalidEcsId.NotFound",
    )
    await box.call("AttachNetworkInterface", **here)
    assert await refusal(box, "AttachNetworkInterface", **here) == state
    assert await refusal(box, "DetachNetworkInterface", **here) == state
    assert (
        await refusal(box, "AssignPrivateIpAddresses", NetworkInterfaceId=eni_id, SecondaryPrivateIpAddressCount=1)
        == state
    )
    await box.clock.advance(10)
    assert await refusal(box, "DeleteNetworkInterface", NetworkInterfaceId=eni_id) == state
    assert await refusal(box, "DetachNetworkInterface", NetworkInterfaceId=eni_id, InstanceId=box.hardened.id) == (
        400,
        "InvalidParameter.EniNotBelongEcs",
    )
    primary = box.world.primary(box.instance.id)
    assert await refusal(box, "DetachNetworkInterface", NetworkInterfaceId=primary.id, InstanceId=box.instance.id) == (
        400,
        "InvalidOperation.DetachPrimaryEniNotAllowed",
    )


async def test_the_instance_type_limits_enis_and_addresses(box: Any) -> None:
    """ecs.g6.large: 2 ENIs, 6 addresses on each, the primary ones counted."""
    first, second = await box.create(), await box.create()
    crowded = await box.create(SecondaryPrivateIpAddressCount=6)
    there = {"InstanceId": box.hardened.id}
    assert await refusal(box, "AttachNetworkInterface", NetworkInterfaceId=crowded, **there) == (
        403,
        "InvalidOperation.Ipv4CountExceeded",
    )
    await box.call("AttachNetworkInterface", NetworkInterfaceId=first, **there)
    assert await refusal(box, "AttachNetworkInterface", NetworkInterfaceId=second, **there) == (
        403,
        "EniPerInstanceLimitExceeded",
    )
    await box.clock.advance(10)
    await box.call("AssignPrivateIpAddresses", NetworkInterfaceId=first, SecondaryPrivateIpAddressCount=5)
    assert await refusal(
        box, "AssignPrivateIpAddresses", NetworkInterfaceId=first, SecondaryPrivateIpAddressCount=1
    ) == (
        403,
        "InvalidOperation.Ipv4CountExceeded",
    )
    await box.call("AssignPrivateIpAddresses", NetworkInterfaceId=second, SecondaryPrivateIpAddressCount=49)
    assert await refusal(
        box, "AssignPrivateIpAddresses", NetworkInterfaceId=second, SecondaryPrivateIpAddressCount=1
    ) == (
        403,
        "MaxEniPrivateIpsCountExceeded",
    )


async def test_assign_and_unassign_are_all_or_nothing(box: Any) -> None:
    """One bad address refuses the list, and nothing of it happens."""
    eni_id = await box.create(PrimaryIpAddress="10.0.16.20", PrivateIpAddress=["10.0.16.21", "10.0.16.22"])
    on = {"NetworkInterfaceId": eni_id}
    before = await box.eni(eni_id)
    free = box.world.available(box.vswitch_id)
    assert await refusal(box, "AssignPrivateIpAddresses", **on, PrivateIpAddress=["10.0.16.30", "10.0.16.21"]) == (
        403,
        "InvalidIp.IpAssigned",
    )
    assert await refusal(box, "AssignPrivateIpAddresses", **on, PrivateIpAddress=["10.0.16.30", "10.0.32.1"]) == (
        403,
        "InvalidVSwitchId.IpInvalid",
    )
    assert await refusal(box, "AssignPrivateIpAddresses", **on) == (400, "MissingParameter")
    for unknown in ("10.0.16.99", "10.0.16.20"):  # nobody's, and the primary one
        assert await refusal(box, "UnassignPrivateIpAddresses", **on, PrivateIpAddress=["10.0.16.21", unknown]) == (
            403,
            "InvalidIp.IpUnassigned",
        )
    assert await box.eni(eni_id) == before
    assert box.world.available(box.vswitch_id) == free


async def test_tagging_names_what_is_wrong(box: Any) -> None:
    """Resource type, resource and number of tags are checked before anything is tagged."""
    eni_id = await box.create(**{f"Tag__{n}__Key": f"k{n}" for n in range(1, 21)})
    tag = {"Tag__1__Key": "more", "Tag__1__Value": "x"}
    assert await refusal(box, "TagResources", ResourceType="disk", ResourceId=[eni_id], **tag) == (
        404,
        "InvalidResourceType.NotFound",
    )
    assert await refusal(box, "TagResources", ResourceType="eni", ResourceId=["eni-nobody"], **tag) == (
        404,
        "InvalidResourceId.NotFound",
    )
    other = await box.create()
    assert await refusal(box, "TagResources", ResourceType="eni", ResourceId=[other, eni_id], **tag) == (
        403,
        "QuotaExceed.Tags",
    )
    assert (await box.eni(other))["Tags"]["Tag"] == []


async def test_a_vswitch_nobody_has_is_an_error_and_an_emptied_one_gives_nothing(box: Any) -> None:
    """The VPC product says 404; a fault takes the free addresses away and gives them back."""
    with pytest.raises(ServerException, match=r"InvalidVSwitchId\.NotFound"):
        await box.call("DescribeVSwitches", version="2016-04-28", VSwitchId="vsw-nobody")
    rule = box.faults.add(Rule(Kind.VSWITCH_EMPTY, target=box.vswitch_id))
    created = {"VSwitchId": box.vswitch_id, "SecurityGroupId": box.group_id}
    assert await refusal(box, "CreateNetworkInterface", **created) == (403, "InvalidVSwitchId.IpNotEnough")
    answer = await box.call("DescribeVSwitches", version="2016-04-28", VSwitchId=box.vswitch_id)
    assert answer["VSwitches"]["VSwitch"][0]["AvailableIpAddressCount"] == 0
    box.faults.clear(rule)
    assert await box.create()
