"""`python -m tests.bench.restart`: a node daemon's start to its first ADD, with the API server and the cloud both away.

On a node with pods, the daemon is killed (SIGKILL) and started again, round after round, while the API server is
stopped (SIGSTOP: it takes connections and says nothing) and nothing comes back from OpenAPI and metadata service. The
time is from the start of the process to the end of a CNI ADD by the installed relay, which is called as soon as the
socket accepts.

kubelet's back-off is not part of it: the daemon's container waits instead of being the daemon, and the daemon is
started in its namespaces, with its environment, yet as full root and outside its cgroup. Pods are namespaces with
leases, made by ADD and nobody's in the API server, so policies are off: with them, an ADD waits until the API server
tells of its pod.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cni import conflist
from demo.application import ready
from demo.box import Box, Instance
from demo.kube import Kube, Object
from eniway import names
from tests.bench.cni_add import ENIWAY, environment_of
from tests.bench.figures import LEAST_ROUNDS, Figure, table
from tests.box import hold

BUILD = Path("build/bench")
INSTANCE_TYPE = "ecs.g7.4xlarge"
PODS = 30
"""On the node before each start: the sweep compares each with the kernel before the socket opens."""
BOUND = 1.0
AWAY = ("100.100.0.80", names.METADATA_SERVICE)
WARM = {"min_idle_addresses": PODS, "max_idle_addresses": 3 * PODS, "cooldown_seconds": 1}
"""A pool from which the rounds are served without the cloud."""
_DAEMONS = "/apis/apps/v1/namespaces/kube-system/daemonsets/eniway-node"
_WAITS = ["/usr/bin/python3.11", "-I", "-c", "import signal; signal.pause()"]
_PROGRAM = ["/usr/bin/eniway", "node"]
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Life:
    """A start: seconds until the socket accepted, and until the first ADD was done."""

    accepted: float
    served: float


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restart", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help=f"starts, at least {LEAST_ROUNDS}")
    figures = bench(parser.parse_args())
    print(f"\n{table(figures)}")
    return 0 if all(figure.holds for figure in figures) else 1


def bench(options: argparse.Namespace) -> list[Figure]:
    """As a part of `python -m tests.bench`."""
    BUILD.mkdir(parents=True, exist_ok=True)
    box = Box(BUILD / "box-restart")
    with box.standing("--nodes", "1", "--instance-type", INSTANCE_TYPE):
        kube = hold.kube_of(box)
        hold.configure(kube, networkpolicy=False, pool=WARM)
        (node,) = box.status().nodes
        pods = [f"restart-{number}" for number in range(PODS)]
        with contextlib.ExitStack() as stack:
            for pod in pods:
                stack.enter_context(_namespace(node, pod))
                _call(node, "ADD", pod)
            kube.until(hold.NODE_NETWORKS, _has_spare, seconds=hold.PATIENCE)
            container = _container(_without_daemon(kube))
            stack.enter_context(_away(box, node))
            lives = [_live(node, container, f"first-{turn}") for turn in range(max(options.rounds, LEAST_ROUNDS))]
    (BUILD / "restart.json").write_text(json.dumps([[one.accepted, one.served] for one in lives]) + "\n")
    return _figures(lives)


def _figures(lives: list[Life]) -> list[Figure]:
    served = [life.served for life in lives]
    what = f"daemon's start to the first ADD, {PODS} pods, API server and cloud away"
    beside = f"socket accepts at {median(life.accepted for life in lives):.2f}"
    return [
        Figure(f"{what}, p50", median(served), "s", BOUND, beside=beside),
        Figure(f"{what}, worst of {len(served)}", max(served), "s", BOUND),
    ]


def _live(node: Instance, container: int, pod: str) -> Life:
    """Start the daemon, make an ADD, undo it, and kill the daemon."""
    environment = dict(
        variable.split("=", 1) for variable in Path(f"/proc/{container}/environ").read_text().split("\0") if variable
    )
    door = f"/proc/{node.pid}/root{names.CNI_SOCKET}"
    inside = ["nsenter", f"--target={container}", *("--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup"), "--"]
    with _namespace(node, pod), (BUILD / "restart.log").open("ab") as log:
        began = time.perf_counter()
        with subprocess.Popen([*inside, *_PROGRAM], env=environment, stderr=log) as starter:
            try:
                accepted = _accepts(door, starter) - began
                _call(node, "ADD", pod)
                served = time.perf_counter() - began
                _call(node, "DEL", pod)
            finally:
                _kill(starter)
    print(f"socket accepts at {accepted:.3f} s, first ADD served at {served:.3f} s", flush=True)
    return Life(accepted, served)


def _accepts(door: str, starter: subprocess.Popen[bytes]) -> float:
    """When somebody listens there: the file is that of the last life until then."""
    deadline = time.perf_counter() + _PATIENCE
    while (now := time.perf_counter()) < deadline and starter.poll() is None:
        with socket.socket(socket.AF_UNIX) as relay:
            if relay.connect_ex(door) == 0:
                return now
        time.sleep(0.001)
    raise RuntimeError(f"nobody listens at {door}; the daemon's words are in {BUILD}/restart.log")


def _kill(starter: subprocess.Popen[bytes]) -> None:
    """The daemon is nsenter's one child: it alone can be in another PID namespace."""
    children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text()
    for child in map(int, children.split()):
        os.kill(child, signal.SIGKILL)
    starter.wait()


