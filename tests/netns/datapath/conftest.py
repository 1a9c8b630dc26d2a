"""Fixtures: a VPC, two started nodes in it, and an instance that is none."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.netns.datapath.fabric import Namespace, Node, Vpc, boot, instance, standing


@pytest.fixture
def vpc() -> Iterator[Vpc]:
    """An empty VPC."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with standing() as vpc:
        yield vpc


@pytest.fixture
async def nodes(vpc: Vpc) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes, each with eth1 for shared pods, eth2 and eth3 free, and a podCIDR, started.

    Their primary cards are strict: the way back is always the card that a packet comes in by.
    """
    async with AsyncExitStack() as stack:
        yield await boot(vpc, stack), await boot(vpc, stack)


@pytest.fixture
def outside(vpc: Vpc) -> Namespace:
    """An instance that is no node."""
    return instance(vpc)
