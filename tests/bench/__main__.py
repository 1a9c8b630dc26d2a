"""`python -m tests.bench`: every figure of the project, measured in boxes of their own, as a table and as JSON.

Exit status 0 only if every bound is kept. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median, quantiles

from demo import inside
from demo.box import Box
from demo.kube import Kube, Object
from demo.probe import wait_for_kube_proxy
from tests.bench import bandwidth, operator_resync, packet, restart, start, wire
from tests.bench.figures import LEAST_ROUNDS, Figure, median_of_ratios, rotated, table
from tests.bench.vxlan import overlay
from tests.bench.wire import Place
from tests.box import hold

BUILD = Path("build/bench")
PODS = "/api/v1/namespaces/bench/pods"
AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.53"
INSTANCE_TYPE = "ecs.g7.4xlarge"
"""Room for 30 pods on one node: 8 ENIs with 30 addresses each."""
MANY = 30
WARM = {"min_idle_addresses": MANY, "max_idle_addresses": 3 * MANY, "cooldown_seconds": 1}
"""A pool that has what MANY pods at once need, round after round."""
VARIANTS = ("instance", "exclusive", "shared", "routed", "vxlan")
SERVICE = "service"
"""An exclusive pod to another by a ClusterIP: round trips only."""
Round = dict[str, float]


def main() -> int:
    """Measure all, or the parts that are asked for."""
    parts = {
        "box": bench_box,
        "bandwidth": bandwidth.bench,
        "operator": lambda _: operator_resync.figures(),
        "restart": restart.bench,
        "packet": lambda options: packet.figures(BUILD, rounds=options.rounds),
        "wire": bench_eniway,
    }
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help=f"interleaved rounds, at least {LEAST_ROUNDS}")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each throughput measurement")
    parser.add_argument("--only", choices=parts, help="one part")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    for name, part in parts.items():
        if options.only in {None, name}:
            figures += part(options)
    print(f"\n{table(figures)}")
    machine = {"cpus": os.cpu_count(), "kernel": os.uname().release}
    result = {"machine": machine, "rounds": options.rounds, "figures": [_json(figure) for figure in figures]}
    (BUILD / "figures.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(f"\nalso in {BUILD}/figures.json")
    return 0 if all(figure.holds for figure in figures) else 1


def bench_box(_options: argparse.Namespace) -> list[Figure]:
    """How long an empty cluster takes to come and to go."""
    box, ups, downs = Box(BUILD / "box-empty"), list[float](), list[float]()
    for _ in range(3):
        ups.append(_timed(box, "up", "--nodes", "3", "--install", "none"))
        downs.append(_timed(box, "down"))
        say(f"vpcbox up {ups[-1]:.1f} s, down {downs[-1]:.1f} s")
    return [
        Figure("vpcbox up --nodes 3 --install none, warm", median(ups), "s", 60, beside=f"worst {max(ups):.1f}"),
        Figure("vpcbox down", median(downs), "s", 10, beside=f"worst {max(downs):.1f}"),
    ]


def bench_eniway(options: argparse.Namespace) -> list[Figure]:
    """The wire, CNI ADD and the daemon's memory, on one cluster."""
    rtt = wire.compile_rtt(BUILD)
    box = Box(BUILD / "box")
    with box.standing("--nodes", "3", "--instance-type", INSTANCE_TYPE):
        status = box.status()
        kube = Kube(Path(status.kubeconfig))
        first, second, third = status.nodes
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}})
        hold.configure(kube, pool=WARM)
        pairs = {"instance": (Place(first.netns, first.address), Place(second.netns, second.address))}
        for kind in ("exclusive", "shared", "routed"):
            one, two = (place_of(kube, _pod(f"{kind}-{node.name}", node.name, kind)) for node in (first, second))
            pairs[kind] = (one, two)
        caller, called = pairs["exclusive"]
        pairs[SERVICE] = (caller, Place(called.netns, _service(box, kube, first.name, called.address)))
        gbits, tcp, udp = list[Round](), list[Round](), list[Round]()
        adds, together = list[Round](), list[float]()
        with overlay(first, second) as pairs["vxlan"]:
            for turn in range(options.rounds):
                order = rotated(VARIANTS, turn)
                gbits.append({one: wire.throughput(*pairs[one], seconds=options.seconds) / 1e9 for one in order})
                order = rotated((*VARIANTS, SERVICE), turn)
                tcp.append({one: wire.round_trip(rtt, *pairs[one], "tcp") for one in order})
                udp.append({one: wire.round_trip(rtt, *pairs[one], "udp") for one in order})
                say(f"round {turn + 1} of {options.rounds}: " + _round(gbits[-1], tcp[-1]))
        # The ADDs' pods are nobody's: with policies an ADD waits until the API server tells of its pod.
        hold.configure(kube, networkpolicy=False)
        for turn in range(options.rounds):
            one_by_one, at_once = cni_adds(box, third.name, turn)
            adds.append(one_by_one)
            together += at_once
            say(f"round {turn + 1}: ADD {one_by_one['eniway']:.1f} ms (bridge {one_by_one['bridge']:.1f})")
        hold.configure(kube, networkpolicy=True)
        log = box.state / "log" / third.name / "containerd.log"
        began = [start.starts(kube, PODS, _placed(third.name), turn, log=log) for turn in range(options.rounds)]
        rss = memory(kube, third.name)
    samples = {
        "gbits": gbits,
        "tcp_rtt_us": tcp,
        "udp_rtt_us": udp,
        "cni_add_ms": adds,
        "cni_add_together_ms": together,
        "start_ms": began,
    }
    (BUILD / "samples.json").write_text(json.dumps(samples, indent=1) + "\n")
    figures = [*_wire_figures(gbits, tcp, udp), *_add_figures(adds, together), *start.figures(began)]
    return [*figures, Figure(f"daemon RSS, {MANY} pods", rss, "MiB", 110)]


