"""The official SDK, V2: ACS3 signatures, and the old ones where it is told to."""

import asyncio
from typing import Any

import pytest
from alibabacloud_ecs20140526 import models
from alibabacloud_ecs20140526.client import Client
from alibabacloud_tea_openapi.utils_models import Config
from Tea.exceptions import TeaException

KEY = "LTAItestkey"
SECRET = "testsecret"


def _client(box: Any, algorithm: str | None, secret: str = SECRET) -> Client:
    return Client(
        Config(
            access_key_id=KEY,
            access_key_secret=secret,
            region_id="cn-box",
            endpoint=box.endpoint,
            protocol="http",
            signature_algorithm=algorithm,
        )
    )


@pytest.mark.parametrize("algorithm", [None, "v2"])
async def test_an_eni_is_made_tagged_and_found(box: Any, algorithm: str | None) -> None:
    """Both signatures carry lists, blanks and letters that must be encoded."""
    client = _client(box, algorithm)
    made = await asyncio.to_thread(
        client.create_network_interface,
        models.CreateNetworkInterfaceRequest(
            region_id="cn-box",
            v_switch_id=box.vswitch_id,
            security_group_ids=[box.group_id],
            description="Größe & *~ +/=",
            tag=[models.CreateNetworkInterfaceRequestTag(key="eniway.io/cluster", value="a b")],
        ),
    )
    assert made.body.description == "Größe & *~ +/="
    found = await asyncio.to_thread(
        client.describe_network_interfaces,
        models.DescribeNetworkInterfacesRequest(
            region_id="cn-box", network_interface_id=[made.body.network_interface_id]
        ),
    )
    (eni,) = found.body.network_interface_sets.network_interface_set
    assert eni.mac_address == made.body.mac_address
    assert eni.tags.tag[0].tag_value == "a b"


@pytest.mark.parametrize("algorithm", [None, "v2"])
async def test_a_wrong_secret_is_refused(box: Any, algorithm: str | None) -> None:
    """The signature is checked, not only present."""
    client = _client(box, algorithm, secret="wrong")
    with pytest.raises(TeaException) as caught:
        await asyncio.to_thread(client.describe_instances, models.DescribeInstancesRequest(region_id="cn-box"))
    assert caught.value.code == "SignatureDoesNotMatch"


async def test_an_instance_and_the_security_groups_are_described(box: Any) -> None:
    """One instance flat, groups in pages; an instance nobody has is an error here."""
    client = _client(box, None)
    found = await asyncio.to_thread(
        client.describe_instance_attribute, models.DescribeInstanceAttributeRequest(instance_id=box.instance.id)
    )
    assert (found.body.instance_name, found.body.status) == ("node-1", "Running")
    assert found.body.vpc_attributes.v_switch_id == box.vswitch_id
    with pytest.raises(TeaException) as caught:
        await asyncio.to_thread(
            client.describe_instance_attribute, models.DescribeInstanceAttributeRequest(instance_id="i-nobody")
        )
    assert caught.value.code == "InvalidInstanceId.NotFound"
    for ids, names in ((f'["{box.group_id}"]', ["default"]), ('["sg-nobody"]', [])):
        request = models.DescribeSecurityGroupsRequest(region_id="cn-box", security_group_ids=ids, max_results=100)
        groups = await asyncio.to_thread(client.describe_security_groups, request)
        assert [group.security_group_name for group in groups.body.security_groups.security_group] == names


async def test_a_security_group_is_made_once_for_a_client_token(box: Any) -> None:
    """Sent twice, it is one group; in a VPC that nobody has there is none."""
    client = _client(box, None)
    vpc_id = next(iter(box.world.vpcs))
    request = models.CreateSecurityGroupRequest(
        region_id="cn-box", vpc_id=vpc_id, security_group_name="pool", client_token="once"
    )
    first = await asyncio.to_thread(client.create_security_group, request)
    second = await asyncio.to_thread(client.create_security_group, request)
    assert first.body.security_group_id == second.body.security_group_id
    assert box.world.security_groups[first.body.security_group_id].name == "pool"
    with pytest.raises(TeaException) as caught:
        await asyncio.to_thread(
            client.create_security_group, models.CreateSecurityGroupRequest(region_id="cn-box", vpc_id="vpc-nobody")
        )
    assert caught.value.code == "InvalidVpcId.NotFound"
