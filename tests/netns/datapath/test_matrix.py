"""The wire's promise, whole: everybody calls everybody by every path, and each sees the source address it must see.

Both source checks and stateful security groups are on in the fabric. Services are translated by rules as kube-proxy
and portmap write them; ``python -m tests.conformance.matrix`` asks the same of real ones.
"""

from __future__ import annotations

import pytest

from eniway.model import Kind as PodKind
from tests.conformance.cells import Kind, Path, Place, cells, source, table
from tests.netns.datapath.fabric import (
    Namespace,
    Node,
    Vpc,
    exclusive_lease,
    instance_address,
    routed_lease,
    shared_lease,
    talk,
)
from tests.netns.datapath.services import MODES, Service, serve

ENOUGH = 12
"""Complaints after which the rest is not asked: each that gets no answer takes seconds."""


async def inhabit(vpc: Vpc, nodes: tuple[Node, Node]) -> list[tuple[Namespace, Place]]:
    """Two pods of each kind on the first node, so that each has its like beside it, and one of each on the second."""
    found: list[tuple[Namespace, Place]] = []
    for node, count in zip(nodes, (2, 1), strict=True):
        for kind in PodKind:
            for number in range(count):
                pod = vpc.pod()
                match kind:
                    case PodKind.SHARED:
                        lease = shared_lease(vpc, node, pod)
                    case PodKind.EXCLUSIVE:
                        lease = exclusive_lease(vpc, node, pod, slot=2 + number)
                    case PodKind.ROUTED:
                        lease = routed_lease(vpc, node, pod)
                await node.network.attach(lease)
                name = f"{kind}-{number} on {node.name}"
                found.append((pod, Place(name, Kind(kind), node.name, lease.address, lease.service_address)))
    return found


@pytest.mark.parametrize("mode", MODES)
async def test_everybody_calls_everybody_and_shows_the_right_address(
    vpc: Vpc, nodes: tuple[Node, Node], outside: Namespace, mode: str
) -> None:
    """Three kinds of pods, nodes and an instance that is none: directly and by every kind of Service, TCP and UDP."""
    pods = await inhabit(vpc, nodes)
    hosts: list[tuple[Namespace, Place]] = [
        (node, Place(node.name, Kind.NODE, node.name, node.address)) for node in nodes
    ]
    hosts.append((outside, Place("outside", Kind.OUTSIDE, "outside", instance_address(outside))))
    services = {place.name: Service(n, place.address, place.node) for n, (_, place) in enumerate(pods)}
    for node in nodes:
        serve(node, services.values(), mode)
    where = {place.name: namespace for namespace, place in (*pods, *hosts)}
    results, wrong = [], list[str]()
    for cell in cells([place for _, place in (*pods, *hosts)]):
        dial = None if cell.path is Path.DIRECT else services[cell.server.name].dial(cell)
        complaint = None
        for protocol in ("tcp", "udp"):
            try:
                said = talk(
                    where[cell.client.name],
                    where[cell.server.name],
                    cell.server.address,
                    dial=dial,
                    protocol=protocol,
                )
            except OSError as error:
                complaint = f"{cell}, {protocol}: {error}, expected {source(cell)}"
            else:
                if said != source(cell):
                    complaint = f"{cell}, {protocol}: {said} was seen, expected {source(cell)}"
        results.append((cell, complaint))
        if complaint is not None:
            wrong.append(complaint)
        assert len(wrong) < ENOUGH, f"{table(results)}\n" + "\n".join(wrong)
    assert not wrong, f"{table(results)}\n" + "\n".join(wrong)