def cni_adds(box: Box, node: str, turn: int) -> tuple[Round, list[float]]:
    """Medians of a few ADDs of each plugin, and how long each of MANY at once took. In milliseconds."""
    program = str(Path(__file__).with_name("cni_add.py").absolute())
    took: dict[str, list[float]] = json.loads(box.sh(node, [sys.executable, program, str(turn), "3", str(MANY)]))
    together = took.pop("together")
    return {plugin: median(values) for plugin, values in took.items()}, together


def memory(kube: Kube, node: str) -> float:
    """Resident memory in MiB of the daemon of a node that runs MANY pods."""
    for number in range(MANY):
        kube.apply(_pod(f"many-{number}", node, "shared"))
    kube.until(PODS, lambda pods: _running(pods, MANY), seconds=180, selector="bench=many")
    selector = "labelSelector=app.kubernetes.io%2Fname%3Deniway-node"
    daemons = kube.get(f"/api/v1/namespaces/kube-system/pods?fieldSelector=spec.nodeName%3D{node}&{selector}")["items"]
    containers = [
        one["containerID"].rpartition("/")[2] for pod in daemons for one in pod["status"]["containerStatuses"]
    ]
    return sum(inside.resident(container) for container in containers) / 2**20


def place_of(kube: Kube, pod: Object) -> Place:
    """Start a pod; where it is once it runs."""
    name = kube.apply(pod)["metadata"]["name"]
    found = kube.until(PODS, lambda pods: _running([p for p in pods if p["metadata"]["name"] == name], 1), seconds=90)
    [one] = found
    uid = one["metadata"]["uid"]
    return Place(f"/proc/{inside.pids([uid])[uid]}/ns/net", IPv4Address(one["status"]["podIP"]))


def say(text: str) -> None:
    """Tell whoever waits."""
    print(text, flush=True)


