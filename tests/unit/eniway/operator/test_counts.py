"""What is written on Nodes about addresses."""

from typing import Any

import msgspec

from eniway.kube.views import Node, NodeNetwork
from eniway.operator.counts import writes

STAMP = "2026-01-01T00:00:00Z"


def network(*, ready: str = "True", sufficient: str = "True", default: str = "shared") -> NodeNetwork:
    conditions = [
        {"type": "Ready", "status": ready},
        {"type": "SufficientIP", "status": sufficient, "reason": "Free", "lastTransitionTime": STAMP},
    ]
    capacity = {"addresses": {"most": 28, "free": 3}, "routed": {"most": 254}}
    status = {"defaultNetwork": default, "capacity": capacity, "conditions": conditions}
    return msgspec.convert({"metadata": {"name": "a"}, "status": status}, NodeNetwork)


def node(addresses: object = None, *conditions: dict[str, Any]) -> Node:
    resources = {} if addresses is None else {"aliyun/eni-ip": addresses}
    status = {"capacity": resources, "allocatable": resources, "conditions": list(conditions)}
    return msgspec.convert({"metadata": {"name": "a"}, "status": status}, Node)


def written(node_: Node, network_: NodeNetwork) -> dict[str, Any]:
    return dict(writes({"a": node_}, {"a": network_, "gone": network_})).get("a", {})


def test_a_node_that_registered_anew_gets_its_count_and_condition() -> None:
    """The structural count, whatever is free; what another default can serve is another count."""
    count = {"aliyun/eni-ip": "28"}
    said = written(node(), network())
    assert (said["capacity"], said["allocatable"]) == (count, count)
    (condition,) = said["conditions"]
    assert (condition["type"], condition["status"], condition["lastTransitionTime"]) == ("SufficientIP", "True", STAMP)
    assert written(node(), network(default="shared-else-routed"))["capacity"] == {"aliyun/eni-ip": "282"}
    assert written(node(), network(default="routed"))["capacity"] == {"aliyun/eni-ip": "254"}


def test_what_stands_there_is_not_written_again() -> None:
    """Quantities come as text or as numbers."""
    known = {"type": "SufficientIP", "status": "True", "reason": "Free"}
    assert written(node("28", known), network()) == {}
    assert written(node(28, known), network()) == {}
    assert list(written(node("28", {**known, "status": "False"}), network())) == ["conditions"]


def test_a_daemon_that_does_not_know_yet_takes_nothing_back() -> None:
    """A count that sank below what runs would fail pods for good."""
    assert written(node("28"), network(ready="Unknown", sufficient="Unknown")) == {}
