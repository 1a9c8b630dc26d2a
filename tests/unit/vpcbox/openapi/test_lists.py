"""Describe: filters, and pages that hold while things come and go."""

from typing import Any

import pytest
from aliyunsdkcore.acs_exception.exceptions import ServerException


async def _ids(box: Any, **params: object) -> list[str]:
    answer = await box.call("DescribeNetworkInterfaces", **params)
    return [eni["NetworkInterfaceId"] for eni in answer["NetworkInterfaceSets"]["NetworkInterfaceSet"]]


async def _by_token(box: Any, action: str, *path: str, **params: object) -> list[list[dict[str, Any]]]:
    """All pages of a list."""
    pages: list[list[dict[str, Any]]] = []
    token = ""
    while True:
        answer = await box.call(action, **params, **({"NextToken": token} if token else {}))
        token = answer.get("NextToken", "")
        for name in path:
            answer = answer[name]
        pages.append(answer)
        if not token:
            return pages


async def test_filters_all_hold(box: Any) -> None:
    """Each filter alone, two together, and ids nobody has."""
    red = await box.create(Tag__1__Key="color", Tag__1__Value="red", PrivateIpAddress=["10.0.16.50"])
    blue = await box.create(Tag__1__Key="color", Tag__1__Value="blue", NetworkInterfaceName="blue one")
    await box.attach(blue)
    assert await _ids(box, Tag__1__Key="color", Tag__1__Value="red") == [red]
    assert set(await _ids(box, Tag__1__Key="color")) == {red, blue}
    assert await _ids(box, PrivateIpAddress=["10.0.16.50"]) == [red]
    assert await _ids(box, NetworkInterfaceName="blue one") == [blue]
    assert await _ids(box, Status="Available") == [red]
    assert await _ids(box, InstanceId=box.instance.id, Type="Secondary") == [blue]
    assert await _ids(box, InstanceId=box.instance.id, Status="Available") == []
    assert set(await _ids(box, SecurityGroupId=box.group_id)) == {red, blue}, "a group shows secondary ENIs only"
    assert await _ids(box, NetworkInterfaceId=["eni-nobody"]) == []
    assert await _ids(box, VSwitchId=box.small_vswitch_id) == []


async def test_a_walk_by_token_sees_each_eni_once_while_others_come_and_go(box: Any) -> None:
    """What was there from begin to end is seen exactly once; MaxResults below 10 counts as 10."""
    ids = {await box.create() for _ in range(20)}
    staying = ids | {box.world.primary(i.id).id for i in (box.instance, box.hardened)}
    first = await box.call("DescribeNetworkInterfaces", MaxResults=1)
    seen = [eni["NetworkInterfaceId"] for eni in first["NetworkInterfaceSets"]["NetworkInterfaceSet"]]
    assert len(seen) == 10
    gone = next(eni_id for eni_id in seen if eni_id in ids)
    await box.call("DeleteNetworkInterface", NetworkInterfaceId=gone)
    await box.clock.advance(5)
    await box.create()
    token = first["NextToken"]
    while token:
        answer = await box.call("DescribeNetworkInterfaces", MaxResults=10, NextToken=token)
        seen += [eni["NetworkInterfaceId"] for eni in answer["NetworkInterfaceSets"]["NetworkInterfaceSet"]]
        token = answer.get("NextToken", "")
    assert len(seen) == len(set(seen))
    assert staying <= set(seen)


async def test_a_filter_by_tag_shows_no_more_than_a_thousand(box: Any) -> None:
    """Of all pages together; whoever has more must filter by something else."""
    for _ in range(1001):
        await box.world.create_eni(box.vswitch_id, [box.group_id], tags={"a": "b"})
    for more, most in (({"Tag__1__Key": "a"}, 1000), ({"VpcId": box.vpc_id}, 1003)):
        pages = await _by_token(
            box, "DescribeNetworkInterfaces", "NetworkInterfaceSets", "NetworkInterfaceSet", MaxResults=500, **more
        )
        assert sum(map(len, pages)) == most


async def test_pages_by_number_cover_the_list(box: Any) -> None:
    """PageNumber and PageSize, with a total; past the end is an empty page."""
    for _ in range(5):
        await box.create()
    first = await box.call("DescribeNetworkInterfaces", PageNumber=1, PageSize=4)
    assert (first["TotalCount"], first["PageSize"]) == (7, 4)
    both = await _ids(box, PageNumber=1, PageSize=4) + await _ids(box, PageNumber=2, PageSize=4)
    assert len(set(both)) == 7
    assert await _ids(box, PageNumber=3, PageSize=4) == []


async def test_instance_types_and_tags_page_by_token(box: Any) -> None:
    """All pages together are the whole list, no page over its size."""
    pages = await _by_token(box, "DescribeInstanceTypes", "InstanceTypes", "InstanceType", MaxResults=7)
    assert max(map(len, pages)) == 7
    names = [kind["InstanceTypeId"] for page in pages for kind in page]
    assert sorted(names) == sorted(box.world.instance_types)
    eni_id = await box.create(**{f"Tag__{n}__Key": f"k{n}" for n in range(1, 8)})
    tags = await _by_token(
        box, "ListTagResources", "TagResources", "TagResource", ResourceType="eni", ResourceId=[eni_id], MaxResults=3
    )
    assert [len(page) for page in tags] == [3, 3, 1]


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("DescribeNetworkInterfaces", {"NextToken": "*"}),
        ("DescribeNetworkInterfaces", {"PageSize": 1001}),
        ("DescribeNetworkInterfaces", {"Status": "Elsewhere"}),
        ("DescribeNetworkInterfaces", {"NetworkInterfaceId": [f"eni-{n}" for n in range(101)]}),
        ("DescribeInstances", {"MaxResults": 101}),
        ("DescribeInstances", {"InstanceIds": "i-1,i-2"}),
        ("DescribeInstances", {"InstanceIds": "[1]"}),
        ("DescribeInstanceTypes", {"InstanceTypes": [f"ecs.t{n}" for n in range(11)]}),
        ("DescribeVSwitches", {"PageSize": 51}),
    ],
)
async def test_what_is_out_of_bounds_is_named(box: Any, action: str, params: dict[str, object]) -> None:
    """InvalidParameter, and which parameter it was."""
    with pytest.raises(ServerException) as caught:
        await box.call(action, **params)
    assert (caught.value.get_http_status(), caught.value.get_error_code()) == (400, "InvalidParameter")
    assert f'"{next(iter(params))}"' in caught.value.get_error_msg()
