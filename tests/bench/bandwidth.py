"""`python -m tests.bench.bandwidth`: how exact bandwidth limits are and how long packets wait, on the real kernel.

Two nodes of a small VPC made of network namespaces, a limited pod on one, a pod without limits on the other, TCP flows
that take all there is. Rates are layer 2, as the kernel counts what leaves the bucket (a full frame of 1514 bytes for
each 1448 bytes of payload); beside them what the receiver got of payload. Nothing else should run on the machine
meanwhile. Exit status 0 only if every bound is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from eniway import names
from eniway.model import Bandwidth, Kind, Lease
from tests.bench.figures import Figure, table
from tests.bench.wire import IPERF_PORT, RTT_PORT, Place, compile_rtt
from tests.netns.datapath.fabric import (
    Namespace,
    Node,
    Vpc,
    boot,
    exclusive_lease,
    routed_lease,
    shared_lease,
    standing,
)

BUILD = Path("build/bench")
KINDS: dict[str, Callable[[Vpc, Node, Namespace], Lease]] = {
    "shared": shared_lease,
    "exclusive": exclusive_lease,
    "routed": routed_lease,
}
WAYS = ("ingress", "egress")
MEGABIT = 1_000_000
RATES = (1, 10, 100, 1000)
OFF, FIRST, WAIT_MS = 2.0, 10.0, 12.0
"""Bounds: per cent off after the first second and above in it; milliseconds."""
WAIT_AT, FLOWS, ROUND_TRIPS = 100, 8, 300


def main() -> int:
    """Measure all, or what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bandwidth", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["shared", "exclusive"])
    parser.add_argument("--rates", nargs="+", type=int, default=list(RATES), metavar="MBIT")
    parser.add_argument("--seconds", type=int, default=5, help="after the first; at least 10 below 10 Mbit/s")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    figures = asyncio.run(_measure(options.kinds, options.rates, options.seconds))
    print(f"\n{table(figures)}")
    return 0 if all(figure.holds for figure in figures) else 1


def bench(_options: argparse.Namespace) -> list[Figure]:
    """As a part of `python -m tests.bench`."""
    return asyncio.run(_measure(["shared", "exclusive"], RATES, 5))


async def _measure(kinds: Sequence[str], rates: Sequence[int], least: int) -> list[Figure]:
    rtt = compile_rtt(BUILD)
    figures: list[Figure] = []
    with standing() as vpc:
        async with AsyncExitStack() as stack:
            near, far = await boot(vpc, stack), await boot(vpc, stack)
            for kind in kinds:
                pod, peer = vpc.pod(), vpc.pod()
                lease, other = KINDS[kind](vpc, near, pod), KINDS[kind](vpc, far, peer)
                await near.network.attach(lease)
                await far.network.attach(other)
                here, there = Place(pod.path, lease.address), Place(peer.path, other.address)
                for way in WAYS:
                    ends = (there, here) if way == "ingress" else (here, there)
                    bucket = _bucket(near, lease, way)
                    for rate in rates:
                        await near.network.repair(_limited(lease, way, rate))
                        seconds = least if rate >= 10 else max(10, least)
                        figures += await asyncio.to_thread(_exactness, f"{kind} {way}", rate, ends, bucket, seconds)
                    await near.network.repair(_limited(lease, way, WAIT_AT))
                    figures.append(await asyncio.to_thread(_wait, f"{kind} {way}", rtt, ends, bucket))
                await near.network.detach(lease)
                await far.network.detach(other)
    return figures


def _bucket(node: Node, lease: Lease, way: str) -> Bucket:
    if lease.kind is Kind.EXCLUSIVE:
        return Bucket(lease.netns, names.IFB_IN if way == "ingress" else names.IFB_OUT)
    return Bucket(node.path, names.host_link(lease.key) if way == "ingress" else names.ifb(lease.key))


def _limited(lease: Lease, way: str, rate: int) -> Lease:
    bits = rate * MEGABIT
    return replace(lease, bandwidth=Bandwidth(ingress=bits) if way == "ingress" else Bandwidth(egress=bits))


