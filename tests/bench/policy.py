"""`python -m tests.bench.policy`: what NetworkPolicy costs and how fast it is, at 10,000 pods and 1,000 policies.

In a network namespace of its own with the real kernel; the objects come as JSON, as from a watch.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Any

import msgspec

import eniway.node.app  # noqa: F401 -- the daemon's memory is to be told of
from eniway.model import Card, ContainerId, EniId, Kind, Lease, LeaseKey, Mac, PodRef, PodUid, Slot
from networkpolicy.enforcer import Enforcer
from networkpolicy.model import Model
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.bench.figures import Figure, table

PODS, SPACES, POLICIES, LOCAL_POLICIES = 10_000, 50, 1_000, 50
ENDPOINTS = 60
_PODS = msgspec.json.Decoder(PodView)
_POLICIES = msgspec.json.Decoder(PolicyView)
_ADDRESSES = IPv4Network("10.64.0.0/10")
_CARD = Card(
    EniId("eni-1"),
    Mac("00:16:3e:00:00:01"),
    Slot(1),
    IPv4Address("10.0.0.9"),
    IPv4Network("10.0.0.0/20"),
    IPv4Address("10.0.15.253"),
)


def pod_json(number: int, **labels: str) -> bytes:
    """A pod as the API server sends one, with what nobody reads."""
    name, space = f"web-{number}", f"team-{number % SPACES}"
    meta = {
        "name": name,
        "namespace": space,
        "uid": f"{number:08x}-1111-2222-3333-444455556666",
        "resourceVersion": str(number),
        "labels": {
            "app": f"app-{number % 40}",
            "tier": f"t{number % 4}",
            "pod-template-hash": f"{number % 200:08x}",
            **labels,
        },
        "annotations": {"note": "x" * 200},
        "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {"x" * 40: {}}}}] * 5,
    }
    ports = [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    containers = [
        {
            "name": "main",
            "image": "registry.example/" + "x" * 40,
            "ports": ports,
            "env": [{"name": f"E{n}", "value": "v" * 20} for n in range(20)],
        }
    ]
    status = {
        "phase": "Running",
        "podIPs": [{"ip": str(_ADDRESSES[number + 1])}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}] * 4,
    }
    return msgspec.json.encode({"metadata": meta, "spec": {"containers": containers}, "status": status})


def policy_json(number: int, *, port: int = 8080, name: str | None = None) -> bytes:
    """The first LOCAL_POLICIES select pods of this node, the others do not."""
    local = number < LOCAL_POLICIES
    space = f"team-{number % SPACES}"
    subject = {"matchLabels": {"here": "yes"}} if local else {"matchLabels": {"app": f"far-{number}"}}
    if local:
        subject["matchLabels"]["group"] = str(number % 10)
    peers: list[Any] = [
        {"podSelector": {"matchLabels": {"app": f"app-{number % 40}"}}},
        {
            "namespaceSelector": {"matchLabels": {"env": f"e{number % 5}"}},
            "podSelector": {"matchLabels": {"tier": "t1"}},
        },
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": [f"10.{number % 200}.0.0/16"]}},
    ]
    rule = {"from": peers, "ports": [{"port": port}, {"port": "http"}, {"port": 9000, "endPort": 9100}]}
    meta = {"name": name or f"p{number}", "namespace": space}
    return msgspec.json.encode({"metadata": meta, "spec": {"podSelector": subject, "ingress": [rule]}})


def lease(number: int) -> Lease:
    """Of pod ``number``, on this node."""
    pod = PodRef(f"team-{number % SPACES}", f"web-{number}", PodUid(f"{number:08x}-1111-2222-3333-444455556666"))
    key = LeaseKey("eniway", ContainerId(f"sandbox-{number}"), "eth0")
    return Lease(key, pod, Kind.SHARED, "/run/netns/none", _CARD, _ADDRESSES[number + 1])


@contextmanager
def namespace() -> Iterator[str]:
    """A network namespace."""
    name = f"eniway-bench-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def resident() -> float:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def fill(model: Model) -> float:
    """All objects; seconds."""
    began = time.perf_counter()
    for number in range(SPACES):
        meta = {"name": f"team-{number}", "labels": {"env": f"e{number % 5}"}}
        model.put_namespace(msgspec.json.decode(msgspec.json.encode({"metadata": meta}), type=NamespaceView))
    for number in range(PODS):
        extra = {"here": "yes", "group": str(number % 10)} if number < ENDPOINTS else {}
        model.put_pod(_PODS.decode(pod_json(number, **extra)))
    for number in range(POLICIES):
        model.put_policy(_POLICIES.decode(policy_json(number)))
    return time.perf_counter() - began


def p(samples: list[float], percent: int) -> float:
    """A percentile, in milliseconds."""
    return quantiles(samples, n=100)[percent - 1] * 1000


async def measure(path: str, random: Random) -> list[Figure]:
    """Everything."""
    before = resident()
    model = Model(4, sampled=True)
    enforcer = Enforcer(model, path=path, six=True)
    loading = fill(model)
    after = resident()
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        enforcer.start([lease(number) for number in range(ENDPOINTS // 2)], nodes=[IPv4Address("10.0.0.9")])
        running = group.create_task(enforcer.run())
        began = time.perf_counter()
        await enforcer.in_force()
        first = time.perf_counter() - began
        changes, created, deleted, labels, prepares = [], [], [], [], []
        for number in range(300):
            raw = policy_json(random.randrange(LOCAL_POLICIES), port=1000 + number)
            began = time.perf_counter()
            model.put_policy(_POLICIES.decode(raw))
            await enforcer.in_force()
            changes.append(time.perf_counter() - began)
        for number in range(300):
            view = _POLICIES.decode(policy_json(number % LOCAL_POLICIES, port=2000 + number, name="another"))
            began = time.perf_counter()
            model.put_policy(view)
            await enforcer.in_force()
            created.append(time.perf_counter() - began)
            began = time.perf_counter()
            model.drop_policy(view.metadata.namespace, view.metadata.name)
            await enforcer.in_force()
            deleted.append(time.perf_counter() - began)
        for number in range(1000):
            raw = pod_json(random.randrange(ENDPOINTS, PODS), app=f"app-{number % 40}", tier=f"t{number % 4}")
            began = time.perf_counter()
            model.put_pod(_PODS.decode(raw))
            await enforcer.in_force()
            labels.append(time.perf_counter() - began)
        for number in range(ENDPOINTS // 2, ENDPOINTS):
            began = time.perf_counter()
            await enforcer.prepare(lease(number))
            prepares.append(time.perf_counter() - began)
        raws = [pod_json(random.randrange(ENDPOINTS, PODS), app=f"app-{number % 40}") for number in range(3000)]
        cpu, began = time.process_time(), time.perf_counter()
        for number, raw in enumerate(raws):
            model.put_pod(_PODS.decode(raw))
            enforcer.wake()
            ahead = began + (number + 1) / 1000 - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
        await enforcer.in_force()
        busy = (time.process_time() - cpu) / (time.perf_counter() - began)
        place = enforcer._halves[0].node.place
        while not enforcer._halves[0].node.is_clean:
            await enforcer.in_force()
        held, sets = await loop.run_in_executor(None, place.observe)
        running.cancel()
    enforcer.close()
    programs = [chain for chain in held.chains if len(chain.removeprefix("ENIWAY-NP-")) == 16]
    return [
        Figure("10,000 pods, 1,000 policies decoded and taken in", loading, "s"),
        Figure("all in force, from nothing", first * 1000, "ms"),
        Figure("policy changed → in force, p50", p(changes, 50), "ms"),
        Figure("policy changed → in force, p99", p(changes, 99), "ms", 25),
        Figure("policy created → in force, p99", p(created, 99), "ms", 25),
        Figure("policy deleted → in force, p99", p(deleted, 99), "ms", 25),
        Figure("label changed → sets right, p50", p(labels, 50), "ms"),
        Figure("label changed → sets right, p99", p(labels, 99), "ms", 5),
        Figure("added to an isolated pod's ADD, p50", p(prepares, 50), "ms", 10),
        Figure("1,000 pod events a second, cores", busy, "", 1),
        Figure("policies programmed", len(model.active()), "", LOCAL_POLICIES),
        Figure("chains of programs", len(programs), ""),
        Figure("sets", len(sets), ""),
        Figure("members", sum(map(len, sets.values())), ""),
        Figure("memory with all modules of the daemon", resident(), "MiB", 130),
        Figure("of it, the model", after - before, "MiB"),
    ]


def main() -> int:
    """Measure and print."""
    with namespace() as name:
        figures = asyncio.run(measure(f"/run/netns/{name}", Random(1)))
    print(table(figures))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
