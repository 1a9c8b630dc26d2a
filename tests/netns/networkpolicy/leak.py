"""Packets sent to pods' addresses from before they start until they run, under a default deny: how many get in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from eniway.model import Kind, PodRef, PodUid
from tests.netns.datapath.fabric import Namespace, exclusive_lease
from tests.netns.networkpolicy.churn import count, counted
from tests.netns.networkpolicy.cluster import LAYOUT, Cluster

PORT = 9001


@dataclass
class Outcome:
    """What was counted."""

    sent: int = 0
    leaked: int = 0


async def starts(made: Cluster, kinds: list[Kind]) -> Outcome:
    """Start a pod of each kind, one after the other, and end it again."""
    outcome = Outcome()
    made.policy("deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    sender = await made.start("y/sender", Kind.SHARED, 1)
    node, enforcer = made.nodes[0], made.enforcers[0]
    for number, kind in enumerate(kinds):
        where = made.vpc.pod()
        if kind is Kind.EXCLUSIVE:
            lease = exclusive_lease(made.vpc, node, where)
        else:
            lease = LAYOUT[kind](made.vpc, node, where)
        lease = replace(lease, pod=PodRef("x", f"p{number}", PodUid(where.name)))
        meta = {"namespace": "x", "name": f"p{number}", "uid": where.name, "labels": {"pod": "p"}}
        made.pod({"metadata": meta, "spec": {}, "status": {"phase": "Pending"}})
        count(where, "filter", "INPUT", [str(sender.lease.address)], side="-s", target="DROP")
        with _flood(sender.netns, lease.address, outcome):
            await enforcer.prepare(lease)
            await node.network.attach(lease)
        outcome.leaked += sum(counted(where, "filter", "INPUT"))
        await node.network.detach(lease)
        await enforcer.release(lease.key)
    return outcome


@contextmanager
def _flood(where: Namespace, address: IPv4Address, outcome: Outcome) -> Iterator[None]:
    ended = threading.Event()

    def send() -> None:
        with where.socket(socket.SOCK_DGRAM) as made:
            while not ended.is_set():
                made.sendto(b"packet", (str(address), PORT))
                outcome.sent += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
