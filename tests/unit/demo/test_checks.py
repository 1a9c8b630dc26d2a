"""The demonstration's judgement: what must be seen follows from what stands, and a wrong answer is a complaint."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address
from typing import Any

import pytest

from demo import checks
from demo.checks import Answer, Endpoint, Kind, Question, Service
from demo.cloud import Eni
from demo.inside import Link

INSTANCES = {"node-1": "i-1", "node-2": "i-2"}
NODE = IPv4Address("10.0.0.1")
PRIMARY = Eni(
    id="eni-primary",
    type="Primary",
    status="InUse",
    mac="00:16:3e:00:00:01",
    vswitch_id="vsw-nodes",
    instance_id="i-1",
    primary=NODE,
    secondary=frozenset({IPv4Address("10.0.0.9")}),
    tags=frozenset(),
)
CARD = dataclasses.replace(
    PRIMARY,
    id="eni-card",
    type="Secondary",
    mac="00:16:3e:00:00:02",
    primary=IPv4Address("10.0.16.2"),
    secondary=frozenset({IPv4Address("10.0.16.3"), IPv4Address("10.0.16.4")}),
)


def pod(name: str, address: str, *, exclusive: bool = False) -> dict[str, Any]:
    """A running pod of node-1 as the API server has it."""
    probe = {"httpGet": {"path": "/", "port": 8080}}
    container = {
        "name": "server",
        "resources": {"limits": {"aliyun/eni": "1"}} if exclusive else {},
        "readinessProbe": probe,
        "livenessProbe": probe,
    }
    return {
        "metadata": {"name": name},
        "spec": {"nodeName": "node-1", "containers": [container]},
        "status": {
            "podIP": address,
            "hostIP": str(NODE),
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"restartCount": 0}],
        },
    }


def links(eth0: str, *, mac: str = "", veth1: str | None = None) -> dict[str, Link]:
    """The links of a pod's namespace."""
    found = {"eth0": Link("eth0", mac, 1500, (IPv4Address(eth0),))}
    if veth1:
        found["veth1"] = Link("veth1", "", 1500, (IPv4Address(veth1),))
    return found


def endpoint(name: str, kind: Kind, node: str, address: str, second: str | None = None) -> Endpoint:
    """Someone to ask."""
    own = IPv4Address(address)
    return Endpoint(name, kind, node, NODE, own, IPv4Address(second) if second else own, f"eni-of-{name}")


WEB = endpoint("web", Kind.SHARED, "node-1", "10.0.16.3")
WEB2 = endpoint("web2", Kind.SHARED, "node-2", "10.0.16.4")
EXCLUSIVE = endpoint("card", Kind.EXCLUSIVE, "node-1", "10.0.16.2", "10.0.0.9")
OUTSIDE = endpoint("outside", Kind.OUTSIDE, "outside", "10.0.0.5")
SERVICE = Service("web", IPv4Address("172.21.0.7"), frozenset({"web", "web2"}))


def asked(asker: Endpoint, target: str, request: str = "clientip") -> Question:
    """The question that one endpoint has for a target over HTTP."""
    questions = checks.questions([WEB, WEB2, EXCLUSIVE, OUTSIDE], [SERVICE])
    [found] = [
        q for q in questions if (q.asker, q.target, q.request, q.protocol) == (asker.name, target, request, checks.HTTP)
    ]
    return found


def test_shared_pod_that_agrees_with_the_cloud_has_no_complaint() -> None:
    """A secondary address of an ENI attached to its node is what a shared pod must have."""
    found, wrong = checks.endpoint(pod("web", "10.0.16.3"), links("10.0.16.3"), [PRIMARY, CARD], INSTANCES)
    assert wrong == []
    assert (found.kind, found.eni, found.service_source) == (Kind.SHARED, "eni-card", found.address)


def test_exclusive_pod_that_is_its_card_has_no_complaint() -> None:
    """Address, MAC and second address of an exclusive pod come from the cloud's ENIs."""
    inner = links("10.0.16.2", mac=CARD.mac, veth1="10.0.0.9")
    found, wrong = checks.endpoint(pod("card", "10.0.16.2", exclusive=True), inner, [PRIMARY, CARD], INSTANCES)
    assert wrong == []
    assert (found.kind, found.service_source) == (Kind.EXCLUSIVE, IPv4Address("10.0.0.9"))


@pytest.mark.parametrize(
    ("card", "inner", "complaint"),
    [
        (dataclasses.replace(CARD, status="Detaching"), {}, "eni-card is Detaching"),
        (dataclasses.replace(CARD, instance_id="i-2"), {}, "attached to i-2, expected i-1"),
        (dataclasses.replace(CARD, type="Trunk"), {}, "of type Trunk"),
        (dataclasses.replace(CARD, mac="00:16:3e:ff:ff:ff"), {}, "expected 00:16:3e:ff:ff:ff"),
        (dataclasses.replace(CARD, primary=IPv4Address("10.0.16.9")), {}, "0 ENIs"),
        (CARD, {"eth0": "10.0.16.9"}, "eth0 has 10.0.16.9, expected 10.0.16.2"),
        (CARD, {"veth1": None}, "has the links eth0, expected eth0 and veth1"),
        (CARD, {"veth1": "10.0.16.4"}, "expected one secondary address of the primary ENI"),
    ],
)
def test_each_disagreement_about_an_exclusive_pod_is_a_complaint(
    card: Eni, inner: dict[str, Any], complaint: str
) -> None:
    """Status, instance, type, MAC and each address are compared, not assumed."""
    seen = links(**{"eth0": "10.0.16.2", "mac": CARD.mac, "veth1": "10.0.0.9"} | inner)
    _, wrong = checks.endpoint(pod("card", "10.0.16.2", exclusive=True), seen, [PRIMARY, card], INSTANCES)
    assert any(complaint in one for one in wrong), wrong


