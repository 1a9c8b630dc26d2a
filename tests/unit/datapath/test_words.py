"""Operations in words."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from datapath.diff import Add, Change, Op, Remove
from datapath.state import Addr, Member, Netns, Route, Rule, Sysctl
from datapath.words import told

ROUTE = Route(netns=Netns.NODE, table=1001, destination=IPv4Network("0.0.0.0/0"), dev="eth1")
ENDS = Route(netns=Netns.NODE, table=1001, destination=IPv4Network("0.0.0.0/0"), dev=None)
RULE = Rule(priority=512, table=999)
FORWARD = Sysctl(path="net/ipv4/ip_forward", value="1")


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (Add(ROUTE), "route to 0.0.0.0/0 of table 1001 is missing"),
        (Add(ENDS), "unreachable route to 0.0.0.0/0 of table 1001 is missing"),
        (Remove(RULE), "rule 512 to table 999 is too many"),
        (Change(FORWARD, Sysctl(path=FORWARD.path, value="0")), "sysctl net.ipv4.ip_forward is not as planned"),
        (
            Add(Addr(netns=Netns.POD, dev="eth0", address=IPv4Interface("10.0.0.7/32"))),
            "address 10.0.0.7/32 of eth0 in the pod is missing",
        ),
        (
            Add(Member(set="eniway-pods", address=IPv4Address("10.0.0.7"))),
            "member 10.0.0.7 of ipset eniway-pods is missing",
        ),
    ],
)
def test_what_is_to_be_done_is_told_as_what_is_wrong(op: Op, words: str) -> None:
    """By the names that the tools of iproute2 use."""
    assert told(op) == words
