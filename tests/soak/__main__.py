"""`python -m tests.soak`: pods of all kinds come and go while daemons, kubelets and containerds end; nothing is lost.

Then the same while daemons are killed and the cloud loses answers, hangs, throttles, runs out of addresses and takes no
key (`--only faults`); and more pods on a node than it has shared addresses.

A 100 pps flow in each running pod loses no datagram, and no two pods have one address. Every pod runs, is gone, or is
refused by kubelet itself (UnexpectedAdmissionError) and replaced. At the end ledger, kernel, kubelet, API server and
cloud agree. The seed that is printed plays the same steps again. Exit status 0 only if all that holds.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from demo import inside
from demo.box import Box, Instance
from demo.kube import Kube, Object
from tests.box import hold
from tests.soak.churn import Create, Delete, Kill, churn
from tests.soak.fallback import soak_fallback
from tests.soak.faults import Calm, Fault, Step, faults
from tests.soak.flows import Flows, flows

BUILD = Path("build/soak")
NODES = 3
INSTANCE_TYPE = "ecs.g7.4xlarge"
SETTINGS = {"pool": {"exclusive_slots": 3, "warm_exclusive": 1, "cooldown_seconds": 10}}
FAULTY = {
    "pool": {
        "exclusive_slots": 3,
        "warm_exclusive": 0,
        "min_idle_addresses": 0,
        "max_idle_addresses": 1,
        "idle_seconds": 2,
        "cooldown_seconds": 2,
    }
}
"""Next to nothing ahead of demand: most pods that come or go are a call to the cloud, which a fault can hit."""
SETTLE_SECONDS = 240.0
LOOK_SECONDS = 0.5
_REFUSAL = "UnexpectedAdmissionError"
_SIGNALS = {"eniway": signal.SIGKILL, "kubelet": signal.SIGTERM, "containerd": signal.SIGTERM}


def main() -> int:
    """Soak, and say what was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--pods", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=180.0, help="of churn, after all pods were made")
    parser.add_argument("--steps", type=int, default=200, help="of faults")
    parser.add_argument("--only", choices=("churn", "faults", "fallback"), help="one part")
    options = parser.parse_args()
    say(f"seed {options.seed}")
    BUILD.mkdir(parents=True, exist_ok=True)
    complaints: list[str] = []
    box = Box(BUILD / "box")
    if options.only in {None, "churn"}:
        with box.standing("--nodes", str(NODES), "--instance-type", INSTANCE_TYPE):
            nodes = [node.name for node in box.status().nodes]
            steps = churn(options.seed, pods=options.pods, seconds=options.seconds, nodes=nodes)
            complaints += soak(box, steps, SETTINGS)
    if options.only in {None, "faults"}:
        with box.standing("--nodes", str(NODES), "--instance-type", INSTANCE_TYPE):
            nodes = [node.name for node in box.status().nodes]
            vswitches = [one.id for one in box.status().vpc.vswitches]
            complaints += soak(box, faults(options.seed, steps=options.steps, nodes=nodes, vswitches=vswitches), FAULTY)
    if options.only in {None, "fallback"}:
        with box.standing("--nodes", "1"):
            complaints += soak_fallback(box)
    for complaint in complaints:
        say(f"WRONG {complaint}")
    say(f"seed {options.seed}: {len(complaints) or 'no'} complaints")
    return 1 if complaints else 0


def soak(box: Box, steps: Iterable[tuple[float, Step]], settings: Mapping[str, object]) -> list[str]:
    """Take the steps, each at its time or a little later, with daemons of these ``settings``; what was wrong."""
    kube = hold.kube_of(box)
    hold.configure(kube, **settings)
    status = box.status()
    with flows(BUILD, status.outside) as running:
        logs = {node.name: box.state / "log" / node.name / "kubelet.log" for node in status.nodes}
        soak = Soak(kube, {node.name: node for node in status.nodes}, running, logs, fault=box.run)
        began = time.monotonic()
        for at, step in steps:
            while (left := began + at - time.monotonic()) > 0:
                time.sleep(min(left, LOOK_SECONDS))
                soak.look()
            soak.do(step)
        soak.do(Calm())
        say(f"{time.monotonic() - began:.0f} s, settling; so far {dict(soak.count)}")
        soak.settle(time.monotonic() + SETTLE_SECONDS)
    for when in ("with all pods", "without pods"):
        try:
            hold.agree(box)
        except AssertionError as error:
            soak.complaints.append(f"{when}: {error}")
        hold.clear(kube)
    say(f"done: {dict(soak.count)}")
    return soak.complaints