def _wire_figures(gbits: list[Round], tcp: list[Round], udp: list[Round]) -> list[Figure]:
    figures = []
    for kind, least, most in (("exclusive", 0.97, 1.05), ("shared", 0.90, 1.10), ("routed", 0.90, None)):
        what = f"{kind} pod ÷ instance, across nodes:"
        absolute = median(one[kind] for one in gbits)
        trip = median(one[kind] for one in tcp)
        rate = Figure(f"{what} TCP throughput", median_of_ratios(gbits, kind, "instance"), "x", least, at_least=True)
        figures += [
            dataclasses.replace(rate, beside=f"{absolute:.1f} Gbit/s"),
            Figure(
                f"{what} TCP p50 round trip",
                median_of_ratios(tcp, kind, "instance"),
                "x",
                most,
                beside=f"{trip:.1f} µs",
            ),
            Figure(f"{what} UDP p50 round trip", median_of_ratios(udp, kind, "instance"), "x", most),
        ]
    beside = f"vxlan ÷ instance {median_of_ratios(gbits, 'vxlan', 'instance'):.2f}"
    ahead = Figure(
        "shared pod ÷ vxlan overlay: TCP throughput",
        median_of_ratios(gbits, "shared", "vxlan"),
        "x",
        1.0,
        at_least=True,
    )
    behind = Figure(
        "shared pod ÷ vxlan overlay: TCP p50 round trip", median_of_ratios(tcp, "shared", "vxlan"), "x", 1.0
    )
    beside_rtt = f"vxlan ÷ instance {median_of_ratios(tcp, 'vxlan', 'instance'):.2f}"
    return [
        *figures,
        dataclasses.replace(ahead, beside=beside),
        dataclasses.replace(behind, beside=beside_rtt),
        Figure(
            "routed pod ÷ vxlan overlay: TCP throughput",
            median_of_ratios(gbits, "routed", "vxlan"),
            "x",
            1.15,
            at_least=True,
        ),
        *(
            Figure(
                f"exclusive pod by ClusterIP ÷ directly: {protocol} p50 round trip",
                median_of_ratios(trips, SERVICE, "exclusive"),
                "x",
                1.25,
            )
            for protocol, trips in (("TCP", tcp), ("UDP", udp))
        ),
    ]


def _add_figures(adds: list[Round], together: list[float]) -> list[Figure]:
    reference = median(one["bridge"] for one in adds)
    ratio = median_of_ratios(adds, "eniway", "bridge")
    beside = f"bridge + host-local {reference:.1f} ms; eniway ÷ it {ratio:.2f}"
    many = f"CNI ADD, warm pool, policies off, {MANY} at once"
    return [
        Figure("CNI ADD, warm pool, policies off, p50", median(one["eniway"] for one in adds), "ms", 15, beside=beside),
        Figure(f"{many}, p50", median(together), "ms", 120),
        Figure(f"{many}, p99", quantiles(together, n=100, method="inclusive")[98], "ms", 400),
    ]


def _placed(node: str) -> dict[str, Object]:
    """A pod of each kind that is on its node from the beginning."""
    pods = {kind: _pod(f"start-{kind}", node, kind) for kind in start.KINDS}
    for pod in pods.values():
        pod["spec"]["nodeName"] = node
    return pods


def _pod(name: str, node: str, kind: str) -> Object:
    limits = {"limits": {"aliyun/eni": 1}} if kind == "exclusive" else {}
    container = {
        "name": "pause",
        "image": AGNHOST,
        "imagePullPolicy": "IfNotPresent",
        "args": ["pause"],
        "resources": limits,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "bench",
            "labels": {"bench": name.partition("-")[0]},
            "annotations": {"eniway.io/network": "routed"} if kind == "routed" else {},
        },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [container],
        },
    }


def _service(box: Box, kube: Kube, node: str, backend: IPv4Address) -> IPv4Address:
    """A Service in front of one address; its ClusterIP, once the node's kube-proxy knows both."""
    ports = [{"name": one.lower(), "protocol": one, "port": wire.RTT_PORT} for one in ("TCP", "UDP")]
    metadata: Object = {"name": SERVICE, "namespace": "bench"}
    made = kube.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}})
    slices = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": ports}
    labels = {"labels": {"kubernetes.io/service-name": SERVICE}}
    kube.apply({**slices, "metadata": metadata | labels, "endpoints": [{"addresses": [str(backend)]}]})
    wait_for_kube_proxy(box, node, [backend], seconds=60)
    return IPv4Address(made["spec"]["clusterIP"])


def _running(pods: list[Object], count: int) -> list[Object] | None:
    running = [pod for pod in pods if pod["status"].get("phase") == "Running" and pod["status"].get("podIP")]
    return running if len(running) == count else None


def _timed(box: Box, *words: str) -> float:
    began = time.monotonic()
    box.run(*words)
    return time.monotonic() - began


def _round(gbits: Round, tcp: Round) -> str:
    return ", ".join(f"{one} {gbits[one]:.1f} Gbit/s {tcp[one]:.0f} µs" for one in VARIANTS)


def _json(figure: Figure) -> dict[str, object]:
    return {**dataclasses.asdict(figure), "holds": figure.holds}


if __name__ == "__main__":
    sys.exit(main())
