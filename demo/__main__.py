"""`python -m demo`: boot a box, deploy the application, walk every path of it, and say what was seen.

Exit status 0 only if every path leads where it should. The box stays up.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from demo import checks, inside, probe
from demo.box import Box, Instance
from demo.checks import Endpoint, Kind, Question, Service
from demo.cloud import enis
from demo.kube import Kube, Object
from demo.report import Report

NAMESPACE = "demo"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
APP = Path(__file__).with_name("app.yaml")
PATIENCE = 90.0
"""Seconds that something may take to come true."""


def main() -> int:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path(".box"), help="state directory of the box (default: .box)")
    box, report = Box(parser.parse_args().state), Report()
    report.headline("A VPC with three instances, a Kubernetes on them, eniway on that")
    try:
        box.run("up", "--nodes", "3", "--install", "eniway")
    except subprocess.CalledProcessError as error:
        report.verdict("the box", [f"vpcbox up ended with status {error.returncode}; `make down` clears what is left"])
        return 1
    try:
        walk(box, report)
    except TimeoutError as error:
        report.verdict("not reached in time", [str(error)])
    farewell(box, report)
    return 1 if report.wrong else 0


def walk(box: Box, report: Report) -> None:
    """Deploy the application and look at it from every side."""
    status = box.status()
    kube = Kube(Path(status.kubeconfig))
    instances = {node.name: node.instance_id for node in status.nodes}
    report.headline(f"The application: {APP.relative_to(Path.cwd()) if APP.is_relative_to(Path.cwd()) else APP}")
    manifests: list[Object] = list(yaml.safe_load_all(APP.read_text()))
    for manifest in manifests:
        kube.apply(manifest)
    wanted = sum(one["spec"]["replicas"] for one in manifests if one["kind"] == "Deployment")
    pods = kube.until(PODS, lambda found: _ready(found, wanted), seconds=PATIENCE, selector="app in (web, card)")

    pid = inside.pids(pod["metadata"]["uid"] for pod in pods)
    cards = enis(status.openapi)
    endpoints, wrong = list[Endpoint](), list[str]()
    for pod in sorted(pods, key=lambda one: str(one["metadata"]["name"])):
        links = inside.links(pid[pod["metadata"]["uid"]])
        one, complaints = checks.endpoint(pod, links, cards, instances)
        endpoints.append(one)
        wrong += complaints
    report.table(
        ("POD", "KIND", "NODE", "ADDRESS", "ENI", "SEEN BY SERVICES AS"),
        [(one.name, one.kind, one.node, one.address, one.eni, one.service_source) for one in endpoints],
    )
    report.verdict("API server, the pods' own kernel and the cloud agree on each of these", wrong)
    report.verdict("no address is held twice, no exclusive ENI shared", checks.alone(endpoints))
    spread = {one.node for one in endpoints if one.kind is Kind.SHARED}
    report.verdict("shared pods on every node", [f"none on {node}" for node in instances if node not in spread])

    report.headline("Every path, walked from inside the pods, over HTTP and UDP")
    services = [_service(kube, name, pods) for name in ("web", "card")]
    backends = [one.address for one in endpoints]
    for node in status.nodes:
        probe.wait_for_kube_proxy(box, node.name, backends, seconds=PATIENCE)
    with probe.OutsideAsker(box, status.outside.name) as outsider:
        everybody = [*endpoints, _outside(status.outside)]
        askers: dict[str, probe.Asker] = {one.name: probe.PodAsker(kube, NAMESPACE, one.name) for one in endpoints}
        askers[status.outside.name] = outsider
        asked = checks.questions(everybody, services)
        complaints_by = defaultdict[str, list[str]](list)
        asked_by = defaultdict[str, list[Question]](list)
        for question, answer in zip(asked, probe.ask_all(asked, askers), strict=True):
            asked_by[question.group].append(question)
            if complaint := checks.judge(question, answer):
                complaints_by[question.group].append(complaint)
    for group, questions in asked_by.items():
        exchanges = sum(question.tries for question in questions)
        report.verdict(f"{group:<36} {exchanges:4} exchanges   {_seen(group)}", complaints_by[group])

    report.headline("kubelet's probes")
    pods = kube.until(PODS, lambda found: _ready(found, wanted), seconds=PATIENCE, selector="app in (web, card)")
    for app, kind in (("web", Kind.SHARED), ("card", Kind.EXCLUSIVE)):
        probed = [pod for pod in pods if pod["metadata"]["labels"]["app"] == app]
        wrong = [complaint for pod in probed for complaint in checks.probed(pod)]
        report.verdict(f"{kind}: {len(probed)} pods Ready by HTTP probes, no restart", wrong)

    report.headline("ENIs as a resource")
    one_too_many(kube, manifests, report)


def one_too_many(kube: Kube, manifests: Sequence[Object], report: Report) -> None:
    """Ask for one exclusive pod more than the nodes have ENIs for, and take the crowd away again."""
    capacity = checks.allocatable(kube.get("/api/v1/nodes")["items"])
    wrong = [f"{node} offers none" for node, count in capacity.items() if count < 1]
    report.verdict(f"allocatable {checks.RESOURCE}: " + ", ".join(f"{n}: {c}" for n, c in capacity.items()), wrong)
    crowd = copy.deepcopy(
        next(one for one in manifests if (one["kind"], one["metadata"]["name"]) == ("Deployment", "card"))
    )
    free = sum(capacity.values()) - crowd["spec"]["replicas"]
    labels = {"app": "crowd"}
    crowd["metadata"]["name"] = "crowd"
    crowd["spec"]["replicas"] = free + 1
    crowd["spec"]["selector"]["matchLabels"] = crowd["spec"]["template"]["metadata"]["labels"] = labels
    kube.apply(crowd)
    try:
        reason = kube.until(PODS, lambda found: _full(found, free), seconds=PATIENCE, selector="app=crowd")
        report.line(f"{free} more exclusive pods run; one too many is Pending: {reason}")
        expected = f"Insufficient {checks.RESOURCE}"
        report.verdict("the scheduler says why", [] if expected in reason else [f"expected {expected!r} in {reason!r}"])
    finally:
        kube.delete(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/crowd")
    kube.until(PODS, lambda found: True if not found else None, seconds=PATIENCE, selector="app=crowd")
    report.line("the crowd is gone again")


def farewell(box: Box, report: Report) -> None:
    """Say how it went, how to look around and how to end it."""
    if report.wrong:
        report.headline(f"{len(report.wrong)} things are not as they should be (marked ✗ above)")
    else:
        report.headline("All of it works.")
    commands = Path(sys.executable).parent
    print(f"""