def test_shared_pod_on_a_primary_address_is_a_complaint() -> None:
    """Primary addresses belong to instances and exclusive pods."""
    _, wrong = checks.endpoint(pod("web", "10.0.16.2"), links("10.0.16.2"), [PRIMARY, CARD], INSTANCES)
    assert any("is the primary address" in one for one in wrong)


def test_shared_use_of_an_exclusive_card_is_a_complaint() -> None:
    """Nobody else may have an address of an exclusive pod's ENI."""
    same_card = dataclasses.replace(WEB, eni=EXCLUSIVE.eni)
    assert checks.alone([WEB, WEB2, EXCLUSIVE]) == []
    assert len(checks.alone([same_card, EXCLUSIVE])) == 1
    assert len(checks.alone([WEB, dataclasses.replace(WEB2, address=WEB.address)])) == 1


def test_everybody_asks_everybody_and_each_service() -> None:
    """No pair and no Service is left out, and nobody outside asks a Service."""
    everybody = [WEB, WEB2, EXCLUSIVE, OUTSIDE]
    pairs = {(q.asker, q.target) for q in checks.questions(everybody, [SERVICE])}
    direct = {(a.name, b.name) for a in everybody for b in everybody if a is not b}
    assert pairs == direct | {(one.name, "Service web") for one in (WEB, WEB2, EXCLUSIVE)}


def test_own_address_is_expected_directly_and_the_second_one_through_services() -> None:
    """Exclusive pods go to Services by their second link, everything else by the first."""
    assert asked(EXCLUSIVE, "web").allowed == {"10.0.16.2"}
    assert asked(EXCLUSIVE, "Service web").allowed == {"10.0.0.9"}
    assert asked(WEB, "outside").allowed == {"10.0.16.3"}
    assert asked(OUTSIDE, "card").allowed == {"10.0.0.5"}


def test_node_address_is_allowed_only_for_a_pod_that_may_meet_itself() -> None:
    """Behind its own Service a pod may see its node; the pod's own address must be seen as well."""
    assert asked(WEB, "Service web").allowed == {"10.0.16.3", str(NODE)}
    assert asked(WEB, "Service web").required == {"10.0.16.3"}
    assert str(NODE) not in asked(EXCLUSIVE, "Service web").allowed


def test_right_answer_is_no_complaint() -> None:
    """The port of a client address does not matter."""
    assert checks.judge(asked(WEB, "outside"), Answer(("10.0.16.3:4711",))) is None
    assert checks.judge(asked(WEB, "outside", "hostname"), Answer(("outside",))) is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(),
        Answer(errors=("timeout",)),
        Answer(("10.0.16.3:1",), ("timeout",)),
        Answer(("10.0.0.1:4711",)),
        Answer(("10.0.16.3:1", "10.0.16.3:2")),
    ],
)
def test_wrong_missing_or_doubled_answer_is_a_complaint(answer: Answer) -> None:
    """Silence, an error, another source address: each fails the question."""
    assert checks.judge(asked(WEB, "outside"), answer) is not None


def test_answers_of_the_node_alone_are_a_complaint() -> None:
    """What is allowed for a pod that meets itself must not hide masquerading of all else."""
    question = asked(WEB, "Service web")
    assert checks.judge(question, Answer((f"{NODE}:1",) * question.tries)) is not None
    assert checks.judge(question, Answer(("10.0.16.3:1",) * (question.tries - 1) + (f"{NODE}:1",))) is None


def test_probes_that_do_not_pass_are_complaints() -> None:
    """Ready, no restart, and a probe of each sort over HTTP."""
    good = pod("web", "10.0.16.3")
    assert checks.probed(good) == []
    unready = good | {"status": good["status"] | {"conditions": []}}
    restarted = good | {"status": good["status"] | {"containerStatuses": [{"restartCount": 2}]}}
    restarted["spec"] = {"containers": [{"name": "server"}]}
    restarted["status"]["containerStatuses"][0]["name"] = "server"
    assert len(checks.probed(unready)) == 1
    assert len(checks.probed(restarted)) == 3


def test_scheduler_speaks_through_the_pod_scheduled_condition() -> None:
    """A pod that waits for the scheduler's first look is not refused yet."""
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: 3 Insufficient aliyun/eni."}
    assert checks.refusal({"status": {}}) is None
    assert checks.refusal({"status": {"conditions": [condition]}}) == condition["message"]


def test_nodes_that_offer_nothing_count_as_none() -> None:
    """A node without the device plugin has no such key."""
    nodes = [
        {"metadata": {"name": "a"}, "status": {"allocatable": {"aliyun/eni": "2"}}},
        {"metadata": {"name": "b"}, "status": {"allocatable": {}}},
    ]
    assert checks.allocatable(nodes) == {"a": 2, "b": 0}
