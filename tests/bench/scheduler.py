"""`python -m tests.bench.scheduler`: the extender beside a real etcd, API server and kube-scheduler; nodes are objects.

micro     filter over N names, loopback, one connection, plain and with TLS; memory, and start to ready, with N nodes
          and M pods
rate      pods a second with and without the extender, in interleaved pairs; backlog: the pods are there when the
          scheduler starts, live: they are made while it binds
wake      from a node's word that it has an address to the bind of the pod that waits for one
sparse    all nodes but one are full, and the cluster is quiet; all but ten are, and many pods come: how long until
          they are bound
faults    pods bound beyond a node's addresses, and Pending ones while there is room (scheduler_faults.py)

``--kwok``: kwok in the place of kubelets, so that bound pods run: one more change of each. ``--native``: with native
counts. ``--binds N``: the scheduler leaves binding to the extender (bindVerb), N at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack, nullcontext, suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from aiohttp import ClientSession, TCPConnector

from tests.bench.scheduler_faults import faults
from tests.bench.sight import Sight, watching
from tests.box.apiserver import apiserver
from tests.box.scheduling import MANIFESTS, Scheduling, prepare, scheduling, words

PATIENCE = 240.0
"""Seconds for the pods of sparse."""


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    """Measure what is asked for."""
    parts = {"micro": micro, "rate": rate, "wake": wake, "sparse": sparse, "faults": faults}
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.scheduler", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=parts)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--mode", choices=("live", "backlog"), default="backlog", help="of rate")
    parser.add_argument("--whole", action="store_true", help="percentageOfNodesToScore 100 (rate, sparse)")
    parser.add_argument("--native", action="store_true", help="with native counts")
    parser.add_argument("--kwok", action="store_true", help="kwok in the place of kubelets")
    parser.add_argument("--binds", type=int, default=0, help="bindVerb, so many at once (rate, faults)")
    parser.add_argument("--ignorable", action="store_true", help="faults with `ignorable: true`: needs --native")
    options = parser.parse_args()
    if options.ignorable and not options.native:
        parser.error("--ignorable: without native counts nothing holds while the extender is away")
    with tempfile.TemporaryDirectory(prefix="eniway-bench-") as folder, apiserver(Path(folder)) as api:
        prepare(api)
        if options.native:
            api.kubectl("apply", "--filename", str(MANIFESTS / "native-counts/policies.yaml"))
        if options.binds:
            api.kubectl("apply", "--filename", str(MANIFESTS / "control-plane/bind.yaml"))

        async def run() -> int:
            async with AsyncExitStack() as stack:
                cluster = await stack.enter_async_context(scheduling(api, Path(folder)))
                if options.kwok:
                    await stack.enter_async_context(cluster.kwok())
                return await parts[options.part](cluster, options)

        return asyncio.run(run())


async def micro(cluster: Scheduling, options: argparse.Namespace) -> int:
    """The handler alone, without a scheduler."""
    names = [f"node-{number:05}" for number in range(options.nodes)]
    await cluster.all(cluster.node(name, addresses=words(60)) for name in names)
    await cluster.all(
        cluster.pod(f"p{number:05}", nodeName=names[number % len(names)]) for number in range(options.pods)
    )
    await _micro(cluster, options, names, "plain", {})
    await _micro(cluster, options, names, "TLS", cluster.tls())
    return 0


async def _micro(
    cluster: Scheduling, options: argparse.Namespace, names: list[str], what: str, settings: dict[str, str]
) -> None:
    began = time.monotonic()
    async with (
        cluster.extender(**settings) as process,
        ClientSession(connector=TCPConnector(ssl=False)) as session,
    ):
        say(f"start to ready, {options.nodes} nodes, {options.pods} pods: {time.monotonic() - began:.2f} s")
        say(f"RSS {_rss(process.pid):.1f} MiB, peak {_rss(process.pid, 'VmHWM'):.1f} MiB")
        url, times = f"{cluster.extender_url}/filter", list[float]()
        for number in range(1100):
            pod = {"metadata": {"name": "x", "namespace": "d", "uid": f"u{number}"}, "spec": {"containers": []}}
            body = json.dumps({"Pod": pod, "Nodes": None, "NodeNames": names}).encode()
            start = time.perf_counter()
            async with session.post(url, data=body) as answer:
                await answer.read()
            if number >= 100:
                times.append(1000 * (time.perf_counter() - start))
        cuts = quantiles(times, n=100)
        say(
            f"filter over {options.nodes} names, {what}, client included: p50 {median(times):.2f} ms, "
            f"p99 {cuts[98]:.2f} ms"
        )
    (cluster.folder / "holds.jsonl").unlink()


async def rate(cluster: Scheduling, options: argparse.Namespace) -> int:
    """Pods a second, from the first that is bound to the last."""
    native = 300 if options.native else None
    names = [f"node-{number:05}" for number in range(options.nodes)]
    await cluster.all(cluster.node(name, addresses=words(300), native=native) for name in names)
    ratios = list[float]()
    async with watching(cluster) as sight:
        for number in range(options.pairs):
            speed = dict[bool, float]()
            # Whoever comes second finds a fuller etcd
            for extended in (False, True) if number % 2 else (True, False):
                async with cluster.extender(binds=options.binds) if extended else nullcontext():
                    speed[extended] = await _drain(cluster, sight, options, extended=extended)
            beside, without = speed[True], speed[False]
            ratios.append(beside / without)
            say(f"{options.mode}: {beside:.0f} pods/s with, {without:.0f} without: {ratios[-1]:.2f}")
    say(f"{options.nodes} nodes, {options.pods} pods, median of {len(ratios)} pairs: {median(ratios):.2f}")
    return 0


async def _drain(cluster: Scheduling, sight: Sight, options: argparse.Namespace, *, extended: bool) -> float:
    names = [f"p{number:05}" for number in range(options.pods)]
    live = options.mode == "live"
    changes: dict[str, Any] = {"percentageOfNodesToScore": 100} if options.whole else {}
    if extended and options.binds:
        changes["bindVerb"] = "bind"
    if not live:
        await cluster.all(map(cluster.pod, names))
        await sight.until(lambda: len(sight.where) == len(names))
    async with cluster.scheduler(extended=extended, **changes):
        if live:
            # It is at work when it has bound one
            await cluster.pod("first")
            names.append("first")
        await sight.until(lambda: sight.bound > 0)
        began, before = time.monotonic(), sight.bound
        if live:
            await cluster.all(map(cluster.pod, names[:-1]))
        await sight.until(lambda: sight.bound == len(names))
        speed = (sight.bound - before) / (time.monotonic() - began)
    await cluster.all(map(cluster.delete, names))
    await sight.until(lambda: not sight.where)
    return speed


async def wake(cluster: Scheduling, options: argparse.Namespace) -> int:
    """Nothing else happens in the cluster; each pod is asleep before there is room for it."""
    names = [f"node-{number:05}" for number in range(options.nodes)]
    await cluster.all(cluster.node(name, addresses=words(0, most=options.pods)) for name in names)
    times = list[float]()
    async with watching(cluster) as sight, cluster.extender(), cluster.scheduler():
        for number in range(1, options.pods + 1):
            await cluster.pod(f"p{number:05}")
            await cluster.why(f"p{number:05}")
            began = time.monotonic()
            await cluster.network(names[-1], addresses=words(number, most=options.pods))
            await sight.until(lambda least=number: sight.bound >= least)  # type: ignore[misc]
            times.append(time.monotonic() - began)
    say(f"room to bound, {len(times)} times: p50 {median(times):.2f} s, worst {max(times):.2f} s")
    return 0


async def sparse(cluster: Scheduling, options: argparse.Namespace) -> int:
    """What is full is so by its NodeNetwork, and by its native count where there is one."""

    async def node(number: int, places: int) -> None:
        native = places if options.native else None
        await cluster.node(f"node-{number:05}", addresses=words(places, most=20), native=native)

    changes: dict[str, Any] = {"percentageOfNodesToScore": 100} if options.whole else {}
    late = 0
    await cluster.all(node(number, 5 * (number == options.nodes // 2)) for number in range(options.nodes - 10))
    async with watching(cluster) as sight, cluster.extender(), cluster.scheduler(**changes):
        late += await _bound(cluster, sight, "one node with room", 5)
        await cluster.all(node(number, 20) for number in range(options.nodes - 10, options.nodes))
        late += await _bound(cluster, sight, "ten nodes with room", 190)
    return 1 if late else 0


async def _bound(cluster: Scheduling, sight: Sight, what: str, number: int) -> int:
    """Make pods, and wait until they are bound; how many are not."""
    began, full = time.monotonic(), sight.bound + number
    await cluster.all(cluster.pod(f"{what.partition(' ')[0]}-{one:03}") for one in range(number))
    with suppress(TimeoutError):
        await sight.until(lambda: sight.bound >= full, seconds=PATIENCE)
    late = full - sight.bound
    say(f"{what}: {number - late} of {number} pods bound, {time.monotonic() - began:.1f} s")
    return late


def _rss(pid: int, what: str = "VmRSS") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
