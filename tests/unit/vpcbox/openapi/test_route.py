"""Route entries by the official SDK, V1 with its own request classes and V2's generic call, and what is refused."""

import asyncio
from ipaddress import IPv4Network
from typing import Any

import pytest
from alibabacloud_tea_openapi.client import Client
from alibabacloud_tea_openapi.utils_models import Config, OpenApiRequest, Params
from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkvpc.request.v20160428 import (
    CreateRouteEntriesRequest,
    CreateRouteEntryRequest,
    DeleteRouteEntriesRequest,
    DeleteRouteEntryRequest,
    DescribeRouteEntryListRequest,
    DescribeRouteTableListRequest,
)
from darabonba.runtime import RuntimeOptions

VPC = "2016-04-28"


@pytest.fixture
def table(box: Any) -> str:
    """The id of the VPC's route table."""
    return str(box.world.vpcs[box.vpc_id].route_table_id)


async def entries(box: Any, table: str, **filters: object) -> list[dict[str, Any]]:
    """The custom entries, in the order of their destinations."""
    answer = await box.call(
        "DescribeRouteEntryList", version=VPC, RouteTableId=table, RouteEntryType="Custom", MaxResult=100, **filters
    )
    rows = answer["RouteEntrys"]["RouteEntry"]
    return sorted(rows, key=lambda row: IPv4Network(row["DestinationCidrBlock"]))


async def create(box: Any, table: str, *destinations: str, next_hop: str = "") -> dict[str, Any]:
    """CreateRouteEntries by the SDK."""
    request = CreateRouteEntriesRequest.CreateRouteEntriesRequest()
    request.set_RouteEntriess(
        [
            {"RouteTableId": table, "DstCidrBlock": cidr, "NextHop": next_hop or box.instance.id, "Name": f"to {cidr}"}
            for cidr in destinations
        ]
    )
    answer: dict[str, Any] = await box.send(request)
    return answer


async def refusal(box: Any, action: str, **params: object) -> tuple[int, str]:
    """HTTP status and code of a call that must fail."""
    with pytest.raises(ServerException) as caught:
        await box.call(action, version=VPC, **params)
    return caught.value.get_http_status(), caught.value.get_error_code()


async def test_a_batch_of_entries_lives_its_whole_life(box: Any, table: str) -> None:
    """Pending, Available, Deleting and gone, each seen in DescribeRouteEntryList."""
    made = await create(box, table, "172.20.0.0/24", "172.20.1.0/24")
    assert (made["SuccessCount"], made["FailedCount"], made["FailedRouteEntries"]) == (2, 0, [])
    first, second = await entries(box, table)
    assert [first["RouteEntryId"], second["RouteEntryId"]] == made["RouteEntryIds"]
    assert {first["Status"], second["Status"]} == {"Pending"}
    await box.clock.advance(2)
    first, second = await entries(box, table)
    assert {first["Status"], second["Status"]} == {"Available"}
    (hop,) = first["NextHops"]["NextHop"]
    assert (hop["NextHopId"], hop["NextHopType"], hop["Enabled"]) == (box.instance.id, "Instance", 1)
    assert (first["RouteEntryName"], first["Type"], first["IpVersion"]) == ("to 172.20.0.0/24", "Custom", "ipv4")

    request = DeleteRouteEntriesRequest.DeleteRouteEntriesRequest()
    request.set_RouteEntriess(
        [
            {"RouteTableId": table, "RouteEntryId": first["RouteEntryId"]},
            {"RouteTableId": table, "DstCidrBlock": "172.20.1.0/24", "NextHop": box.instance.id},
        ]
    )
    deleted = await box.send(request)
    assert (deleted["SuccessCount"], deleted["FailedCount"], deleted["FailedRouteEntries"]) == (2, 0, [])
    assert {entry["Status"] for entry in await entries(box, table)} == {"Deleting"}
    await box.clock.advance(2)
    assert await entries(box, table) == []


