"""What the model makes of pods, leases and policies: rows of the semantics that random worlds meet seldom."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from datapath.ipset import Element
from eniway.model import Kind, PodUid
from networkpolicy import render
from networkpolicy.model import Model
from networkpolicy.terms import Direction, PortSet
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.property.networkpolicy.oracle import Json
from tests.property.networkpolicy.worlds import lease, namespace, pod, policy, view

LET_IN: Json = {
    "podSelector": {"matchLabels": {"pod": "a"}},
    "ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}],
}


def made(name: str, address: str, *, uid: str = "", phase: str = "Running", **spec: Any) -> Json:
    return pod(
        "x", name, uid=uid or name, labels={"pod": name}, spec=spec, phase=phase, ips=[address] if address else []
    )


def put(model: Model, given: Json) -> Json:
    model.put_pod(view(PodView, given))
    return given


@pytest.fixture
def model() -> Model:
    """x/a is of this node and lets x/b in."""
    model = Model(4)
    model.put_namespace(view(NamespaceView, namespace("x", {})))
    model.attach(lease(put(model, made("a", "10.0.0.1")), "10.0.0.1"))
    model.put_policy(view(PolicyView, policy("x", "p", LET_IN)))
    return model


def members(model: Model) -> set[str]:
    """Addresses in the only set."""
    (ref,) = render.node(model.endpoints.values(), 4).sets.values()
    return {str(IPv4Address(element.address)) for element in model.members(ref)}


def test_an_address_is_the_live_pods_alone(model: Model) -> None:
    """A finished pod's address may be another's by now; one without address yet stands in nobody's way."""
    put(model, made("b", "10.0.0.2", phase="Succeeded"))
    put(model, made("late", ""))
    assert members(model) == set()
    put(model, made("b", "10.0.0.2", uid="b2"))
    assert members(model) == {"10.0.0.2"}
    put(model, made("c", "10.0.0.2"))
    model.drop_pod("x", "c")
    assert members(model) == {"10.0.0.2"}


def test_an_address_that_two_pods_have_for_a_moment_leaves_with_the_last(model: Model) -> None:
    put(model, made("b", "10.0.0.2"))
    both = pod("x", "b-next", uid="n", labels={"pod": "b"}, spec={}, phase="Running", ips=["10.0.0.2"])
    put(model, both)
    model.drop_pod("x", "b")
    assert members(model) == {"10.0.0.2"}
    model.drop_pod("x", "b-next")
    assert members(model) == set()


def test_a_pod_of_this_node_has_its_leases_addresses_at_once_and_both(model: Model) -> None:
    """Before the API server knows any; elsewhere they come with status and annotation."""
    mine = put(model, made("b", ""))
    held = lease(mine, "10.0.0.2", kind=Kind.EXCLUSIVE, service="10.0.0.3")
    model.attach(held)
    assert members(model) == {"10.0.0.2", "10.0.0.3"}
    model.detach(held.key)
    assert members(model) == set()
    elsewhere = made("b", "10.0.0.2")
    elsewhere["metadata"]["annotations"] = {"eniway.io/service-address": "10.0.0.3"}
    put(model, elsewhere)
    assert members(model) == {"10.0.0.2", "10.0.0.3"}


def test_an_address_that_no_packet_has_is_in_no_set(model: Model) -> None:
    """The kernel would refuse the set for it."""
    put(model, made("b", "0.0.0.0"))
    assert members(model) == set()
    put(model, made("b", "0.0.0.1"))
    assert members(model) == {"0.0.0.1"}


def test_a_host_network_pod_is_no_peer(model: Model) -> None:
    put(model, made("b", "10.0.0.250", hostNetwork=True))
    assert members(model) == set()


def test_a_namespace_that_comes_after_its_pods_counts_from_then_on() -> None:
    model = Model(4)
    model.attach(lease(put(model, made("a", "10.0.0.1")), "10.0.0.1"))
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "x"}}}
    model.put_policy(view(PolicyView, policy("x", "p", {"podSelector": {}, "ingress": [{"from": [peer]}]})))
    assert members(model) == set()
    model.put_namespace(view(NamespaceView, {"metadata": {"name": "x"}}))
    assert members(model) == {"10.0.0.1"}
    model.drop_namespace("x")
    assert members(model) == set()


def test_a_pod_whose_object_was_never_seen_is_shut_off_unless_pods_start_without() -> None:
    given = made("a", "10.0.0.1")
    for fail_open in (False, True):
        model = Model(4, fail_open=fail_open)
        endpoint = model.attach(lease(given, "10.0.0.1"))
        assert bool(endpoint.programs) is not fail_open
        assert all(not program.terms() for program in endpoint.programs.values())
        put(model, given)
        assert not endpoint.programs


