"""Rules by which the cloud misbehaves: as JSON, and as a client meets them."""

import asyncio
import json
from typing import Any

import pytest
from aliyunsdkcore.acs_exception.exceptions import ServerException

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