async def test_one_entry_is_made_under_a_token_and_deleted(box: Any, table: str) -> None:
    """By a secondary ENI, around the vSwitches; a bare address is a /32; the token makes it once."""
    eni_id = await box.create()
    request = CreateRouteEntryRequest.CreateRouteEntryRequest()
    request.set_RouteTableId(table)
    request.set_DestinationCidrBlock("10.0.0.0/8")
    request.set_NextHopId(eni_id)
    request.set_NextHopType("NetworkInterface")
    request.set_RouteEntryName("firewall")
    request.set_ClientToken("once")
    made = await box.send(request)
    assert set(made) == {"RequestId", "RouteEntryId"}
    assert (await box.send(request))["RouteEntryId"] == made["RouteEntryId"]
    await box.clock.advance(2)
    await box.call(
        "CreateRouteEntry",
        version=VPC,
        RouteTableId=table,
        DestinationCidrBlock="192.0.2.7",
        NextHopId=box.instance.id,
    )
    await box.clock.advance(2)
    assert [entry["DestinationCidrBlock"] for entry in await entries(box, table)] == ["10.0.0.0/8", "192.0.2.7/32"]

    delete = DeleteRouteEntryRequest.DeleteRouteEntryRequest()
    delete.set_RouteTableId(table)
    delete.set_DestinationCidrBlock("192.0.2.7/32")
    delete.set_NextHopId(box.instance.id)
    assert set(await box.send(delete)) == {"RequestId"}
    await box.clock.advance(2)
    delete = DeleteRouteEntryRequest.DeleteRouteEntryRequest()
    delete.set_RouteEntryId(made["RouteEntryId"])
    await box.send(delete)
    await box.clock.advance(2)
    assert await entries(box, table) == []


async def test_sdk_v2_makes_and_lists_entries(box: Any, table: str) -> None:
    """ACS3 signatures carry the structures of a list; the generic call of V2 knows no request class."""
    client = Client(
        Config(
            access_key_id="LTAItestkey",
            access_key_secret="testsecret",
            region_id="cn-box",
            endpoint=box.endpoint,
            protocol="http",
        )
    )

    async def call(action: str, query: dict[str, str]) -> dict[str, Any]:
        params = Params(
            action=action,
            version=VPC,
            protocol="HTTP",
            method="POST",
            auth_type="AK",
            style="RPC",
            pathname="/",
            req_body_type="json",
            body_type="json",
        )
        answer = await asyncio.to_thread(client.call_api, params, OpenApiRequest(query=query), RuntimeOptions())
        body: dict[str, Any] = answer["body"]
        return body

    row = {"RouteTableId": table, "DstCidrBlock": "172.20.5.0/24", "NextHop": box.instance.id}
    fields = {f"RouteEntries.1.{name}": value for name, value in row.items()}
    (entry_id,) = (await call("CreateRouteEntries", {"RegionId": "cn-box", **fields}))["RouteEntryIds"]
    listed = await call("DescribeRouteEntryList", {"RouteTableId": table, "RouteEntryId": entry_id})
    assert [entry["DestinationCidrBlock"] for entry in listed["RouteEntrys"]["RouteEntry"]] == ["172.20.5.0/24"]


async def test_the_table_is_found_by_its_vpc_and_begins_with_system_entries(box: Any, table: str) -> None:
    """One table, its vSwitches; entries for each of them and for the cloud's services, which nobody deletes."""
    request = DescribeRouteTableListRequest.DescribeRouteTableListRequest()
    request.set_VpcId(box.vpc_id)
    answer = await box.send(request)
    (row,) = answer["RouterTableList"]["RouterTableListType"]
    assert (row["RouteTableId"], row["RouteTableType"], row["Status"], answer["TotalCount"]) == (
        table,
        "System",
        "Available",
        1,
    )
    assert set(row["VSwitchIds"]["VSwitchId"]) == {box.vswitch_id, box.small_vswitch_id}
    request.set_VpcId("vpc-nobody")
    assert (await box.send(request))["RouterTableList"]["RouterTableListType"] == []

    listing = DescribeRouteEntryListRequest.DescribeRouteEntryListRequest()
    listing.set_RouteTableId(table)
    rows = (await box.send(listing))["RouteEntrys"]["RouteEntry"]
    assert {(row["DestinationCidrBlock"], row["NextHops"]["NextHop"][0]["NextHopType"]) for row in rows} == {
        ("100.64.0.0/10", "service"),
        ("10.0.16.0/20", "local"),
        ("10.0.0.0/28", "local"),
    }
    assert {(row["Type"], row["Status"]) for row in rows} == {("System", "Available")}
    one = rows[0]["RouteEntryId"]
    assert await refusal(box, "DeleteRouteEntry", RouteEntryId=one) == (400, "OperationDenied")


