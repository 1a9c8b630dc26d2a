"""Throughput and round trips between two places, each a network namespace with an address.

Client and server are pinned to a core of their own, the same ones for every variant.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

IPERF_PORT, RTT_PORT = 5201, 5301
ROUND_TRIPS = 5000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program can be run and reached."""

    netns: str
    address: IPv4Address


def compile_rtt(directory: Path) -> Path:
    """The round-trip program, built with the machine's C compiler."""
    program = directory / "rtt"
    source = Path(__file__).with_name("rtt.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    return program


def throughput(client: Place, server: Place, *, seconds: float) -> float:
    """Bits per second of one TCP stream, as the receiver counts them; the first half second is left out."""
    argv = ["iperf3", "-s", "-1", "-p", str(IPERF_PORT), "--forceflush"]
    with _running(server, argv, cpu=1, ready="Server listening"):
        said = subprocess.run(
            _at(
                client,
                [
                    *("iperf3", "-c", str(server.address), "-p", str(IPERF_PORT), "--connect-timeout", "5000"),
                    *("-t", str(seconds), "-O", "0.5", "-J"),
                ],
                cpu=0,
            ),
            stdout=subprocess.PIPE,
            check=False,
        )
    result = json.loads(said.stdout)
    if "error" in result:
        raise RuntimeError(f"iperf3 to {server.address}: {result['error']}")
    return float(result["end"]["sum_received"]["bits_per_second"])


def round_trip(program: Path, client: Place, server: Place, protocol: str) -> float:
    """Median round trip in microseconds of 64 bytes over one TCP connection or one pair of UDP ports."""
    with _running(server, [str(program), "server", str(RTT_PORT)], cpu=1, ready="ready"):
        argv = [str(program), "client", str(server.address), str(RTT_PORT), protocol, str(ROUND_TRIPS)]
        said = subprocess.run(_at(client, argv, cpu=0), stdout=subprocess.PIPE, check=True, text=True)
    return int(said.stdout.split()[0]) / 1000


def _at(place: Place, argv: Sequence[str], *, cpu: int) -> list[str]:
    return ["nsenter", f"--net={place.netns}", "taskset", "--cpu-list", str(cpu), *argv]


@contextmanager
def _running(place: Place, argv: Sequence[str], *, cpu: int, ready: str) -> Iterator[None]:
    """A server that ends by itself after its one client; ready once it has said so."""
    with subprocess.Popen(_at(place, argv, cpu=cpu), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        if not any(ready in line for line in server.stdout):
            raise RuntimeError(f"{' '.join(argv)} ended before it was ready, with status {server.wait()}")
        try:
            yield
        except BaseException:
            server.kill()
            raise
        server.stdout.read()
