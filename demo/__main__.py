"""`python -m demo`: boot a box, deploy the application, walk every path of it, and say what was seen.

Exit status 0 only if every path leads where it should. The box stays up.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from demo import checks
from demo.application import MANIFESTS, NAMESPACE, PATIENCE, PODS, Application, ready
from demo.box import Box
from demo.checks import Kind, Question
from demo.kube import Kube, Object
from demo.report import Report


def main() -> int:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path(".box"), help="state directory of the box (default: .box)")
    box, report = Box(parser.parse_args().state), Report()
    report.headline("A VPC with three instances, a Kubernetes on them, eniway on that")
    try:
        if box.stands():
            report.line(f"a box stands in {box.state}: that one")
        else:
            box.run("up", "--nodes", "3", "--install", "eniway")
    except subprocess.CalledProcessError as error:
        report.verdict("the box", [f"vpcbox up ended with status {error.returncode}; `make down` clears what is left"])
        return 1
    try:
        show(box, report)
    except TimeoutError as error:
        report.verdict("not reached in time", [str(error)])
    farewell(box, report)
    return 1 if report.wrong else 0


def show(box: Box, report: Report) -> None:
    """Deploy the application and look at it from every side."""
    application = Application(box)
    report.headline(f"The application: {os.path.relpath(MANIFESTS)}")
    application.deploy()
    pods = application.pods()
    endpoints, wrong = application.endpoints(pods)
    report.table(
        ("POD", "KIND", "NODE", "ADDRESS", "ENI", "SEEN BY SERVICES AS"),
        [(one.name, one.kind, one.node, one.address, one.eni, one.service_source) for one in endpoints],
    )
    outside = application.status.outside
    report.line(f"and {outside.name}, an instance of the VPC that is no node: {outside.address}")
    report.verdict("API server, the pods' own kernel and the cloud agree on each of these", wrong)
    report.verdict("no address is held twice, no exclusive ENI shared", checks.alone(endpoints))
    spread = {one.node for one in endpoints if one.kind is Kind.SHARED}
    report.verdict(
        "shared pods on every node", [f"none on {node}" for node in application.instances if node not in spread]
    )

    report.headline("Every path, walked from inside the pods, over HTTP and UDP")
    groups = defaultdict[str, list[tuple[Question, str | None]]](list)
    for question, complaint in application.walk(endpoints):
        groups[question.group].append((question, complaint))
    for group, asked in groups.items():
        exchanges = sum(question.tries for question, _ in asked)
        complaints = [complaint for _, complaint in asked if complaint]
        report.verdict(f"{group:<36} {exchanges:4} exchanges   {_seen(group)}", complaints)

    report.headline("kubelet's probes")
    pods = application.pods()
    for kind in (Kind.SHARED, Kind.EXCLUSIVE):
        probed = [pod for pod in pods if checks.kind_of(pod) is kind]
        complaints = [complaint for pod in probed for complaint in checks.probed(pod)]
        report.verdict(f"{kind}: {len(probed)} pods Ready by HTTP probes, no restart", complaints)

    report.headline("ENIs as a resource")
    one_too_many(application.kube, application.manifests, report)


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


def _full(pods: list[Object], free: int) -> str | None:
    """The scheduler's reason against the one pod too many, once all others are Ready."""
    reasons = [reason for pod in pods if (reason := checks.refusal(pod))]
    others = [pod for pod in pods if checks.refusal(pod) is None]
    return reasons[0] if len(reasons) == 1 and ready(others, free) is not None else None


def _seen(group: str) -> str:
    if group.startswith(f"{Kind.EXCLUSIVE} → Service"):
        return "seen by the address of its second link"
    return "seen by its own address"


if __name__ == "__main__":
    sys.exit(main())
