"""`python -m tests.bench.scheduler`: the extender beside a real etcd, API server and kube-scheduler; nodes are objects.

micro     filter over N names, loopback, one connection; memory, and start to ready, with N nodes and M pods
rate      pods a second with and without the extender, in interleaved pairs; backlog: the pods are there when the
          scheduler starts, live: they are made while it binds
wake      from a node's word that it has an address to the bind of the pod that waits for one
faults    pods bound beyond a node's addresses, and Pending ones while there is room: creates and deletes at 95 %,
          the extender killed five times, the scheduler twice, the API server stopped 1.5 s while the extender dies
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from random import Random
from statistics import median, quantiles

from aiohttp import ClientSession

from eniway.kube.reflector import Reflector
from scheduler_extender.pods import Pod
from tests.box.apiserver import apiserver
from tests.box.scheduling import MANIFESTS, Scheduling, prepare, scheduling, words


def say(text: str) -> None:
    print(text, flush=True)


class Sight:
    """Where the pods are, by one watch: to read all of them again and again would be a load of its own."""

    def __init__(self) -> None:
        self.where: dict[str, str] = {}
        self.bound = 0
        self._news = asyncio.Event()

    def put(self, key: str, item: Pod) -> None:
        self.bound += bool(item.spec.node_name) - bool(self.where.get(key))
        self.where[key] = item.spec.node_name
        self._news.set()

    def drop(self, key: str, _version: int, /) -> None:
        self.bound -= bool(self.where.pop(key, ""))
        self._news.set()

    def listed(self, keys: set[str]) -> None:
        for key in self.where.keys() - keys:
            self.drop(key, 0)

    async def until(self, holds: Callable[[], bool], *, seconds: float = 600) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def watching(cluster: Scheduling) -> AsyncIterator[Sight]:
    """Until the end of the block."""
    sight = Sight()
    pods = Reflector(cluster.client, "/api/v1/namespaces/default/pods", Pod, random=Random(0), store=sight)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pods.run())
        await pods.synced()
        yield sight
        task.cancel()


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scheduler", description=__doc__)
    parser.add_argument("part", choices=("micro", "rate", "wake", "faults"))
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--mode", choices=("live", "backlog"), default="backlog", help="of rate")
    parser.add_argument("--whole", action="store_true", help="rate with percentageOfNodesToScore 100")
    parser.add_argument("--native", action="store_true", help="with native counts")
    options = parser.parse_args()
    part = {"micro": micro, "rate": rate, "wake": wake, "faults": faults}[options.part]
    with tempfile.TemporaryDirectory(prefix="eniway-bench-") as folder, apiserver(Path(folder)) as api:
        prepare(api)
        if options.native:
            api.kubectl("apply", "--filename", str(MANIFESTS / "native-counts/policies.yaml"))

        async def run() -> int:
            async with scheduling(api, Path(folder)) as cluster:
                return await part(cluster, options)

        return asyncio.run(run())


async def micro(cluster: Scheduling, options: argparse.Namespace) -> int:
    """The handler alone, without a scheduler."""
    names = [f"node-{number:05}" for number in range(options.nodes)]
    await cluster.all(cluster.node(name, addresses=words(60)) for name in names)
    await cluster.all(
        cluster.pod(f"p{number:05}", nodeName=names[number % len(names)]) for number in range(options.pods)
    )
    began = time.monotonic()
    async with cluster.extender() as process, ClientSession() as session:
        say(f"start to ready, {options.nodes} nodes, {options.pods} pods: {time.monotonic() - began:.2f} s")
        say(f"RSS {_rss(process.pid):.1f} MiB, peak {_rss(process.pid, 'VmHWM'):.1f} MiB")
        url, times = f"http://127.0.0.1:{cluster.extender_port}/filter", list[float]()
        for number in range(1100):
            pod = {"metadata": {"name": "x", "namespace": "d", "uid": f"u{number}"}, "spec": {"containers": []}}
            body = json.dumps({"Pod": pod, "Nodes": None, "NodeNames": names}).encode()
            start = time.perf_counter()
            async with session.post(url, data=body) as answer:
                await answer.read()
            if number >= 100:
                times.append(1000 * (time.perf_counter() - start))
        cuts = quantiles(times, n=100)
        say(f"filter over {options.nodes} names, client included: p50 {median(times):.2f} ms, p99 {cuts[98]:.2f} ms")
    return 0


async def rate(cluster: Scheduling, options: argparse.Namespace) -> int:
    """Pods a second, from the first that is bound to the last."""
    await cluster.all(cluster.node(f"node-{number:05}", addresses=words(300)) for number in range(options.nodes))
    ratios = list[float]()
    async with watching(cluster) as sight:
        for number in range(options.pairs):
            speed = dict[bool, float]()
            # Whoever comes second finds a fuller etcd
            for extended in (False, True) if number % 2 else (True, False):
                async with cluster.extender() if extended else nullcontext():
                    speed[extended] = await _drain(cluster, sight, options, extended=extended)
            beside, without = speed[True], speed[False]
            ratios.append(beside / without)
            say(f"{options.mode}: {beside:.0f} pods/s with, {without:.0f} without: {ratios[-1]:.2f}")
    say(f"{options.nodes} nodes, {options.pods} pods, median of {len(ratios)} pairs: {median(ratios):.2f}")
    return 0


async def _drain(cluster: Scheduling, sight: Sight, options: argparse.Namespace, *, extended: bool) -> float:
    names = [f"p{number:05}" for number in range(options.pods)]
    live = options.mode == "live"
    changes = {"percentageOfNodesToScore": 100} if options.whole else {}
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


async def faults(cluster: Scheduling, options: argparse.Namespace) -> int:
    """Fill 95 % and 5 % more than all, with deletes in between, while things are killed."""
    each = -(-options.pods // options.nodes)
    native = each if options.native else None
    names = [f"node-{number:05}" for number in range(options.nodes)]
    await cluster.all(cluster.node(name, addresses=words(each), native=native) for name in names)
    room, bad = each * options.nodes, 0
    async with watching(cluster) as sight:
        for what in ("nothing", "extender x5", "scheduler x2", "stalled"):
            bad += await _one(cluster, sight, what, room=room, each=each)
            await cluster.all([cluster.delete(name) for name in await cluster.pods()])
            await sight.until(lambda: not sight.where)
            (cluster.folder / "holds.jsonl").unlink(missing_ok=True)
    return 1 if bad else 0


async def _one(cluster: Scheduling, sight: Sight, what: str, *, room: int, each: int) -> int:
    stop = asyncio.Event()
    kept: dict[str, asyncio.subprocess.Process] = {}

    async def keep(name: str) -> None:
        """Start it again when it dies, as kubelet does."""
        while not stop.is_set():
            async with cluster.extender() if name == "extender" else cluster.scheduler() as process:
                kept[name] = process
                waits = [asyncio.ensure_future(process.wait()), asyncio.ensure_future(stop.wait())]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()

    keepers = [asyncio.ensure_future(keep("extender")), asyncio.ensure_future(keep("scheduler"))]
    first, rest = int(room * 0.95), room // 10
    filling = asyncio.ensure_future(cluster.all(cluster.pod(f"p{number:05}") for number in range(first)))
    await _harm(sight, what, kept, room)
    await filling
    await sight.until(lambda: sight.bound >= first)
    ending = [key.partition("/")[2] for key in list(sight.where)[: room // 20]]
    await cluster.all([*map(cluster.delete, ending), *(cluster.pod(f"q{number:05}") for number in range(rest))])
    full = min(room, first - len(ending) + rest)
    with suppress(TimeoutError):
        await sight.until(lambda: sight.bound >= full, seconds=90)
    found = await cluster.pods()
    counts = Counter(node for node in found.values() if node)
    over = sum(max(0, count - each) for count in counts.values())
    pending = sum(not node for node in found.values())
    asleep = min(pending, max(0, room - sum(counts.values())))
    say(f"{what}: {sum(counts.values())} of {room} places, over {over}, Pending with room {asleep}")
    stop.set()
    await asyncio.gather(*keepers)
    return over + asleep


async def _harm(sight: Sight, what: str, kept: dict[str, asyncio.subprocess.Process], room: int) -> None:
    def kill(name: str) -> None:
        if name in kept and kept[name].returncode is None:
            kept[name].kill()

    marks: Sequence[float] = {"extender x5": (0.1, 0.25, 0.4, 0.6, 0.8), "scheduler x2": (0.3, 0.6)}.get(
        what, (0.2, 0.5, 0.8) if what == "stalled" else ()
    )
    for mark in marks:
        await sight.until(lambda least=int(room * mark): sight.bound >= least)  # type: ignore[misc]
        if what == "stalled":
            servers = _children("kube-apiserver")
            for pid in servers:
                os.kill(pid, signal.SIGSTOP)
            kill("extender")
            await asyncio.sleep(1.5)
            for pid in servers:
                os.kill(pid, signal.SIGCONT)
        else:
            kill(what.split(maxsplit=1)[0])


def _children(program: str) -> list[int]:
    """Our own children that run it."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == os.getpid() and name == program[:15]:
            found.append(int(stat.parent.name))
    return found


def _rss(pid: int, what: str = "VmRSS") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