async def test_a_batch_fails_by_the_entry(box: Any, table: str) -> None:
    """What is wrong with one does not touch the others; the answer says which and why, by HTTP 200."""
    await create(box, table, "172.20.0.0/24")
    await box.clock.advance(2)
    made = await create(box, table, "172.20.0.0/24", "172.20.1.0/24", "172.20.1.0/24", "10.0.16.0/24", "10.0.0.0/16")
    assert (made["SuccessCount"], made["FailedCount"], len(made["RouteEntryIds"])) == (1, 4, 1)
    assert [(row["DstCidrBlock"], row["NextHop"], row["FailedCode"]) for row in made["FailedRouteEntries"]] == [
        ("172.20.0.0/24", box.instance.id, "VPC_ROUTE_ENTRY_CIDR_BLOCK_DUPLICATE"),
        ("172.20.1.0/24", box.instance.id, "VPC_ROUTE_ENTRY_CIDR_BLOCK_DUPLICATE"),
        ("10.0.16.0/24", box.instance.id, "InvalidCidrBlock"),
        ("10.0.0.0/16", box.instance.id, "InvalidCidrBlock"),
    ]
    await box.clock.advance(2)
    nobody = await create(box, table, "172.20.2.0/24", next_hop="i-nobody")
    assert [row["FailedCode"] for row in nobody["FailedRouteEntries"]] == ["InvalidNextHopId.NotFound"]
    (own, _) = await entries(box, table)
    request = DeleteRouteEntriesRequest.DeleteRouteEntriesRequest()
    request.set_RouteEntriess(
        [
            {"RouteTableId": table, "RouteEntryId": own["RouteEntryId"]},
            {"RouteTableId": table, "DstCidrBlock": "172.20.1.0/24", "NextHop": "i-somebody-else"},
            {"RouteTableId": table, "RouteEntryId": "rte-nobody"},
            {"RouteTableId": table, "RouteEntryId": own["RouteEntryId"]},
        ]
    )
    answer = await box.send(request)
    assert (answer["SuccessCount"], answer["FailedCount"]) == (1, 3)
    assert [(row["RouteEntryId"], row["DstCidrBlock"], row["FailedCode"]) for row in answer["FailedRouteEntries"]] == [
        ("", "172.20.1.0/24", "VPC_ROUTER_ENTRY_NOT_EXIST"),
        ("rte-nobody", "", "VPC_ROUTER_ENTRY_NOT_EXIST"),
        (own["RouteEntryId"], "", "IncorrectRouteEntryStatus"),
    ]
    await box.clock.advance(2)
    assert [entry["DestinationCidrBlock"] for entry in await entries(box, table)] == ["172.20.1.0/24"]


