"""What packets meet that no policy is about, and packets of connections that are known."""

from __future__ import annotations

import pytest

from eniway.model import Kind
from networkpolicy import render
from networkpolicy.model import Model
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.property.networkpolicy.worlds import lease, namespace, pod, policy, view


def node_with(*policies: PolicyView) -> Model:
    """A pod x/a on this node, and policies."""
    model = Model(4, sampled=True)
    model.put_namespace(view(NamespaceView, namespace("x", {})))
    made = pod("x", "a", uid="a", labels={"pod": "a"}, spec={}, phase="Running", ips=["10.0.0.1"])
    model.put_pod(view(PodView, made))
    assert model.attach(lease(made, "10.0.0.1")).lease.kind is not Kind.EXCLUSIVE
    for each in policies:
        model.put_policy(each)
    return model


def isolating(**labels: str) -> PolicyView:
    """Both ways, whoever has the labels."""
    spec = {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress", "Egress"]}
    made: PolicyView = view(PolicyView, policy("x", "p", spec))
    return made


def test_a_node_none_of_whose_pods_is_selected_has_no_rule() -> None:
    """Whatever policies there are."""
    assert render.node(node_with(isolating(pod="other")).endpoints.values(), 4) == render.EMPTY


@pytest.mark.parametrize("hook", ["FORWARD", "INPUT"])
def test_a_packet_of_a_known_connection_meets_one_rule_behind_the_jump(hook: str) -> None:
    """Of pods that are selected, too."""
    layout = render.node(node_with(isolating(pod="a")).endpoints.values(), 4)
    (jump,) = [jump for jump in layout.jumps if jump.chain == hook]
    first, *_ = layout.chains[jump.rule.split(" ")[-1]]
    assert first == "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
