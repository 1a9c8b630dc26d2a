"""What each policy lets pass is counted, as the kernel counts it."""

from __future__ import annotations

import pytest

from eniway import metrics
from tests.netns.datapath.fabric import Node, Vpc
from tests.netns.networkpolicy.cluster import cluster, nine


def shown() -> float | None:
    """The metric of x/open."""
    return metrics.REGISTRY.get_sample_value("eniway_networkpolicy_passed_packets_total", {"policy": "x/open"})


@pytest.mark.parametrize("back_end", ["iptables-nft", "iptables-legacy"])
async def test_packets_are_counted_by_policy(vpc: Vpc, nodes: tuple[Node, Node], back_end: str) -> None:
    """Every path to a pod that it selects, once; with the policy the metric goes."""
    async with cluster(vpc, nodes, iptables=back_end) as made:
        await nine(made)
        made.enforcers.pop()
        enforcer = made.enforcers[0]
        enforcer._counted = True
        made.policy("open", {"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": [{}]})
        await enforcer.in_force()
        made.verify()
        leases = [member.lease for member in made.members.values() if member.node == 0]
        enforcer.settle(leases)
        await enforcer.in_force()
        assert shown() == 8 * 2 * 3
        made.clear()
        enforcer.settle(leases)
        await enforcer.in_force()
        assert shown() is None