async def test_one_write_at_a_time_in_a_vpc(box: Any, table: str) -> None:
    """Meanwhile a batch meets TaskConflict and a single entry IncorrectRouteEntryStatus, whatever they are about."""
    one = {"RouteTableId": table, "DestinationCidrBlock": "172.20.9.0/24", "NextHopId": box.instance.id}
    batch = {"RouteTableId": table, "DstCidrBlock": "172.20.9.0/24", "NextHop": box.instance.id}
    row = {f"RouteEntries__1__{name}": value for name, value in batch.items()}

    async def all_refused() -> None:
        assert await refusal(box, "CreateRouteEntries", **row) == (400, "TaskConflict")
        assert await refusal(box, "DeleteRouteEntries", **row) == (400, "TaskConflict")
        assert await refusal(box, "CreateRouteEntry", **one) == (400, "IncorrectRouteEntryStatus")
        assert await refusal(box, "DeleteRouteEntry", **one) == (400, "IncorrectRouteEntryStatus")

    await create(box, table, "172.20.0.0/24")
    await all_refused()
    await box.clock.advance(2)
    (entry,) = await entries(box, table)
    await box.call("DeleteRouteEntry", version=VPC, RouteEntryId=entry["RouteEntryId"])
    await all_refused()
    await box.clock.advance(2)
    assert (await create(box, table, "172.20.9.0/24"))["SuccessCount"] == 1


async def test_a_table_takes_200_custom_entries(box: Any, table: str) -> None:
    """The 201st is over the quota, in a batch and alone; one less, and one more fits."""
    for block in range(4):
        await create(box, table, *(f"172.20.{50 * block + n}.0/24" for n in range(50)))
        await box.clock.advance(2)
    over = await create(box, table, "172.21.0.0/24")
    assert [row["FailedCode"] for row in over["FailedRouteEntries"]] == ["QuotaExceeded"]
    alone = {"RouteTableId": table, "DestinationCidrBlock": "172.21.0.0/24", "NextHopId": box.instance.id}
    assert await refusal(box, "CreateRouteEntry", **alone) == (400, "QuotaExceeded")
    await box.call("DeleteRouteEntry", version=VPC, **{**alone, "DestinationCidrBlock": "172.20.0.0/24"})
    await box.clock.advance(2)
    assert (await create(box, table, "172.21.0.0/24", "172.21.1.0/24"))["SuccessCount"] == 1


async def test_a_walk_of_the_table_sees_each_entry_once(box: Any, table: str) -> None:
    """By MaxResult, without s, and NextToken, which is empty at the end."""
    await create(box, table, *(f"172.20.{n}.0/24" for n in range(25)))
    listing = DescribeRouteEntryListRequest.DescribeRouteEntryListRequest()
    listing.set_RouteTableId(table)
    listing.set_RouteEntryType("Custom")
    sizes, seen = [], []
    token = None
    while token != "":
        if token:
            listing.set_NextToken(token)
        answer = await box.send(listing)
        page = answer["RouteEntrys"]["RouteEntry"]
        sizes.append(len(page))
        seen += [entry["DestinationCidrBlock"] for entry in page]
        token = answer["NextToken"]
    assert sizes == [10, 10, 5]
    assert len(set(seen)) == 25
    assert [e["RouteEntryName"] for e in await entries(box, table, DestinationCidrBlock="172.20.7.0/24")] == [
        "to 172.20.7.0/24"
    ]
    assert len(await entries(box, table, NextHopId=box.instance.id, NextHopType="Instance")) == 25
    assert await entries(box, table, NextHopId="i-nobody") == []


async def test_an_entry_stands_when_its_next_hop_is_gone(box: Any, table: str) -> None:
    """Nobody takes it away but a delete; its next hop is still named, and not enabled."""
    eni_id = await box.create()
    made = {"RouteTableId": table, "DestinationCidrBlock": "172.20.0.0/24", "NextHopId": eni_id}
    await box.call("CreateRouteEntry", version=VPC, **made, NextHopType="NetworkInterface")
    await box.call("DeleteNetworkInterface", NetworkInterfaceId=eni_id)
    await box.clock.advance(5)
    (entry,) = await entries(box, table)
    assert [(hop["NextHopId"], hop["Enabled"]) for hop in entry["NextHops"]["NextHop"]] == [(eni_id, 0)]
    await box.call("DeleteRouteEntry", version=VPC, **made)
    await box.clock.advance(2)
    assert await entries(box, table) == []


