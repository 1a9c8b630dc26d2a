"""Fixtures: the VPC of the datapath's tests, and a cluster in it that enforces policies."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.netns.datapath.conftest import nodes, outside, vpc
from tests.netns.datapath.fabric import Node, Vpc
from tests.netns.networkpolicy.cluster import Cluster, cluster, nine

__all__ = ["nodes", "outside", "vpc"]


@pytest.fixture
async def nine_pods(vpc: Vpc, nodes: tuple[Node, Node]) -> AsyncIterator[Cluster]:
    """Nine pods of all kinds on two nodes."""
    async with cluster(vpc, nodes) as made:
        await nine(made)
        yield made
