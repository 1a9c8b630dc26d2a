"""Explain names the policy that decides, at both ends."""

from __future__ import annotations

import pytest

from eniway.errors import InvalidRequest
from networkpolicy.explain import explain
from networkpolicy.model import Model
from networkpolicy.terms import PROTOCOLS
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.property.networkpolicy.worlds import namespace, pod, policy, view

TCP = PROTOCOLS["TCP"]


@pytest.fixture
def model() -> Model:
    """x/a is isolated and lets b in at 80; y is watched only."""
    made = Model(4)
    made.put_namespace(view(NamespaceView, namespace("x", {})))
    watched = {"metadata": {"name": "y", "annotations": {"eniway.io/networkpolicy": "audit"}}}
    made.put_namespace(view(NamespaceView, watched))
    for number, (space, name) in enumerate((("x", "a"), ("x", "b"), ("y", "c"))):
        made.put_pod(
            view(
                PodView,
                pod(space, name, uid=name, labels={"pod": name}, spec={}, phase="Running", ips=[f"10.0.0.{number}"]),
            )
        )
    rule = {"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}], "ports": [{"port": 80}]}
    made.put_policy(
        view(PolicyView, policy("x", "web", {"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": [rule]}))
    )
    made.put_policy(view(PolicyView, policy("y", "shut", {"podSelector": {}})))
    return made


@pytest.mark.parametrize(
    ("source", "destination", "port", "passes", "said"),
    [
        ("x/b", "x/a", 80, True, "ingress of x/a: policy x/web says allow"),
        ("10.0.0.1", "x/a", 80, True, "ingress of x/a: policy x/web says allow"),
        ("x/b", "10.0.0.0", 81, False, "ingress of x/a: dropped, isolated by x/web, none of which allows it"),
        ("x/a", "x/b", 81, True, "ingress of x/b: allowed, no policy isolates it"),
        ("192.0.2.1", "y/c", 80, True, "ingress of y/c: audit: y/shut would drop it, the namespace is only watched"),
        (
            "x/a",
            "192.0.2.1",
            80,
            True,
            "ingress of 192.0.2.1: not a pod of the cluster's network, no policy is about it",
        ),
    ],
)
def test_explain_names_what_decides(
    model: Model, *, source: str, destination: str, port: int, passes: bool, said: str
) -> None:
    answer = explain(model, source, destination, TCP, port)
    assert answer.passes is passes
    assert said in answer.reasons


def test_an_end_that_is_none_is_refused(model: Model) -> None:
    for text in ("x/nobody", "nonsense", "::1"):
        with pytest.raises(InvalidRequest, match=text):
            explain(model, text, "x/a", TCP, 80)
