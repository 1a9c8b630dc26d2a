"""`python -m tests.bench.packet`: what a packet of a shared pod costs, with 200 pods on its node and with one.

The node is the daemon's own data path on the fabric of the netns tests, with 50 Services as kube-proxy writes them. Two
nodes, one crowded and one not, are measured in turn against one instance of the VPC. `--parts` takes the parts of a
pod's way away, one after the other, and tells what each costs.

Exit status 0 only if every bound is kept. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, closing, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench import wire
from tests.bench.figures import LEAST_ROUNDS, Figure, median_of_ratios, rotated, table
from tests.bench.wire import Place
from tests.netns.datapath.fabric import (
    Namespace,
    Node,
    Vpc,
    boot,
    instance,
    instance_address,
    shared_lease,
    standing,
)
from tests.netns.datapath.services import Service, serve

BUILD: Final = Path("build/bench")
CROWD: Final = 200
PORT: Final = 5401
DATAGRAMS: Final = 100_000
MOST: Final = 1.05
PARTS: Final = (
    ("as it is", ()),
    ("- kube-proxy's chains", (("iptables", "-t", "nat", "-F"), ("iptables", "-t", "nat", "-X"))),
    ("- our marks", (("iptables", "-t", "mangle", "-F"),)),
    (
        "- our rules but the pods' table",
        (("sh", "-c", "ip rule del prio 1024; ip rule del prio 1025; ip rule del prio 2048"),),
    ),
    ("- connection tracking", (("iptables", "-t", "raw", "-A", "PREROUTING", "-j", "CT", "--notrack"),)),
)
"""Taken away one after the other; what is left is forwarding over one more veth."""

Round = dict[str, float]


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.packet", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help=f"interleaved rounds, at least {LEAST_ROUNDS}")
    parser.add_argument("--crowd", type=int, default=CROWD, help=f"pods on the crowded node ({CROWD})")
    parser.add_argument("--parts", action="store_true", help="what each part of the way costs, instead")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    if options.parts:
        print(f"\n{table(asyncio.run(_parts(BUILD, rounds=options.rounds)))}")
        return 0
    found = figures(BUILD, rounds=options.rounds, crowd=options.crowd)
    print(f"\n{table(found)}")
    return 0 if all(figure.holds for figure in found) else 1


def figures(build: Path, *, rounds: int, crowd: int = CROWD) -> list[Figure]:
    """The crowded node's costs as multiples of the other's; programs are compiled into ``build``."""
    return asyncio.run(_compare(build, rounds=rounds, crowd=crowd))


async def _compare(build: Path, *, rounds: int, crowd: int) -> list[Figure]:
    rtt, flood = wire.compile_rtt(build), _compile_flood(build)
    with standing() as vpc:
        async with AsyncExitStack() as stack:
            outside = instance(vpc)
            there = Place(outside.path, instance_address(outside))
            places = {"alone": (await _node(vpc, stack, 1))[1], "crowded": (await _node(vpc, stack, crowd))[1]}
            out, into, tcp, udp = list[Round](), list[Round](), list[Round](), list[Round]()
            for turn in range(rounds):
                order = rotated(tuple(places), turn)
                out.append({one: _flood(flood, places[one], there) for one in order})
                into.append({one: _flood(flood, there, places[one]) for one in order})
                tcp.append({one: wire.round_trip(rtt, there, places[one], "tcp") for one in order})
                udp.append({one: wire.round_trip(rtt, there, places[one], "udp") for one in order})
    what = f"shared pod, {crowd} pods on its node ÷ one:"
    return [
        Figure(
            f"{what} {name}",
            median_of_ratios(samples, "crowded", "alone"),
            "x",
            MOST,
            beside=f"{median(one['crowded'] for one in samples):.0f} {unit}",
        )
        for name, samples, unit in (
            ("CPU per packet out", out, "ns"),
            ("CPU per packet in", into, "ns"),
            ("TCP p50 round trip", tcp, "µs"),
            ("UDP p50 round trip", udp, "µs"),
        )
    ]


async def _parts(build: Path, *, rounds: int) -> list[Figure]:
    """A datagram's way out and a round trip with ever less on the way; the differences are the parts' costs."""
    rtt, flood = wire.compile_rtt(build), _compile_flood(build)
    with standing() as vpc:
        async with AsyncExitStack() as stack:
            outside = instance(vpc)
            there = Place(outside.path, instance_address(outside))
            host, pod = await _node(vpc, stack, 1)
            # Without its mark a pod's packet leaves by the primary card: here that has to be the same way.
            vpc.router.exec("iptables", "-F")
            ways: dict[str, tuple[Place, Sequence[Sequence[str]]]] = {name: (pod, less) for name, less in PARTS}
            ways["instance"] = (Place(host.path, host.address), ())
            found = list[Figure]()
            for name, (place, less) in ways.items():
                for command in less:
                    host.exec(*command)
                nanoseconds = median(_flood(flood, place, there) for _ in range(rounds))
                microseconds = median(wire.round_trip(rtt, there, place, "udp") for _ in range(rounds))
                found.append(Figure(f"{name}: CPU per packet out", nanoseconds, "ns"))
                found.append(Figure(f"{name}: UDP p50 round trip", microseconds, "µs"))
            return found


async def _node(vpc: Vpc, stack: AsyncExitStack, pods: int) -> tuple[Node, Place]:
    """A node with so many pods, and the place of the last of them."""
    node = await boot(vpc, stack)
    for _ in range(pods):
        pod = vpc.pod()
        lease = shared_lease(vpc, node, pod)
        await node.network.attach(lease)
    serve(node, [Service(n, IPv4Address("10.0.9.9"), "elsewhere") for n in range(50)], "iptables")
    return node, Place(pod.path, lease.address)


def _compile_flood(directory: Path) -> Path:
    program = directory / "flood"
    source = Path(__file__).with_name("flood.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    return program


def _flood(program: Path, client: Place, server: Place) -> float:
    """Nanoseconds of one core for each datagram."""
    with _listening(server):
        argv = [str(program), str(client.address), str(server.address), str(PORT), str(DATAGRAMS)]
        return float(subprocess.run(_at(client, argv), stdout=subprocess.PIPE, check=True, text=True).stdout)


@contextmanager
def _listening(server: Place) -> Iterator[None]:
    """A socket that nobody reads: without it each datagram would be answered that there is none."""
    with closing(Namespace(server.netns.rpartition("/")[2]).udp(server.address, PORT)):
        yield


def _at(place: Place, argv: Sequence[str]) -> list[str]:
    return ["nsenter", f"--net={place.netns}", "taskset", "--cpu-list", "0", *argv]


if __name__ == "__main__":
    sys.exit(main())