async def test_create_and_delete_name_what_is_wrong(box: Any, table: str) -> None:
    """Each with its code and status; a malformed batch is refused as a whole."""
    good = {"RouteTableId": table, "DestinationCidrBlock": "172.20.0.0/24", "NextHopId": box.instance.id}

    async def one(action: str = "CreateRouteEntry", **changes: object) -> tuple[int, str]:
        params = {name: value for name, value in {**good, **changes}.items() if value}
        return await refusal(box, action, **params)

    assert await one(RouteTableId="vtb-nobody") == (404, "InvalidRouteTableId.NotFound")
    assert await one(NextHopId="i-nobody") == (404, "InvalidNextHopId.NotFound")
    assert await one(NextHopId="eni-nobody", NextHopType="NetworkInterface") == (
        404,
        "InvalidNetworkInterface.NotFound",
    )
    assert await one(NextHopType="HaVip") == (400, "InvalidParameter")
    for name in good:
        assert await one(**{name: ""}) == (400, "MissingParameter")
    for malformed in ("172.20.0.1/24", "172.20.0.0/33", "pods", "2001:db8::/64"):
        assert await one(DestinationCidrBlock=malformed) == (400, "InvalidCidrBlock.Malformed")
    for inside in ("10.0.16.0/20", "10.0.16.0/24", "10.0.0.1", "100.64.0.0/10", "100.100.0.0/16"):
        assert await one(DestinationCidrBlock=inside) == (400, "InvalidCidrBlock")
    elsewhere = box.world.create_vpc("elsewhere", IPv4Network("10.0.0.0/16"))
    assert await one(RouteTableId=elsewhere.route_table_id) == (404, "OperationFailed.InstanceDismatchCurrentVpc")
    eni_id = await box.create()
    assert await one(RouteTableId=elsewhere.route_table_id, NextHopId=eni_id, NextHopType="NetworkInterface") == (
        400,
        "Mismatch.EniIdAndRouteTableId",
    )
    assert await one("DeleteRouteEntry") == (400, "InvalidRouteEntry.NotFound")
    assert await one("DeleteRouteEntry", RouteEntryId="rte-nobody") == (
        400,
        "ParamExclusive.RouteEntryIdAndRouteTableIdOrDestCidrBlock",
    )
    assert await refusal(box, "DeleteRouteEntry", RouteEntryId="rte-nobody") == (400, "InvalidRouteEntryId.NotFound")
    await box.call("CreateRouteEntry", version=VPC, **good)
    await box.clock.advance(2)
    assert await one() == (400, "InvalidCIDRBlock.Duplicate")

    batch = {"RouteTableId": table, "DstCidrBlock": "172.21.0.0/24", "NextHop": box.instance.id}
    many = {f"RouteEntries__{n}__{name}": value for n in range(1, 52) for name, value in batch.items()}
    assert await refusal(box, "CreateRouteEntries", **many) == (400, "InvalidParameter")
    assert await refusal(box, "DeleteRouteEntries", **many) == (400, "InvalidParameter")
    assert await refusal(box, "CreateRouteEntries") == (400, "MissingParameter")
    for name in batch:
        lacking = {f"RouteEntries__1__{field}": value for field, value in batch.items() if field != name}
        assert await refusal(box, "CreateRouteEntries", **lacking) == (400, "MissingParameter")
        assert await refusal(box, "DeleteRouteEntries", **lacking) == (400, "MissingParameter")
    odd = {f"RouteEntries__1__{name}": value for name, value in {**batch, "Colour": "red"}.items()}
    assert await refusal(box, "CreateRouteEntries", **odd) == (400, "UnsupportedParameter")
    assert await refusal(box, "DescribeRouteEntryList", RouteTableId="vtb-nobody") == (
        404,
        "InvalidRouteTableId.NotFound",
    )
    assert await refusal(box, "DescribeRouteEntryList", RouteTableId=table, MaxResult=101) == (400, "InvalidParameter")
    assert await refusal(box, "DescribeRouteEntryList", RouteTableId=table, MaxResults=10) == (
        400,
        "UnsupportedParameter",
    )