class Soak:
    """Pods as they should be, and their flows."""

    def __init__(
        self,
        kube: Kube,
        nodes: dict[str, Instance],
        running: Flows,
        logs: dict[str, Path],
        *,
        fault: Callable[..., None],
    ) -> None:
        """``logs``: kubelet's, by node. ``fault``: runs a command of the box."""
        self.complaints: list[str] = []
        self.count: Counter[str] = Counter()
        self._kube = kube
        self._nodes = nodes
        self._flows = running
        self._logs = logs
        self._fault = fault
        self._wanted: dict[str, str] = {}
        """Kind by name."""

    def do(self, step: Step) -> None:
        """Make it happen."""
        match step:
            case Create(name, kind):
                self._create(name, kind)
            case Delete(name, force):
                self._delete(name, force=force)
            case Kill(node, program):
                for pid in pids_of(self._nodes[node], program):
                    os.kill(pid, _SIGNALS[program])
                    self.count[f"{program} ended"] += 1
            case Fault(kind, settings):
                self._fault("fault", "add", kind, *settings)
                self.count[kind] += 1
            case Calm():
                self._fault("fault", "clear")

    def look(self) -> int:
        """Begin flows in pods that run, replace those that kubelet refused; how many do not run yet."""
        found = {pod["metadata"]["name"]: pod for pod in self._kube.get(hold.PODS)["items"]}
        self._complain_of_doubles(found.values())
        fresh: dict[str, str] = {}
        for name, kind in list(self._wanted.items()):
            pod = found.get(name)
            phase = None if pod is None else pod["status"].get("phase")
            if pod is None or phase in {"Failed", "Succeeded"}:
                self._ended(name, kind, pod)
            elif phase == "Running" and name not in self._flows and _is_ready(pod):
                (container,) = pod["status"]["containerStatuses"]
                fresh[container["containerID"].removeprefix("containerd://")] = name
        for container_id, pid in inside.pids_in(fresh).items() if fresh else ():
            self._flows.begin(fresh[container_id], pid)
            self.count["ran"] += 1
        return sum(name not in self._flows for name in self._wanted)

    def settle(self, deadline: float) -> None:
        """Every pod that is wanted runs in the end; its flow has lost nothing."""
        while self.look():
            if time.monotonic() > deadline:
                late = [name for name in self._wanted if name not in self._flows]
                self.complaints += [f"{name} ({self._wanted[name]}) does not run: {self._why(name)}" for name in late]
                break
            time.sleep(LOOK_SECONDS)
        # The last to begin send for a while as well.
        time.sleep(5)
        for name in self._flows.names():
            self._end_flow(name)

    def _create(self, name: str, kind: str) -> None:
        annotations = {} if kind == "exclusive" else {"eniway.io/network": kind}
        self._kube.create(hold.PODS, hold.pod(name, exclusive=kind == "exclusive", annotations=annotations))
        self._wanted[name] = kind
        self.count["created"] += 1

    def _delete(self, name: str, *, force: bool) -> None:
        # A pod that was refused goes by another name by now.
        for wanted in [one for one in self._wanted if one.partition("-again")[0] == name]:
            self._end_flow(wanted)
            del self._wanted[wanted]
            hold.delete(self._kube, [wanted], grace=0 if force else 1)
            self.count["deleted by force" if force else "deleted"] += 1

    def _ended(self, name: str, kind: str, pod: Object | None) -> None:
        """A pod that nobody deleted is gone or has ended: only kubelet's own refusal is no fault."""
        if pod is not None and self._was_refused(pod):
            self._flows.end(name)
            self.count["refused by kubelet"] += 1
        else:
            self._end_flow(name)
            self.complaints.append(f"{name} ({kind}) ended: {'gone' if pod is None else pod['status']}")
        del self._wanted[name]
        hold.delete(self._kube, [name], grace=0)
        self._create(f"{name}-again", kind)

    def _was_refused(self, pod: Object) -> bool:
        """By kubelet's word, or its log: one that starts anew ends a running pod so, whose status says "Succeeded"."""
        if pod["status"].get("reason") == _REFUSAL:
            return True
        log = self._logs[pod["spec"]["nodeName"]].read_text(errors="replace")
        said = (line for line in log.splitlines() if "Pod admission denied" in line and _REFUSAL in line)
        return any(pod["metadata"]["uid"] in line for line in said)

    def _end_flow(self, name: str) -> None:
        if (count := self._flows.end(name)) is not None:
            self.count["datagrams"] += count.sent
            if count.complaint:
                self.complaints.append(f"{name} ({self._wanted.get(name)}): {count.complaint}")

    def _complain_of_doubles(self, pods: Iterable[Object]) -> None:
        having: dict[str, str] = {}
        for pod in pods:
            name, address = pod["metadata"]["name"], pod["status"].get("podIP")
            # One that is asked to end may be gone from its node already.
            if pod["status"].get("phase") != "Running" or "deletionTimestamp" in pod["metadata"] or not address:
                continue
            if address in having:
                self.complaints.append(f"{having[address]} and {name} have {address}")
            having[address] = name

    def _why(self, name: str) -> str:
        events = self._kube.get(f"/api/v1/namespaces/{hold.HOLD}/events")["items"]
        about = [event for event in events if event["involvedObject"]["name"] == name]
        return str(about[-1]["message"]) if about else "no event"


def pids_of(node: Instance, program: str) -> list[int]:
    """Processes of a program in a node's own network namespace: kubelet, containerd, or the daemon's `eniway node`."""
    home = Path(f"/proc/{node.pid}/ns/net").readlink()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            named = any(Path(os.fsdecode(word)).name == program for word in words[:3])
            if program == "eniway":
                named = named and b"node" in words
            if named and (process / "ns/net").readlink() == home:
                found.append(int(process.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def _is_ready(pod: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))


def say(text: str) -> None:
    """Tell whoever waits."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
