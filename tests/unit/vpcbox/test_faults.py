"""Rules by which the cloud misbehaves: as JSON, and as a client meets them."""

import asyncio
import json
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from aliyunsdkcore.acs_exception.exceptions import ClientException, ServerException
from aliyunsdkecs.request.v20140526 import DescribeInstancesRequest

from vpcbox.faults import Faults, Kind, Rule


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({}, "kind"),
        ({"kind": "earthquake"}, "kind"),
        ({"kind": "error", "colour": "red"}, "colour"),
        ({"kind": "error", "status": 200}, "status"),
        ({"kind": "error", "status": "500"}, "status"),
        ({"kind": "error", "count": 0}, "count"),
        ({"kind": "error", "count": True}, "count"),
        ({"kind": "delay"}, "seconds"),
        ({"kind": "delay", "seconds": -1}, "seconds"),
        ({"kind": "throttle", "per_minute": -1}, "per_minute"),
        ({"kind": "stuck", "target": "CreateNetworkInterface"}, "target"),
        ({"kind": "slow", "target": "CreateNetworkInterface", "seconds": 1}, "target"),
        ({"kind": "empty-answer", "target": "CreateNetworkInterface"}, "target"),
        ({"kind": "clock-off"}, "seconds"),
    ],
)
def test_a_bad_rule_names_its_field(row: dict[str, Any], field: str) -> None:
    """ValueError begins with the field."""
    with pytest.raises(ValueError, match=f"^{field}: "):
        Rule.parse(row)


def test_rules_go_to_json_and_back() -> None:
    """What ``list`` shows is a rule again, less its id."""
    faults = Faults()
    faults.add(Rule.parse({"kind": "error", "target": "DescribeInstances", "count": 2}))
    (row,) = json.loads(json.dumps(faults.list()))
    assert row.pop("id") == "fault-1"
    assert Rule.parse(row) == Rule(Kind.ERROR, target="DescribeInstances", count=2)


def test_a_count_is_used_up_and_a_rule_can_be_cleared() -> None:
    """The second strike finds nothing; an unknown id is a KeyError."""
    faults = Faults()
    faults.add(Rule(Kind.ERROR, count=1))
    assert faults.strike(Kind.ERROR, "Any")
    assert faults.strike(Kind.ERROR, "Any") is None
    faults.add(Rule(Kind.ERROR))
    faults.add(Rule(Kind.ERROR, target="Other"))
    assert faults.clear() == 2
    with pytest.raises(KeyError):
        faults.clear("fault-1")


async def test_an_error_hits_its_action_and_no_other(box: Any) -> None:
    """With code and status as the rule says, and without effect."""
    box.faults.add(Rule(Kind.ERROR, target="CreateNetworkInterface", code="ServiceUnavailable", status=503))
    with pytest.raises(ServerException) as caught:
        await box.create()
    assert (caught.value.get_http_status(), caught.value.get_error_code()) == (503, "ServiceUnavailable")
    assert len(box.world.enis) == 2
    await box.call("DescribeNetworkInterfaces")


async def test_throttling_lasts_until_the_next_minute(box: Any) -> None:
    """Two calls a minute: the third is refused until the minute is over."""
    await box.clock.advance(60 - box.clock.now() % 60)
    box.faults.add(Rule(Kind.THROTTLE, target="DescribeInstances", per_minute=2))
    for _ in range(2):
        await box.call("DescribeInstances")
    await box.clock.advance(59)
    with pytest.raises(ServerException) as caught:
        await box.call("DescribeInstances")
    assert (caught.value.get_http_status(), caught.value.get_error_code()) == (400, "Throttling.User")
    await box.clock.advance(1)
    await box.call("DescribeInstances")


async def test_a_delay_holds_the_answer_back(box: Any) -> None:
    """The call is done after the rule's seconds of box time."""
    box.faults.add(Rule(Kind.DELAY, target="CreateNetworkInterface", seconds=30, count=1))
    call = asyncio.create_task(box.create())
    await box.clock.somebody_sleeps()
    await box.clock.advance(29)
    assert len(box.world.enis) == 2
    await box.clock.advance(1)
    assert await call in box.world.enis


async def test_a_stuck_detach_goes_on_when_asked_again(box: Any) -> None:
    """Detaching for ever, until Detach is called once more; the same for Delete."""
    eni_id = await box.attach(await box.create())
    here = {"NetworkInterfaceId": eni_id, "InstanceId": box.instance.id}
    for action, params, stuck in (
        ("DetachNetworkInterface", here, "Detaching"),
        ("DeleteNetworkInterface", {"NetworkInterfaceId": eni_id}, "Deleting"),
    ):
        box.faults.add(Rule(Kind.STUCK, target=action, count=1))
        await box.call(action, **params)
        await box.clock.advance(400)  # signatures are good for 900 s, and there are two rounds
        assert (await box.eni(eni_id))["Status"] == stuck
        await box.call(action, **params)
        await box.clock.advance(10)
    assert await box.eni(eni_id) is None


async def test_a_lost_attach_falls_back(box: Any) -> None:
    """Accepted, Attaching, then Available again; the next try works."""
    box.faults.add(Rule(Kind.LOST_ATTACH, count=1))
    eni_id = await box.attach(await box.create())
    assert (await box.eni(eni_id))["Status"] == "Available"
    await box.attach(eni_id)
    assert (await box.eni(eni_id))["Status"] == "InUse"


