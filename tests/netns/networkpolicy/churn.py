"""Packets that must pass and packets that must not, while everything else changes, and what became of them.

Counted in the kernel: as they leave the sender's process, before every chain of ours, and behind every one in the
receiver's namespace. What has to become of a packet does not depend on chance, whatever the policies come to:

    x/good shared, x/fine exclusive   pass: let out by a policy that keeps a rule for them, and let in by another
    y/bad shared                      dropped on the way in: no policy of the receivers ever names it
    y/mute exclusive                  dropped on the way out, in its own namespace; the receivers would let it in
    y/dumb shared                     dropped on the way out, on its node; the receivers would let it in

Nothing answers, so no connection is ever known and every packet meets the rules.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from eniway.model import Kind
from tests.netns.datapath.fabric import Namespace, Node, Vpc, inside
from tests.netns.networkpolicy.cluster import Cluster, cluster
from tests.netns.networkpolicy.daemon import Call, Daemon, Place, world_calls
from tests.property.networkpolicy.oracle import Json
from tests.property.networkpolicy.worlds import namespace

PORT = 9001
TARGETS = ("x/shared", "x/exclusive", "x/routed")
GOOD = ("x/good", "x/fine")
BAD = ("y/bad", "y/mute", "y/dumb")
BYSTANDERS = 60


@dataclass(frozen=True)
class Outcome:
    """What was counted."""

    updates: int
    kills: int
    seconds: float
    sent: int
    lost: int
    """Of those that must pass."""
    forbidden: int
    leaked: int
    """Of those that must not."""

    @property
    def rate(self) -> float:
        """Packets a second."""
        return (self.sent + self.forbidden) / self.seconds


async def churn(vpc: Vpc, nodes: tuple[Node, Node], *, updates: int, kills: int, random: Random) -> Outcome:
    """Random updates one after the other; at ``kills`` of them the daemon dies in the middle and another starts."""
    async with cluster(vpc, nodes) as made:
        await made.start("x/shared", Kind.SHARED, 0)
        await made.start("x/exclusive", Kind.EXCLUSIVE, 0, slot=2)
        await made.start("x/routed", Kind.ROUTED, 0)
        await made.start("x/good", Kind.SHARED, 1)
        await made.start("x/fine", Kind.EXCLUSIVE, 1, slot=2)
        await made.start("y/bad", Kind.SHARED, 1)
        await made.start("y/mute", Kind.EXCLUSIVE, 1, slot=3)
        await made.start("y/dumb", Kind.SHARED, 1)
        for number in range(BYSTANDERS):
            space = ("x", "z")[number % 2]
            meta = {"namespace": space, "name": f"by{number}", "uid": f"by{number}", "labels": {"pod": "by"}}
            made.pod(
                {
                    "metadata": meta,
                    "spec": {},
                    "status": {"phase": "Running", "podIPs": [{"ip": f"10.9.0.{number + 1}"}]},
                }
            )
        made.policy("keep", keep(random))
        made.policy("keep-out", keep_out(random))
        made.policy("silence", silence(random), space="y")
        await made.in_force()
    # From here on the daemon of both nodes is a process that can be killed.
    return _run(made, updates=updates, kills=kills, random=random)


def _run(made: Cluster, *, updates: int, kills: int, random: Random) -> Outcome:
    places = [
        Place(
            node.path,
            node.address,
            tuple(member.lease for member in made.members.values() if member.node == number),
        )
        for number, node in enumerate(made.nodes)
    ]
    deaths = set(random.sample(range(updates), kills))
    targets = [str(made.members[name].lease.address) for name in TARGETS]
    for name in (*GOOD, *BAD):
        count(made.members[name].netns, "raw", "OUTPUT", targets, side="-d", target="ACCEPT")
    for target in TARGETS:
        sources = [str(made.members[name].lease.address) for name in (*GOOD, *BAD)]
        count(made.members[target].netns, "filter", "INPUT", sources, side="-s", target="DROP")
    made.models = list  # type: ignore[method-assign]  # the world is told to the process alone
    daemon = Daemon(places, world_calls(made.world))
    try:
        daemon.wait()
        with _flood(made):
            began = time.monotonic()
            for number in range(updates):
                daemon.send([_update(made, random)])
                if number in deaths:
                    time.sleep(random.random() * 0.004)  # in the middle of whatever it is at
                    daemon.kill()
                    daemon = Daemon(places, world_calls(made.world))
                    if random.random() < 0.3:
                        time.sleep(random.random())  # before it serves, or as it begins to
                        daemon.kill()
                        daemon = Daemon(places, world_calls(made.world))
                daemon.wait()
            seconds = time.monotonic() - began
    finally:
        daemon.kill()
    sent = sum(sum(counted(made.members[name].netns, "raw", "OUTPUT")) for name in GOOD)
    forbidden = sum(sum(counted(made.members[name].netns, "raw", "OUTPUT")) for name in BAD)
    patience = time.monotonic() + 3
    while (passed := _received(made))[0] < sent and time.monotonic() < patience:
        pass  # a busy machine may have the last ones under way
    return Outcome(
        updates=updates,
        kills=kills,
        seconds=seconds,
        sent=sent,
        lost=sent - passed[0],
        forbidden=forbidden,
        leaked=passed[1],
    )


def _received(made: Cluster) -> tuple[int, int]:
    """Packets of those that may pass, and of those that may not."""
    counts = [counted(made.members[target].netns, "filter", "INPUT") for target in TARGETS]
    good = len(GOOD)
    return sum(sum(each[:good]) for each in counts), sum(sum(each[good:]) for each in counts)


def keep(random: Random) -> Json:
    """Always lets GOOD in, and whom only its own egress may hold back, and never y/bad; the rest is chance."""
    named = {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["good", "fine"]}]}
    muted = {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["mute", "dumb"]}]}
    peers: list[Json] = [{"podSelector": named}, {"namespaceSelector": {}, "podSelector": muted}]
    rules: list[Any] = [{"from": [peer]} for peer in peers] if random.random() < 0.5 else [{"from": peers}]
    rules += [{"from": [random.choice(HARMLESS)], "ports": [{"port": random.randint(1, 900)}]} for _ in range(3)]
    random.shuffle(rules)
    return {
        "podSelector": {"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["good", "fine"]}]},
        "ingress": rules,
    }


def keep_out(random: Random) -> Json:
    """Always lets GOOD out to x; the rest is chance."""
    rules: list[Any] = [{"to": [{"podSelector": {}}], "ports": [{"protocol": "UDP", "port": PORT}]}]
    return {"podSelector": {}, "policyTypes": ["Egress"], "egress": _shuffled(rules, random)}


def silence(random: Random) -> Json:
    """Never lets y/mute and y/dumb out to x; the rest is chance."""
    silent = {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["mute", "dumb"]}]}
    return {"podSelector": silent, "policyTypes": ["Egress"], "egress": _shuffled([], random)}


def _shuffled(rules: list[Any], random: Random) -> list[Any]:
    more = [{"to": [random.choice(HARMLESS)], "ports": [{"port": random.randint(1, 900)}]} for _ in range(3)]
    return random.sample([*rules, *more], len(rules) + len(more))


HARMLESS: tuple[Json, ...] = (
    {"podSelector": {"matchLabels": {"pod": "by"}}},
    {"podSelector": {"matchLabels": {"tier": "1"}}, "namespaceSelector": {"matchLabels": {"ns": "z"}}},
    {"namespaceSelector": {"matchLabels": {"ns": "z"}}},
    {"ipBlock": {"cidr": "192.0.2.0/24"}},
    {"ipBlock": {"cidr": "10.9.0.0/24", "except": ["10.9.0.0/28"]}},
)


def _update(made: Cluster, random: Random) -> Call:
    """Something changes; what it is, is also in the world."""
    world = made.world
    match random.randrange(8):
        case 0:
            made.policy("keep", keep(random))
        case 1:
            made.policy("keep-out", keep_out(random))
        case 2:
            made.policy("silence", silence(random), space="y")
        case 3:
            rule = {"from": [random.choice(HARMLESS)], "ports": [{"port": 80, "endPort": random.randint(80, 8000)}]}
            made.policy(f"q{random.randrange(5)}", {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]})
        case 4:
            name = f"q{random.randrange(5)}"
            made.no_policy(name)
            return "drop_policy", {"namespace": "x", "name": name}
        case 5:
            made.namespace("z", {"ns": random.choice("zw")})
            return "put_namespace", namespace("z", world.namespaces["z"])
        case 6:
            number = random.randrange(BYSTANDERS)
            made.relabel(
                f"{('x', 'z')[number % 2]}/by{number}", {"pod": random.choice("by"), "tier": random.choice("12")}
            )
            return "put_pod", world.pods[-1]
        case _:
            name = random.choice((*GOOD, *BAD, *TARGETS))
            made.relabel(name, {"pod": name.partition("/")[2], "tier": random.choice("12")})
            return "put_pod", world.pods[-1]
    return "put_policy", world.policies[-1]


def count(where: Namespace, table: str, chain: str, addresses: list[str], *, side: str, target: str) -> None:
    """A counting rule for each address."""
    for address in addresses:
        where.exec("iptables", "-t", table, "-A", chain, "-p", "udp", "--dport", str(PORT), side, address, "-j", target)


def counted(where: Namespace, table: str, chain: str) -> list[int]:
    """Packets by rule."""
    lines = where.exec("iptables", "-t", table, "-nvxL", chain).splitlines()[2:]
    return [int(line.split()[0]) for line in lines]


@contextmanager
def _flood(made: Cluster) -> Iterator[None]:
    """Packets from both senders to all targets as fast as one process can."""
    pairs = [
        (made.members[sender].netns.path, str(made.members[target].lease.address))
        for target in TARGETS
        for sender in (*GOOD, *BAD)
    ]
    argv = [sys.executable, "-m", __name__, *(word for pair in pairs for word in pair)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        assert sender.stdin is not None
        try:
            assert sender.stdout.read(1) == b"."
            yield
        finally:
            sender.stdin.close()
            sender.wait(10)


def _send(pairs: list[tuple[str, str]]) -> None:
    """Until standard input ends."""
    sockets = []
    for path, address in pairs:
        made = inside(Namespace(path.rpartition("/")[2]), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.connect((address, PORT))
        sockets.append(made)
    sys.stdout.buffer.write(b".")
    sys.stdout.buffer.flush()
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(50):
            for made in sockets:
                try:
                    made.send(b"packet")
                except PermissionError:
                    continue  # dropped in the sender's own namespace


if __name__ == "__main__":
    words = sys.argv[1:]
    _send(list(zip(words[::2], words[1::2], strict=True)))
