"""Nine pods of all kinds on two nodes, with policies enforced by the real thing, and the same world for the oracle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from eniway.model import Kind, Lease, PodRef, PodUid
from networkpolicy.enforcer import Enforcer
from networkpolicy.model import Model
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.netns.datapath.fabric import Namespace, Node, Vpc, exclusive_lease, routed_lease, shared_lease
from tests.netns.networkpolicy.probe import Packet, Prober, paths
from tests.property.networkpolicy.oracle import Json, World, allowed
from tests.property.networkpolicy.worlds import view

SPACES = ("x", "y", "z")
NAMES = ("a", "b", "c")
PORTS = (80, 81)
LAYOUT: dict[Kind, Callable[[Vpc, Node, Namespace], Lease]] = {
    Kind.SHARED: shared_lease,
    Kind.ROUTED: routed_lease,
}


@dataclass
class Member:
    """A pod."""

    lease: Lease
    netns: Namespace
    node: int


@dataclass
class Cluster:
    """Two nodes with an enforcer each."""

    vpc: Vpc
    nodes: tuple[Node, Node]
    enforcers: list[Enforcer]
    prober: Prober
    world: World = field(default_factory=World)
    members: dict[str, Member] = field(default_factory=dict)
    tries: int = 0

    def models(self) -> list[Model]:
        return [enforcer.model for enforcer in self.enforcers]

    def namespace(self, name: str, labels: Json | None, annotations: Json | None = None) -> None:
        """Make or change one."""
        given = {"ns": name} if labels is None else labels
        self.world.namespaces[name] = given
        for model in self.models():
            meta = {"name": name, "labels": given, "annotations": annotations or {}}
            model.put_namespace(view(NamespaceView, {"metadata": meta}))

    def pod(self, made: Json) -> None:
        """Tell of a pod."""
        meta = made["metadata"]
        self.world.pods = [
            old
            for old in self.world.pods
            if (old["metadata"]["namespace"], old["metadata"]["name"]) != (meta["namespace"], meta["name"])
        ] + [made]
        for model in self.models():
            model.put_pod(view(PodView, made))

    def relabel(self, name: str, labels: Json) -> None:
        """Change the labels of the pod namespace/name."""
        space, short = name.split("/")
        (old,) = [
            pod for pod in self.world.pods if (pod["metadata"]["namespace"], pod["metadata"]["name"]) == (space, short)
        ]
        self.pod({**old, "metadata": {**old["metadata"], "labels": labels}})

    def policy(self, name: str, spec: Json, *, space: str = "x") -> None:
        """Make or change one."""
        meta = {"namespace": space, "name": name}
        self.world.policies = [old for old in self.world.policies if old["metadata"] != meta]
        self.world.policies.append({"metadata": meta, "spec": spec})
        for model in self.models():
            model.put_policy(view(PolicyView, self.world.policies[-1]))

    def no_policy(self, name: str, *, space: str = "x") -> None:
        """Drop one."""
        meta = {"namespace": space, "name": name}
        self.world.policies = [old for old in self.world.policies if old["metadata"] != meta]
        for model in self.models():
            model.drop_policy(space, name)

    def clear(self) -> None:
        """Drop all."""
        for made in list(self.world.policies):
            self.no_policy(made["metadata"]["name"], space=made["metadata"]["namespace"])

    async def in_force(self) -> None:
        """What the models say."""
        for enforcer in self.enforcers:
            await enforcer.in_force()

    async def start(
        self, name: str, kind: Kind, node: int, *, slot: int = 2, labels: Json | None = None, ports: Json | None = None
    ) -> Member:
        """A pod as a daemon starts one: its object, its lease, its policies, its links; then its address is known."""
        space, short = name.split("/")
        where = self.vpc.pod()
        at = self.nodes[node]
        if kind is Kind.EXCLUSIVE:
            lease = exclusive_lease(self.vpc, at, where, slot=slot)
        else:
            lease = LAYOUT[kind](self.vpc, at, where)
        lease = replace(lease, pod=PodRef(space, short, PodUid(where.name)))
        declared = ports or {
            "ports": [
                {"name": f"serve-{port}-{protocol.lower()}", "containerPort": port, "protocol": protocol}
                for port in PORTS
                for protocol in ("TCP", "UDP", "SCTP")
            ]
        }
        meta = {"namespace": space, "name": short, "uid": where.name, "labels": labels or {"pod": short}}
        spec = {"containers": [declared]}
        self.pod({"metadata": meta, "spec": spec, "status": {"phase": "Pending"}})
        await self.enforcers[node].prepare(lease)
        await at.network.attach(lease)
        notes = {"eniway.io/service-address": str(lease.service_address)} if lease.service_address else {}
        status = {"phase": "Running", "podIPs": [{"ip": str(lease.address)}]}
        self.pod({"metadata": {**meta, "annotations": notes}, "spec": spec, "status": status})
        member = self.members[name] = Member(lease, where, node)
        self.prober.add(where, lease.address)
        return member

    def packets(self, names: list[str] | None = None) -> list[Packet]:
        """From every pod to every other, at both ports of all protocols; never the same twice."""
        self.tries += 1
        ends = [str(self.members[name].lease.address) for name in names or self.members]
        return paths(ends, ends, PORTS, 20000 + self.tries % 40000)

    def verify(self, about: object = "") -> int:
        """Try every path: what arrives is what the API says. How many there were."""
        packets = self.packets()
        expected = {
            packet
            for packet in packets
            if allowed(self.world, packet.source, packet.destination, packet.protocol, packet.port)
        }
        arrived = self.prober.try_all(packets, awaited=expected)
        names = {str(member.lease.address): f"{name} {member.lease.kind}" for name, member in self.members.items()}

        def told(some: set[Packet]) -> list[str]:
            return sorted(f"{names[p.source]} → {names[p.destination]} {p.protocol} {p.port}" for p in some)

        assert arrived == expected, (
            f"{about}: lost {told(expected - arrived)[:9]}, leaked {told(arrived - expected)[:9]}"
        )
        return len(packets)


@asynccontextmanager
async def cluster(vpc: Vpc, nodes: tuple[Node, Node], *, iptables: str = "iptables") -> AsyncIterator[Cluster]:
    """Two nodes that enforce, with no pods yet."""
    async with AsyncExitStack() as stack:
        enforcers = [
            Enforcer(Model(4, sampled=True), path=node.path, iptables=iptables, wait_seconds=20, six=True)
            for node in nodes
        ]
        for enforcer in enforcers:
            stack.callback(enforcer.close)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for node, enforcer in zip(nodes, enforcers, strict=True):
            enforcer.start((), nodes=[node.address])
            task = group.create_task(enforcer.run())
            stack.callback(task.cancel)
        made = Cluster(vpc, nodes, enforcers, stack.enter_context(Prober()))
        for space in SPACES:
            made.namespace(space, None)
        yield made


async def nine(made: Cluster) -> None:
    """Pods x/a … z/c: five on the first node, four on the second, of all kinds."""
    kinds = [Kind.SHARED, Kind.EXCLUSIVE, Kind.ROUTED] * 3
    slots = [iter((2, 3)), iter((2, 3))]
    for number, name in enumerate(f"{space}/{short}" for space in SPACES for short in NAMES):
        node = number % 2
        kind = kinds[number]
        slot = next(slots[node]) if kind is Kind.EXCLUSIVE else 0
        await made.start(name, kind, node, slot=slot)