async def test_throttling_counts_each_action_by_itself(box: Any) -> None:
    """A rule for all of them gives each as many calls."""
    box.faults.add(Rule(Kind.THROTTLE, per_minute=1))
    await box.call("DescribeInstances")
    await box.call("DescribeNetworkInterfaces")
    with pytest.raises(ServerException):
        await box.call("DescribeInstances")


async def test_no_answer_is_a_connection_that_ends_after_the_work_is_done(box: Any) -> None:
    """What was asked for is so, and the caller cannot know."""
    box.faults.add(Rule(Kind.NO_ANSWER, "CreateNetworkInterface", count=1))
    with pytest.raises(ClientException):
        await box.create()
    assert len(box.world.enis) == 3


async def test_a_describe_that_wrongly_answers_empty(box: Any) -> None:
    """Well-formed, with nothing in its lists, once."""
    box.faults.add(Rule(Kind.EMPTY_ANSWER, "DescribeInstances", count=1))
    answer = await box.call("DescribeInstances")
    assert (answer["Instances"], answer["TotalCount"]) == ({"Instance": []}, 0)
    assert len((await box.call("DescribeInstances"))["Instances"]["Instance"]) == 2


async def test_a_slow_attach_takes_as_much_longer(box: Any) -> None:
    """Attaching until then."""
    box.faults.add(Rule(Kind.SLOW, "AttachNetworkInterface", seconds=27, count=1))
    eni_id = await box.attach(await box.create())
    assert (await box.eni(eni_id))["Status"] == "Attaching"
    await box.clock.advance(22)
    assert (await box.eni(eni_id))["Status"] == "InUse"


async def test_an_attach_may_fall_back_late(box: Any) -> None:
    """Attaching for so long before it is Available again."""
    box.faults.add(Rule(Kind.LOST_ATTACH, seconds=60, count=1))
    eni_id = await box.attach(await box.create())
    assert (await box.eni(eni_id))["Status"] == "Attaching"
    await box.clock.advance(60)
    assert (await box.eni(eni_id))["Status"] == "Available"


async def test_a_busy_eni_is_a_conflict_in_each_actions_words(box: Any) -> None:
    """And nothing happens to it, nor to another one."""
    eni_id, other = await box.create(), await box.create()
    box.faults.add(Rule(Kind.ENI_BUSY, eni_id))
    with pytest.raises(ServerException) as caught:
        await box.call("AssignPrivateIpAddresses", NetworkInterfaceId=eni_id, SecondaryPrivateIpAddressCount=1)
    assert (caught.value.get_http_status(), caught.value.get_error_code()) == (403, "Operation.Conflict")
    with pytest.raises(ServerException) as caught:
        await box.call("DeleteNetworkInterface", NetworkInterfaceId=eni_id)
    assert (caught.value.get_http_status(), caught.value.get_error_code()) == (409, "InvalidOperation.Conflict")
    await box.call("DeleteNetworkInterface", NetworkInterfaceId=other)
    assert (await box.eni(eni_id))["Status"] == "Available"


async def test_a_busy_vpc_takes_no_route(box: Any) -> None:
    """TaskConflict."""
    box.faults.add(Rule(Kind.VPC_BUSY, box.vpc_id, count=1))
    row = {
        "RouteEntries__1__RouteTableId": box.world.vpcs[box.vpc_id].route_table_id,
        "RouteEntries__1__DstCidrBlock": "172.20.0.0/24",
        "RouteEntries__1__NextHop": box.instance.id,
    }
    with pytest.raises(ServerException) as caught:
        await box.call("CreateRouteEntries", version="2016-04-28", **row)
    assert caught.value.get_error_code() == "TaskConflict"
    assert (await box.call("CreateRouteEntries", version="2016-04-28", **row))["SuccessCount"] == 1


async def test_a_stock_that_lags_is_what_it_was(box: Any) -> None:
    """Addresses that are taken still count, for so long."""
    box.faults.add(Rule(Kind.STOCK_LAG, box.small_vswitch_id, seconds=120))
    await box.create(VSwitchId=box.small_vswitch_id)
    for passed, stock in ((119, 12), (1, 11)):
        await box.clock.advance(passed)
        assert box.world.stock(box.small_vswitch_id) == stock


async def test_a_session_may_end_before_its_time(box: Any) -> None:
    """The call is refused; with the next session the same call is served."""
    box.faults.add(Rule(Kind.SESSION_ENDED, "node-role", count=1))
    for number in range(2):
        key = box.credentials.session("node-role")
        client = box.client(key.id, key.secret, key.token)
        request = DescribeInstancesRequest.DescribeInstancesRequest()
        if number == 0:
            with pytest.raises(ServerException) as caught:
                await box.send(request, client)
            assert caught.value.get_error_code() == "InvalidSecurityToken.Expired"
        else:
            await box.send(request, client)


@pytest.mark.parametrize(("seconds", "served"), [(-1000, False), (1000, False), (600, True)])
async def test_a_clock_that_is_off_refuses_good_signatures_and_tells_its_time(
    box: Any, seconds: int, served: bool
) -> None:
    """More than a quarter of an hour, either way; the answer's Date is the server's, so a client can follow it."""
    box.faults.add(Rule(Kind.CLOCK_OFF, seconds=seconds))
    async with box.http.get(f"http://{box.endpoint}/") as response:
        told = parsedate_to_datetime(response.headers["Date"]).timestamp()
    assert told == pytest.approx(box.clock.wall() + seconds, abs=5)
    if served:
        await box.call("DescribeInstances")
        return
    with pytest.raises(ServerException) as caught:
        await box.call("DescribeInstances")
    assert caught.value.get_error_code() == "InvalidTimeStamp.Expired"
