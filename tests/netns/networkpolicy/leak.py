"""Pods that start under a default deny, while others send to them and they to others: what gets in or out.

A start is an ADD as the runtime asks for it: the daemon's door, its network and its enforcer, on the kernel; only the
books behind the door stand for the allocator's. The packets flow from before the ADD until after the DEL: from a pod of
the same node and one of another to the address that it is about to get, and from a process inside, which sends as soon
as its namespace has a route, to both and to a Service.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from itertools import cycle
from types import TracebackType
from typing import Self

import msgspec

from cni.handler import Handler
from cni.wire import Request
from eniway import names
from eniway.model import Bandwidth, Choice, Kind, Lease, LeaseKey, PodRef, Slot
from eniway.node.policy import GuardedNetwork
from networkpolicy.enforcer import Enforcer
from tests.netns.datapath.fabric import SERVICE_CIDR, Namespace, Node, exclusive_lease, run
from tests.netns.networkpolicy.churn import count, counted
from tests.netns.networkpolicy.cluster import LAYOUT, Cluster

PORT = 9001
VIP = SERVICE_CIDR[20]
PEERS = ("y/near", "y/far")
_SLOT = Slot(2)
_ANY = "0.0.0.0/0"
_ADDRESSES = 40
_SOME = 200


@dataclass
class Outcome:
    """What was counted, in packets; ``tried``: to get in, and out of the pod's processes."""

    starts: int = 0
    tried_in: int = 0
    leaked_in: int = 0
    tried_out: int = 0
    leaked_out: int = 0


@dataclass
class Rooms:
    """What is behind the door: the lease that is to be given out next, and what kubelet says of the pod's devices."""

    next: Lease
    held: dict[LeaseKey, Lease] = field(default_factory=dict)

    async def slots_of(self, _pod: PodRef) -> Sequence[Slot]:
        """As kubelet."""
        return (_SLOT,) if self.next.kind is Kind.EXCLUSIVE else ()

    async def acquire(
        self,
        key: LeaseKey,
        pod: PodRef,
        *,
        kind: Kind,
        slot: Slot | None,
        netns: str,
        deadline: float,
        else_routed: bool,
        bandwidth: Bandwidth,
        choice: Choice,
    ) -> Lease:
        """As the books: the one that is next."""
        del slot, deadline, else_routed, bandwidth, choice
        assert (kind, netns) == (self.next.kind, self.next.netns)
        self.held[key] = replace(self.next, key=key, pod=pod)
        return self.held[key]

    async def confirm(self, _key: LeaseKey) -> None:
        """As the books."""

    async def release(self, key: LeaseKey) -> None:
        """As the books."""
        self.held.pop(key, None)

    def lease(self, key: LeaseKey) -> Lease | None:
        """As the books."""
        return self.held.get(key)

    def leases(self) -> Sequence[Lease]:
        """As the books."""
        return list(self.held.values())


@dataclass(frozen=True)
class _Guard:
    """A daemon's, without its watches."""

    enforcer: Enforcer

    async def prepare(self, lease: Lease) -> None:
        await self.enforcer.prepare(lease)

    async def leave(self, _key: LeaseKey) -> None:
        pass

    async def release(self, key: LeaseKey) -> None:
        await self.enforcer.release(key)


