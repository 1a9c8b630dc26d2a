"""No packet that must pass is lost and none that must not gets through: while policies change, and while pods start."""

from __future__ import annotations

from random import Random

from eniway.model import Kind
from tests.netns.datapath.fabric import Node, Vpc
from tests.netns.networkpolicy.churn import churn
from tests.netns.networkpolicy.cluster import cluster
from tests.netns.networkpolicy.leak import starts


async def test_no_packet_is_lost_or_leaked_while_everything_changes(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """Counted in the kernel; the daemon is killed a few times in the middle of it."""
    outcome = await churn(vpc, nodes, updates=300, kills=5, random=Random(7))
    assert outcome.sent > 1000
    assert outcome.forbidden > 1000
    assert (outcome.lost, outcome.leaked) == (0, 0), outcome


async def test_nothing_gets_into_a_pod_that_starts_under_a_default_deny_nor_out_of_it(
    vpc: Vpc, nodes: tuple[Node, Node]
) -> None:
    """From before its ADD until after its DEL, for all kinds."""
    async with cluster(vpc, nodes) as made:
        outcome = await starts(made, [Kind.SHARED, Kind.ROUTED, Kind.EXCLUSIVE] * 7)
    assert outcome.tried_in > 1000
    assert outcome.tried_out > 1000
    assert (outcome.leaked_in, outcome.leaked_out) == (0, 0), outcome