The cluster stays up. To look around:
  export PATH={commands}:$PATH KUBECONFIG={box.status().kubeconfig}
  kubectl -n {NAMESPACE} get pods -o wide
  kubectl get nodenetworks
  vpcbox status --state {box.state}
  vpcbox sh --state {box.state} node-1 -- ip route show table all
To end it: make down""")


def _ready(pods: list[Object], count: int) -> list[Object] | None:
    """The pods that stay, once there are ``count`` of them and all are Ready."""
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    ready = [
        pod
        for pod in alive
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    ]
    return ready if len(ready) == len(alive) == count else None


def _full(pods: list[Object], free: int) -> str | None:
    """The scheduler's reason against the one pod too many, once all others are Ready."""
    reasons = [reason for pod in pods if (reason := checks.refusal(pod))]
    others = [pod for pod in pods if checks.refusal(pod) is None]
    return reasons[0] if len(reasons) == 1 and _ready(others, free) is not None else None


def _service(kube: Kube, name: str, pods: Sequence[Object]) -> Service:
    address = IPv4Address(kube.get(f"/api/v1/namespaces/{NAMESPACE}/services/{name}")["spec"]["clusterIP"])
    backends = frozenset(pod["metadata"]["name"] for pod in pods if pod["metadata"]["labels"]["app"] == name)
    return Service(name, address, backends)


def _outside(instance: Instance) -> Endpoint:
    return Endpoint(
        name=instance.name,
        kind=Kind.OUTSIDE,
        node=instance.name,
        node_address=instance.address,
        address=instance.address,
        service_source=instance.address,
        eni="",
    )


def _seen(group: str) -> str:
    if group.startswith(f"{Kind.EXCLUSIVE} → Service"):
        return "seen by the address of its second link"
    return "seen by its own address"


if __name__ == "__main__":
    sys.exit(main())