async def starts(made: Cluster, kinds: Sequence[Kind]) -> Outcome:
    """Start a pod of each kind on the first node, one after the other, and end it again."""
    made.policy("deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    for number, name in enumerate(PEERS):
        await made.start(name, Kind.SHARED, number)
    node, outcome = made.nodes[0], Outcome()
    peers = [made.members[name] for name in PEERS]
    addresses = [str(peer.lease.address) for peer in peers]
    node.nat(f"-A PREROUTING -d {VIP} -p udp --dport {PORT} -j DNAT --to-destination {addresses[1]}:{PORT}")
    for peer in peers:
        count(peer.netns, "filter", "INPUT", [_ANY], side="-s", target="DROP")
        count(peer.netns, "raw", "OUTPUT", [_ANY], side="-s", target="ACCEPT")
    count(made.vpc.router, "raw", "PREROUTING", [*addresses, _ANY], side="-s", target="ACCEPT")
    leases = {kind: cycle(_leases(made, node, kind)) for kind in set(kinds)}
    async with GuardedNetwork(path=node.path) as network:
        await network.start(service_cidr=SERVICE_CIDR, primary=node.cards[0])
        await network.prepare_card(node.cards[1])
        network.guard = _Guard(made.enforcers[0])
        with Storm([peer.netns for peer in peers], [*addresses, str(VIP)]) as storm:
            for number, kind in enumerate(kinds):
                one = _Start(made, network, storm, f"p{number}", next(leases[kind]))
                await one.run(outcome)
    for peer in peers:
        outcome.tried_in += sum(counted(peer.netns, "raw", "OUTPUT"))
        outcome.leaked_out += sum(counted(peer.netns, "filter", "INPUT"))
    outcome.leaked_out += counted(made.vpc.router, "raw", "PREROUTING")[-1]
    return outcome


def _leases(made: Cluster, node: Node, kind: Kind) -> list[Lease]:
    """Of addresses that are used again and again."""
    where = Namespace("none")
    if kind is Kind.EXCLUSIVE:
        return [exclusive_lease(made.vpc, node, where, slot=_SLOT)]
    return [LAYOUT[kind](made.vpc, node, where) for _ in range(_ADDRESSES)]


@dataclass(frozen=True)
class _Start:
    """Of one pod."""

    made: Cluster
    network: GuardedNetwork
    storm: Storm
    name: str
    lease: Lease

    async def run(self, outcome: Outcome) -> None:
        """From its namespace's beginning to its end."""
        where, made = self.made.vpc.pod(), self.made
        lease = replace(self.lease, netns=where.path)
        rooms = Rooms(lease)
        handler = Handler(rooms, self.network, rooms, add_seconds=60)
        meta = {"namespace": "x", "name": self.name, "uid": where.name, "labels": {"pod": "p"}}
        made.pod({"metadata": meta, "spec": {}, "status": {"phase": "Pending"}})
        count(where, "filter", "INPUT", [_ANY], side="-s", target="DROP")
        count(where, "raw", "OUTPUT", [_ANY], side="-s", target="ACCEPT")
        self.storm.begin(where, lease.address)
        await _ask(handler, "ADD", lease, self.name)
        running = {"phase": "Running", "podIPs": [{"ip": str(lease.address)}]}
        made.pod({"metadata": meta, "spec": {}, "status": running})
        await made.in_force()
        self.storm.blow()
        await _ask(handler, "DEL", lease, self.name)
        self.storm.end()
        outcome.starts += 1
        outcome.leaked_in += sum(counted(where, "filter", "INPUT"))
        outcome.tried_out += sum(counted(where, "raw", "OUTPUT"))
        for model in made.models():
            model.drop_pod("x", self.name)
        made.vpc.made.remove(where.name)
        run("ip", "netns", "del", where.name)


async def _ask(handler: Handler, verb: str, lease: Lease, name: str) -> None:
    uid = lease.netns.rpartition("/")[2]
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": uid,
        "CNI_NETNS": lease.netns,
        "CNI_IFNAME": names.POD_LINK,
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=x;K8S_POD_NAME={name};K8S_POD_UID={uid}",
    }
    notes = {names.ANNOTATION_NETWORK: "routed"} if lease.kind is Kind.ROUTED else {}
    config = {
        "cniVersion": names.CNI_VERSIONS[-1],
        "name": names.CNI_NETWORK,
        "type": "eniway",
        "runtimeConfig": {names.CAPABILITY_POD_ANNOTATIONS: notes},
    }
    reply = await handler.handle(Request(environment, msgspec.json.encode(config)))
    assert reply.status == 0, reply.output


class Storm:
    """A process that sends as fast as it can: from ``peers`` to a pod's address, from the pod to ``targets``."""

    def __init__(self, peers: Sequence[Namespace], targets: Sequence[str]) -> None:
        argv = [sys.executable, "-m", __name__, *(peer.name for peer in peers), "--", *targets]
        self._child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.communicate()

    def begin(self, pod: Namespace, address: IPv4Address) -> None:
        """Return when it sends to the pod that will have the address, and from it."""
        self._tell(f"{pod.name} {address}")

    def blow(self) -> None:
        """Return after some hundred more packets of each."""
        self._tell("blow")

    def end(self) -> None:
        """Return when it rests."""
        self._tell("end")

    def _tell(self, line: str) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{line}\n")
        self._child.stdin.flush()
        assert self._child.stdout.readline() == ".\n"


def _storm(peers: Sequence[Namespace], targets: Sequence[str]) -> None:
    senders = [peer.socket(socket.SOCK_DGRAM) for peer in peers]
    flows: list[tuple[socket.socket, str]] = []
    while line := sys.stdin.readline():
        match line.split():
            case ["end"]:
                flows[-1][0].close()
                flows.clear()
            case ["blow"]:
                _send(flows, _SOME)
            case [pod, address]:
                own = Namespace(pod).socket(socket.SOCK_DGRAM)
                flows += ((made, address) for made in senders)
                flows += ((own, target) for target in targets)
                _send(flows, 1)
        sys.stdout.write(".\n")
        sys.stdout.flush()
        while flows and not select.select([sys.stdin], [], [], 0)[0]:
            _send(flows, 20)


def _send(flows: Sequence[tuple[socket.socket, str]], times: int) -> None:
    for _ in range(times):
        for made, address in flows:
            with suppress(OSError):  # no route yet, or dropped in the pod's own namespace
                made.sendto(b"packet", (address, PORT))


if __name__ == "__main__":
    at = sys.argv.index("--")
    _storm([Namespace(name) for name in sys.argv[1:at]], sys.argv[at + 1 :])