def test_a_pod_deleted_by_force_stays_isolated_until_its_lease_ends(model: Model) -> None:
    """Its namesake's labels are not its own; a lease that changes otherwise loses nothing of what is known."""
    (endpoint,) = model.endpoints.values()
    before = endpoint.programs
    assert before
    model.drop_pod("x", "a")
    put(model, pod("x", "a", uid="another", labels={}, spec={}, phase="Running", ips=["10.0.0.9"]))
    model.attach(replace(endpoint.lease, netns="/run/netns/elsewhere"))
    (endpoint,) = model.endpoints.values()
    assert endpoint.programs == before
    model.detach(endpoint.lease.key)
    assert not model.active()


def test_a_static_pod_is_known_by_the_uid_that_its_runtime_knows() -> None:
    model = Model(4)
    mirror = made("a", "10.0.0.1", uid="mirror")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.hash": "file"}
    put(model, mirror)
    held = lease(mirror, "10.0.0.1")
    assert model.attach(replace(held, pod=replace(held.pod, uid=PodUid("file")))).pod is not None


def test_only_policies_of_this_nodes_pods_are_programmed_and_equal_selectors_share_a_set(model: Model) -> None:
    again = {**LET_IN, "ingress": [{"from": LET_IN["ingress"][0]["from"], "ports": [{"port": 80}]}]}
    model.put_policy(view(PolicyView, policy("x", "q", again)))
    elsewhere = {**LET_IN, "podSelector": {"matchLabels": {"pod": "elsewhere"}}}
    model.put_policy(view(PolicyView, policy("x", "r", elsewhere)))
    assert sorted(model.active()) == ["x/p", "x/q"]
    assert len(render.node(model.endpoints.values(), 4).sets) == 1


def test_a_named_port_is_each_pods_own_sidecars_included(model: Model) -> None:
    """Ports of init containers that end, and of another protocol, are none."""
    spec: Json = {
        "containers": [
            {"ports": [{"name": "web", "containerPort": 80}, {"name": "web", "containerPort": 81, "protocol": "UDP"}]}
        ],
        "initContainers": [
            {"restartPolicy": "Always", "ports": [{"name": "web", "containerPort": 82}]},
            {"ports": [{"name": "web", "containerPort": 83}]},
        ],
    }
    put(model, made("b", "10.0.0.2", **spec))
    put(model, made("c", "10.0.0.3", containers=[{"ports": [{"name": "web", "containerPort": 8080}]}]))
    egress = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "web"}]}]}
    model.put_policy(view(PolicyView, policy("x", "named", egress)))
    (ref,) = (ref for ref in render.node(model.endpoints.values(), 4).sets.values() if isinstance(ref, PortSet))
    assert set(model.members(ref)) == {
        Element(IPv4Address(address).packed, 6, port)
        for address, port in (("10.0.0.2", 80), ("10.0.0.2", 82), ("10.0.0.3", 8080))
    }


def test_names_fit_the_kernel_and_comments_too(model: Model) -> None:
    """Chains of 28 characters, sets of 31, comments of 255."""
    long = {"namespace": "x", "name": "p" * 253}
    model.put_policy(view(PolicyView, {"metadata": long, "spec": LET_IN}))
    model.put_policy(view(PolicyView, policy("x", "e", {"podSelector": {}, "egress": [{"ports": [{"port": "web"}]}]})))
    layout = render.node(model.endpoints.values(), 4)
    assert max(map(len, layout.chains)) <= 28
    assert max(map(len, layout.sets)) <= 31
    comments = [rule.split('"')[1] for rules in layout.chains.values() for rule in rules if '"' in rule]
    assert max(map(len, comments)) <= 255
    assert {direction for endpoint in model.endpoints.values() for direction in endpoint.programs} == set(Direction)


def test_nothing_is_kept_of_a_pod_that_is_gone(model: Model) -> None:
    """Each of a Job's pods has labels and may have ports of its own; what others have alike stays."""

    def kept() -> tuple[int, int]:
        return len(model._keeper._labels._kept), len(model._keeper._ports._kept)

    def job(number: int, **labels: str) -> Json:
        ports = [{"name": f"p{number}", "containerPort": 80}]
        meta = {"namespace": "x", "name": f"job-{number}", "uid": str(number), "labels": {"job": str(number), **labels}}
        return {"metadata": meta, "spec": {"containers": [{"ports": ports}]}, "status": {"phase": "Running"}}

    before = kept()
    for number in range(50):
        put(model, job(number))
        put(model, job(number))
        put(model, job(number, more="1"))
        put(model, {**job(number), "metadata": {**job(number)["metadata"], "name": f"twin-{number}"}})
    assert kept() == (before[0] + 100, before[1] + 50)
    for number in range(50):
        model.drop_pod("x", f"job-{number}")
        model.drop_pod("x", f"job-{number}")
    assert kept() == (before[0] + 50, before[1] + 50)
    for number in range(50):
        model.drop_pod("x", f"twin-{number}")
    assert kept() == before