def _exactness(what: str, rate: int, ends: tuple[Place, Place], bucket: Bucket, seconds: int) -> list[Figure]:
    """The first second and the worst of the others, or of windows of 5 s below 10 Mbit/s; in per cent off the rate."""
    sender, receiver = ends
    with _listening(receiver, ["iperf3", "-s", "-1", "-J", "-p", str(IPERF_PORT)], IPERF_PORT) as server:
        idle = bucket.bytes()
        with subprocess.Popen(_at(sender, _bulk(receiver, seconds + 3)), stdout=subprocess.DEVNULL) as flows:
            found = _per_second(bucket, idle, 1 + seconds)
            flows.wait()
        output, _ = server.communicate()
    shares = [8 * count / MEGABIT / rate for count in found]
    width = 1 if rate >= 10 else 5
    windows = [mean(shares[at : at + width]) for at in range(1, len(shares) - width + 1, width)]
    worst = max((100 * (one - 1) for one in windows), key=abs)
    payload = json.loads(output)["end"]["sum_received"]["bits_per_second"] / MEGABIT
    print(f"{what} {rate} Mbit/s: " + " ".join(f"{rate * one:.2f}" for one in shares), flush=True)
    return [
        Figure(f"{what} {rate} Mbit/s, first second", 100 * (shares[0] - 1), "% off", FIRST),
        Figure(
            f"{what} {rate} Mbit/s, worst after it", abs(worst), "% off", OFF, beside=f"payload {payload:.4g} Mbit/s"
        ),
    ]


def _per_second(bucket: Bucket, idle: int, seconds: int) -> list[float]:
    """Bytes in each second from the first packet on, each scaled to the time that really went by."""
    while (before := bucket.bytes()) <= idle + 2000:  # more than the handshake of iperf3's control connection
        time.sleep(0.001)
    at, found = time.monotonic(), list[float]()
    before = idle
    for _ in range(seconds):
        time.sleep(max(0, at + 1 - time.monotonic()))
        count, now = bucket.bytes(), time.monotonic()
        found.append((count - before) / (now - at))
        before, at = count, now
    return found


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket."""

    netns: str
    dev: str

    def bytes(self) -> int:
        """What has left it."""
        argv = ["nsenter", f"--net={self.netns}", "tc", "-s", "-j", "qdisc", "show", "dev", self.dev, "root"]
        (found,) = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
        return int(found["bytes"])


def _bulk(receiver: Place, seconds: int) -> list[str]:
    flows = ["-P", str(FLOWS), "-t", str(seconds), "-i", "0"]
    return ["iperf3", "-c", str(receiver.address), "-p", str(IPERF_PORT), *flows]


def _wait(what: str, rtt: Path, ends: tuple[Place, Place], bucket: Bucket) -> Figure:
    """Median and 99th percentile of a small round trip beside flows that take all there is."""
    sender, receiver = ends
    with (
        _listening(receiver, ["iperf3", "-s", "-1", "-p", str(IPERF_PORT)], IPERF_PORT),
        subprocess.Popen(
            _at(sender, _bulk(receiver, 60)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as flows,
    ):
        enough = bucket.bytes() + WAIT_AT * MEGABIT // 8
        while bucket.bytes() < enough:  # a second of traffic: the flows have found their pace
            time.sleep(0.01)
        with _listening(receiver, [str(rtt), "server", str(RTT_PORT)], RTT_PORT):
            argv = [str(rtt), "client", str(receiver.address), str(RTT_PORT), "tcp", str(ROUND_TRIPS)]
            said = subprocess.run(_at(sender, argv), check=True, stdout=subprocess.PIPE, text=True)
        flows.kill()
    half, most = (int(word) / 1e6 for word in said.stdout.split()[:2])
    return Figure(
        f"{what} {WAIT_AT} Mbit/s, round trip beside {FLOWS} flows", half, "ms p50", WAIT_MS, beside=f"p99 {most:.1f}"
    )


def _at(place: Place, argv: list[str]) -> list[str]:
    return ["nsenter", f"--net={place.netns}", *argv]


@contextmanager
def _listening(place: Place, argv: list[str], port: int) -> Iterator[subprocess.Popen[str]]:
    """A server, once it listens; ended at the end."""
    with subprocess.Popen(_at(place, argv), stdout=subprocess.PIPE, text=True) as server:
        try:
            ss = _at(place, ["ss", "-Hltn", f"sport = :{port}"])
            while not subprocess.run(ss, check=True, stdout=subprocess.PIPE).stdout:
                if server.poll() is not None:
                    raise RuntimeError(f"{' '.join(argv)} ended with status {server.returncode}")
            yield server
        finally:
            server.kill()


if __name__ == "__main__":
    sys.exit(main())
