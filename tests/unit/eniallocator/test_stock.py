"""Which vSwitches are told of."""

from ipaddress import IPv4Network

from eniallocator import stock
from eniallocator.cloud.api import VSwitch
from eniway.model import VSwitchId


def _vswitch(name: str, available: int = 10) -> VSwitch:
    return VSwitch(VSwitchId(name), "zone-a", IPv4Network("10.0.0.0/24"), available)


def test_those_that_pods_draw_on_are_told_and_no_other() -> None:
    """One that the VPC has and nobody names is left out, one that nobody names any more goes."""
    now = stock.telling([_vswitch("a"), _vswitch("b")], wanted={"a"}, told={"a", "old"})
    assert [vswitch.vswitch_id for vswitch in now.write] == ["a"]
    assert now.delete == {"old"}
    assert not now.unknown


def test_a_describe_that_wrongly_answers_empty_takes_nothing_back() -> None:
    """What was told stands, with the time it was read at."""
    assert stock.telling([], wanted={"a"}, told={"a"}) == stock.Telling((), frozenset(), frozenset({"a"}))
