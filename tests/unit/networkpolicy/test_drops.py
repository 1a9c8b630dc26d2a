"""However many packets are dropped, few are told of, and each with what it takes to understand it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from datapath.nflog import Logged
from eniway import names
from eniway.model import ContainerId, LeaseKey, PodRef, PodUid
from networkpolicy.drops import MOST, REFILL_SECONDS, Drop, Pace, ends, judge
from networkpolicy.model import Model
from networkpolicy.terms import Direction
from tests.property.networkpolicy.worlds import lease, pod

DROP = Drop(
    LeaseKey("eniway", ContainerId("c0"), "eth0"),
    PodRef("x", "a", PodUid("1")),
    Direction.INGRESS,
    IPv4Address("10.0.0.7"),
    6,
    80,
    ("x/deny", "x/web"),
    audit=False,
)


def of(number: int) -> Drop:
    """Another pod's."""
    return replace(DROP, key=replace(DROP.key, container_id=ContainerId(f"c{number}")))


def test_of_a_pod_and_direction_one_a_minute() -> None:
    """Whatever the peer."""
    pace = Pace()
    assert pace.allows(DROP, 0)
    assert not pace.allows(replace(DROP, port=81), 59)
    assert pace.allows(replace(DROP, direction=Direction.EGRESS), 59)
    assert pace.allows(DROP, 60)


def test_of_a_node_a_few_and_then_one_at_a_time() -> None:
    """Every pod at once, for ten minutes."""
    pace = Pace()
    told = sum(pace.allows(of(number), second) for second in range(600) for number in range(200))
    assert MOST <= told <= MOST + 600 / REFILL_SECONDS


def test_the_text_says_from_where_to_which_port_and_why() -> None:
    """With the peer's name where it has one."""
    assert DROP.text("y/b") == (
        "TCP from y/b (10.0.0.7), port 80 dropped: isolated by x/deny, x/web, none of which allows it"
    )
    watched = replace(DROP, direction=Direction.EGRESS, protocol=1, port=0, audit=True)
    assert watched.text(None) == (
        "ICMP to 10.0.0.7 would be dropped, the namespace is only watched: isolated by x/deny, x/web,"
        " none of which allows it"
    )
    assert replace(DROP, policies=()).text(None).endswith("the pod's own object is not known yet")


def test_a_packet_is_its_pod_s_by_either_address() -> None:
    """That of the card and that towards Services; one of a pod elsewhere is of nobody here."""
    model = Model(4)
    for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2")):
        made = pod("x", name, uid=name, labels={}, spec={}, phase="Running", ips=[address])
        model.attach(lease(made, address, service="172.16.0.9" if name == "b" else None))
    prefix = f"{names.POLICY_LOG_PREFIX}drop egress"
    found = [
        judge(model, ends(model), Logged(prefix, IPv4Address(source), IPv4Address("192.0.2.1"), 6, 80))
        for source in ("10.0.0.1", "10.0.0.2", "172.16.0.9", "10.0.0.3")
    ]
    assert [drop and drop.pod.name for drop in found] == ["a", "b", "b", None]