def _call(node: Instance, verb: str, pod: str) -> None:
    """A call of the relay on the node; RuntimeError with its words where it fails."""
    plugin = json.loads(conflist.render())["plugins"][0]
    runtime: Object = {"io.kubernetes.cri.pod-annotations": {}}
    configuration = {"cniVersion": names.CNI_VERSION, "name": names.CNI_NETWORK, "runtimeConfig": runtime, **plugin}
    done = subprocess.run(
        _on(node, str(ENIWAY)),
        input=json.dumps(configuration).encode(),
        env=environment_of(verb, ENIWAY, pod),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{verb}: {done.stdout.decode(errors='replace')}")


@contextlib.contextmanager
def _namespace(node: Instance, name: str) -> Iterator[None]:
    subprocess.run(_on(node, "ip", "netns", "add", name), check=True)
    try:
        yield
    finally:
        subprocess.run(_on(node, "ip", "netns", "delete", name), check=False)


def _on(node: Instance, *command: str) -> list[str]:
    return ["nsenter", f"--target={node.pid}", "--mount", "--net", "--pid", "--", *command]


@contextlib.contextmanager
def _away(box: Box, node: Instance) -> Iterator[None]:
    """The API server stands still, and what is sent to the cloud is lost."""
    rules = [["OUTPUT", "-d", address, "-j", "DROP"] for address in AWAY]
    (server,) = box.sh("control", ["pidof", "kube-apiserver"]).split()
    for rule in rules:
        box.sh(node.name, ["iptables", "-w", "-I", *rule])
    box.sh("control", ["kill", "-STOP", server])
    try:
        yield
    finally:
        box.sh("control", ["kill", "-CONT", server])
        for rule in rules:
            box.sh(node.name, ["iptables", "-w", "-D", *rule])


def _has_spare(networks: list[Object]) -> bool | None:
    """The pool is as large as it is to be, and nothing cools down."""
    (network,) = networks
    words = network["status"]["capacity"]["addresses"]
    return (words["used"] == PODS and words["inService"] - words["used"] - words["cooling"] >= PODS) or None


def _without_daemon(kube: Kube) -> Object:
    """Have the daemon's container wait instead; its pod."""
    container = {"name": "node", "command": _WAITS}
    probes = dict.fromkeys(("startupProbe", "livenessProbe", "readinessProbe"))
    template = {"spec": {"containers": [container | probes]}}
    change = json.dumps({"spec": {"template": template}}).encode()
    kube.raw("PATCH", _DAEMONS, body=change, kind="application/strategic-merge-patch+json")

    def waiting(pods: list[Object]) -> Object | None:
        for pod in ready(pods, 1) or ():
            if pod["spec"]["containers"][0].get("command") == _WAITS:
                return pod
        return None

    return kube.until(hold.SYSTEM_PODS, waiting, seconds=hold.PATIENCE, selector=hold.DAEMON)


def _container(pod: Object) -> int:
    """The process of the pod's one container."""
    (status,) = pod["status"]["containerStatuses"]
    name = status["containerID"].rpartition("/")[2]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if name in (process / "cgroup").read_text():
                found.append(int(process.name))
    (pid,) = found
    return pid


if __name__ == "__main__":
    sys.exit(main())
