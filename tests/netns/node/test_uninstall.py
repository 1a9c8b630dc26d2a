"""Who keeps a node from being left."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

import pytest

from eniallocator.ledger import Contents
from eniallocator.records import LeaseRecord
from eniway.model import Lease
from eniway.node.uninstall import _Books, _holders
from tests.netns.datapath.fabric import boot, run, shared_lease, standing


def books(*leases: Lease, complete: bool) -> _Books:
    """A ledger with these leases."""
    records = tuple(
        LeaseRecord(
            key=lease.key,
            pod=lease.pod,
            kind=lease.kind,
            netns=lease.netns,
            token="card",
            address=lease.address,
            service_address=None,
            confirmed=True,
            since=0.0,
        )
        for lease in leases
    )
    return _Books(Contents(leases=records), None, complete=complete, forwards=False)


async def test_a_pod_holds_as_long_as_its_sandbox_stands() -> None:
    """A lease whose namespace is gone holds nobody up; where leases may be missing, each link counts for a pod."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with standing() as vpc:
        async with AsyncExitStack() as stack:
            node = await boot(vpc, stack)
            pod, other = vpc.pod(), vpc.pod()
            lease, unknown = shared_lease(vpc, node, pod), shared_lease(vpc, node, other)
            for each in (lease, unknown):
                await node.network.attach(each)
            assert await _holders(books(lease, complete=True), path=node.path) == [str(lease.pod)]
            found = await _holders(books(lease, complete=False), path=node.path)
            assert (len(found), found[0], unknown.key.container_id in found[1]) == (2, str(lease.pod), True)
            await node.network.detach(lease)
            await node.network.detach(unknown)
            for gone in (pod, other):
                vpc.made.remove(gone.name)
                run("ip", "netns", "del", gone.name)
            assert await _holders(books(lease, complete=False), path=node.path) == []
