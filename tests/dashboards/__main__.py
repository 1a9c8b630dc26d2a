"""`python -m tests.dashboards PROMETHEUS`: every query of every panel and rule has data, in a box under load.

PROMETHEUS is the folder of `prometheus` and `promtool`. A real Prometheus runs on the instance outside the cluster and
scrapes daemons and operator over the VPC, while pods of every kind come and go and the cloud throttles. Exit status 0
only when the alerts' tests pass and no query is empty.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from build_support.dashboards import BOARDS, RANGE
from demo.box import Box
from demo.kube import Kube
from tests.box import hold

TREE = Path(__file__).resolve().parents[2]
RULES = [TREE / "manifests/alerts" / name for name in ("recording.yaml", "alerts.yaml")]
ADDRESS = "127.0.0.1:9090"
ROUNDS = 4
SLOW = {"kubernetes.io/ingress-bandwidth": "1M", "kubernetes.io/egress-bandwidth": "1M"}
ISOLATED = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "load", "namespace": hold.HOLD},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 8080}]}]},
}
_SELECTOR = re.compile(r"\b(?:(?:\w+:)+\w+|eniway_\w+|up)(?:\{[^}]*\})?")
_ASK = """
import json, sys, time, urllib.parse, urllib.request
answers = {}
for query in json.load(sys.stdin):
    url = f"http://{sys.argv[1]}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=30) as answer:
        answers[query] = json.load(answer)["data"]["result"]
print(json.dumps(answers))
"""


def panel_queries() -> dict[str, str]:
    """Each query of each panel by where it stands, with Grafana's variables filled in."""
    return {
        f"{board.title}: {panel.title}": query.expr.replace(RANGE, "1m").replace("$node", ".+")
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
    }


def rule_queries() -> dict[str, str]:
    """What each recording rule records, and the series that alerts look at: an alert is quiet when all is well."""
    found: dict[str, str] = {}
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    found[f"rule {rule['record']}"] = rule["record"]
                else:
                    for selector in _SELECTOR.findall(rule["expr"]):
                        found[f"alert {rule['alert']}: {selector}"] = selector.replace('{state!="RouteCreated"}', "")
    return found


@contextmanager
def prometheus(box: Box, program: Path, scratch: Path) -> Iterator[None]:
    """On the instance outside the cluster, scraping every second."""
    status = box.status()
    nodes = [
        {"targets": [f"{node.address}:9530"], "labels": {"job": "eniway-node", "node": node.name}}
        for node in status.nodes
    ]
    operators = [
        {"targets": [f"{node.address}:9531"], "labels": {"job": "eniway-operator", "node": node.name}}
        for node in status.nodes
    ]
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": [{"job_name": "eniway", "static_configs": nodes + operators}],
    }
    (scratch / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    options = [
        f"--config.file={scratch / 'prometheus.yaml'}",
        f"--storage.tsdb.path={scratch / 'tsdb'}",
        f"--web.listen-address={ADDRESS}",
    ]
    argv = box.argv("sh", "outside", "--", str(program), *options)
    with (scratch / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def ask(box: Box, queries: Mapping[str, str]) -> dict[str, list[Any]]:
    """What Prometheus answers to each, by where it stands."""
    argv = box.argv("sh", "outside", "--", "python3", "-c", _ASK, ADDRESS)
    done = subprocess.run(
        argv, input=json.dumps(sorted(set(queries.values()))), text=True, check=True, capture_output=True
    )
    answers = json.loads(done.stdout)
    return {where: answers[query] for where, query in queries.items()}


def load(box: Box, kube: Kube) -> None:
    """Pods of every kind come and go; some calls of the cloud are throttled."""
    nodes = [node.name for node in box.status().nodes]
    throttled = ("target=AssignPrivateIpAddresses", "code=Throttling.User", "status=400", "count=1")
    box.run("fault", "add", "error", *throttled)  # the Action rests until the next minute
    box.run("fault", "add", "error", "target=DescribeVSwitches", "code=ServiceUnavailable", "status=503", "count=3")
    kube.create(f"/apis/networking.k8s.io/v1/namespaces/{hold.HOLD}/networkpolicies", ISOLATED)
    hold.start(kube, [hold.pod(f"slow-{node}", node=node, annotations=SLOW) for node in nodes])
    for turn in range(ROUNDS):
        pods = [hold.pod(f"load-{turn}-{node}-{number}", node=node) for node in nodes for number in range(6)]
        pods += [hold.pod(f"card-{turn}-{node}", node=node, exclusive=True) for node in nodes]
        routed = {"eniway.io/network": "routed"}
        pods += [hold.pod(f"routed-{turn}-{node}", node=node, annotations=routed) for node in nodes]
        hold.start(kube, pods)
        hold.delete(kube, [pod["metadata"]["name"] for pod in pods])


def main() -> int:
    """Bring a box up, look, end it."""
    parser = argparse.ArgumentParser(prog="python -m tests.dashboards", description=__doc__)
    parser.add_argument("programs", type=Path, help="where prometheus and promtool are")
    programs = parser.parse_args().programs.resolve()
    subprocess.run([programs / "promtool", "check", "rules", *RULES], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([programs / "promtool", "test", "rules", TREE / "manifests/alerts/alerts.test.yaml"], check=True)
    queries = panel_queries() | rule_queries()
    with tempfile.TemporaryDirectory(prefix="eniway-dashboards-", dir="/var/tmp") as scratch:
        box = Box(Path(scratch) / "box")
        try:
            box.run("up", "--nodes", "2", "--install", "eniway")
            kube = hold.kube_of(box)
            with prometheus(box, programs / "prometheus", Path(scratch)):
                load(box, kube)
                answers = ask(box, queries)
        finally:
            box.run("down")
    empty = [where for where, answer in answers.items() if not answer]
    for where in empty:
        print(f"no data: {where}\n    {queries[where]}")
    print(f"dashboards: {len(queries) - len(empty)} of {len(queries)} queries have data")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
