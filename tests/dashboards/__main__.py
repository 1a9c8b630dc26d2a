"""`python -m tests.dashboards PROMETHEUS`: every query of every panel and rule has data, in a box under load.

PROMETHEUS is the folder of `prometheus` and `promtool`. A real Prometheus runs on the instance outside the cluster and
scrapes daemons, operator and extender over the VPC, while pods of every kind come and go and the cloud throttles. Exit
status 0 only when the alerts' tests pass and no query is empty. `--pictures` draws the dashboards as they were in that
time.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from build_support import pictures
from build_support.dashboards import BOARDS, RANGE, Panel, Query
from demo.box import Box
from demo.kube import Kube
from tests.box import hold

TREE = Path(__file__).resolve().parents[2]
RULES = [TREE / "manifests/alerts" / name for name in ("recording.yaml", "alerts.yaml")]
ADDRESS = "127.0.0.1:9090"
ROUNDS = 10
TROUBLE = 3
"""The round from which on the cloud is in trouble: a picture shows what was before it and what comes after."""
SLOW = {"kubernetes.io/ingress-bandwidth": "1M", "kubernetes.io/egress-bandwidth": "1M"}
ISOLATED = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "load", "namespace": hold.HOLD},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 8080}]}]},
}
_SELECTOR = re.compile(r"\b(?:(?:\w+:)+\w+|eniway_\w+|up)(?:\{[^}]*\})?")
SAMPLES = 100
"""Of each line of a picture: one for every four pixels of a panel."""
_ASK = """
import json, sys, urllib.parse, urllib.request
answers = {}
for query in json.load(sys.stdin):
    asked = urllib.parse.urlencode({"query": query, **json.loads(sys.argv[2])})
    with urllib.request.urlopen(sys.argv[1] + asked, timeout=30) as answer:
        answers[query] = json.load(answer)["data"]["result"]
print(json.dumps(answers))
"""


def filled(query: Query) -> str:
    """With Grafana's variables filled in."""
    return query.expr.replace(RANGE, "1m").replace("$node", ".+")


def panel_queries() -> dict[str, str]:
    """Each query of each panel by where it stands."""
    return {
        f"{board.title}: {panel.title}: {query.legend}": filled(query)
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
def prometheus(box: Box, kube: Kube, program: Path, scratch: Path) -> Iterator[None]:
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
    (control,) = kube.get("/api/v1/namespaces/default/endpoints/kubernetes")["subsets"][0]["addresses"]
    extender = {"targets": [f"{control['ip']}:9534"], "labels": {"job": "eniway-extender", "node": "control"}}
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": [{"job_name": "eniway", "static_configs": [*nodes, *operators, extender]}],
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


def ask(box: Box, queries: Collection[str], **span: float) -> dict[str, list[Any]]:
    """What Prometheus answers to each: as of now, or with `start`, `end` and `step` over that time."""
    url = f"http://{ADDRESS}/api/v1/{'query_range' if span else 'query'}?"
    argv = box.argv("sh", "outside", "--", "python3", "-c", _ASK, url, json.dumps(span))
    done = subprocess.run(argv, input=json.dumps(sorted(set(queries))), text=True, check=True, capture_output=True)
    answers: dict[str, list[Any]] = json.loads(done.stdout)
    return answers


def draw(box: Box, begin: float, folder: Path) -> None:
    """A picture of each dashboard, from `begin` till now, by the queries that have just been proved."""
    end = time.time()
    span = pictures.Span(begin, end, step=max(1.0, (end - begin) / SAMPLES))
    answers = ask(box, panel_queries().values(), start=span.begin, end=span.end, step=span.step)

    def drawn(panel: Panel) -> list[pictures.Line]:
        return [line for one in panel.queries for line in pictures.lines(one.legend, answers[filled(one)], span.begin)]

    folder.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        text = pictures.picture(board, {panel.title: drawn(panel) for panel in board.panels}, span)
        (folder / f"{board.uid.removeprefix('eniway-')}.svg").write_text(text, encoding="utf-8")


def load(box: Box, kube: Kube) -> None:
    """Pods of every kind come and go; some calls of the cloud are throttled."""
    nodes = [node.name for node in box.status().nodes]
    kube.create(f"/apis/networking.k8s.io/v1/namespaces/{hold.HOLD}/networkpolicies", ISOLATED)
    hold.start(kube, [hold.pod(f"slow-{node}", node=node, annotations=SLOW) for node in nodes])
    throttled = ("target=AssignPrivateIpAddresses", "code=Throttling.User", "status=400", "count=1")
    broken = ("target=DescribeVSwitches", "code=ServiceUnavailable", "status=503", "count=3")
    for turn in range(ROUNDS):
        if turn == TROUBLE:
            box.run("fault", "add", "error", *throttled)  # the Action rests until the next minute
            box.run("fault", "add", "error", *broken)
        pods = [hold.pod(f"load-{turn}-{node}-{number}", node=node) for node in nodes for number in range(4)]
        pods += [hold.pod(f"card-{turn}-{node}", node=node, exclusive=True) for node in nodes]
        routed = {"eniway.io/network": "routed"}
        pods += [hold.pod(f"routed-{turn}-{node}", node=node, annotations=routed) for node in nodes]
        hold.start(kube, pods)
        hold.delete(kube, [pod["metadata"]["name"] for pod in pods])


def main() -> int:
    """Bring a box up, look, end it."""
    parser = argparse.ArgumentParser(prog="python -m tests.dashboards", description=__doc__)
    parser.add_argument("programs", type=Path, help="where prometheus and promtool are")
    parser.add_argument("--pictures", type=Path, help="where to draw the dashboards, a file each")
    asked = parser.parse_args()
    programs = asked.programs.resolve()
    subprocess.run([programs / "promtool", "check", "rules", *RULES], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([programs / "promtool", "test", "rules", TREE / "manifests/alerts/alerts.test.yaml"], check=True)
    queries = panel_queries() | rule_queries()
    with tempfile.TemporaryDirectory(prefix="eniway-dashboards-", dir="/var/tmp") as scratch:
        box = Box(Path(scratch) / "box")
        try:
            box.run("up", "--nodes", "2", "--install", "eniway")
            kube = hold.kube_of(box)
            with prometheus(box, kube, programs / "prometheus", Path(scratch)):
                begin = time.time()
                load(box, kube)
                answers = ask(box, queries.values())
                if asked.pictures:
                    draw(box, begin, asked.pictures)
        finally:
            box.run("down")
    empty = [where for where, query in queries.items() if not answers[query]]
    for where in empty:
        print(f"no data: {where}\n    {queries[where]}")
    print(f"dashboards: {len(queries) - len(empty)} of {len(queries)} queries have data")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
