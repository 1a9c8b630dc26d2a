"""Policies of every kind, in the kernel: each path of nine pods is tried, and what arrives is what the API says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.netns.networkpolicy.cases import GROUPS, Case
from tests.netns.networkpolicy.cluster import Cluster


async def test_without_policies_everything_arrives(nine_pods: Cluster) -> None:
    """Else the other tests would say nothing."""
    assert nine_pods.verify() == 9 * 8 * 6
    nine_pods.policy("deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    await nine_pods.in_force()
    nine_pods.verify("deny all")
    nine_pods.clear()
    await nine_pods.in_force()
    nine_pods.verify("none again")


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
async def test_what_arrives_is_what_the_api_says(
    nine_pods: Cluster, group: Callable[[Cluster], Iterator[Case]]
) -> None:
    """Case by case; the pods stay."""
    cases = 0
    for name, steps in group(nine_pods):
        for step, (method, arguments) in enumerate(steps):
            getattr(nine_pods, method)(*arguments)
            await nine_pods.in_force()
            nine_pods.verify(f"{name}, step {step}")
        nine_pods.clear()
        cases += 1
    await nine_pods.in_force()
    nine_pods.verify("after all")
    for enforcer in nine_pods.enforcers:
        assert not enforcer.model.active()
    assert cases
