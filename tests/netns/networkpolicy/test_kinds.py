"""Policies of every kind, in the kernel: each path of nine pods is tried, and what arrives is what the API says."""

from __future__ import annotations

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
