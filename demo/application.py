"""The application of the demonstration, deployed: its pods as endpoints, and every path between them walked."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from demo import checks, inside, probe
from demo.box import Box, Instance
from demo.checks import Endpoint, Kind, Question, Service
from demo.cloud import enis
from demo.kube import Kube, Object

NAMESPACE = "demo"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
MANIFESTS = Path(__file__).with_name("app.yaml")
PATIENCE = 90.0
"""Seconds that something may take to come true."""


class Application:
    """What `app.yaml` makes of a box's cluster."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self.status = box.status()
        self.kube = Kube(Path(self.status.kubeconfig))
        self.manifests: list[Object] = list(yaml.safe_load_all(MANIFESTS.read_text()))

    @property
    def instances(self) -> dict[str, str]:
        """Node → instance id."""
        return {node.name: node.instance_id for node in self.status.nodes}

    def deploy(self) -> None:
        """Apply the manifests."""
        for manifest in self.manifests:
            self.kube.apply(manifest)

    def pods(self) -> list[Object]:
        """The pods, once all that are wanted are Ready; TimeoutError says how they stand."""
        wanted = sum(one["spec"]["replicas"] for one in self.manifests if one["kind"] == "Deployment")
        found = self.kube.until(PODS, lambda pods: ready(pods, wanted), seconds=PATIENCE, selector="app in (web, card)")
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def endpoints(self, pods: Sequence[Object]) -> tuple[list[Endpoint], list[str]]:
        """The pods as the API server, their own kernel and the cloud have them, and where those disagree."""
        pid = inside.pids(pod["metadata"]["uid"] for pod in pods)
        cards = enis(self.status.openapi)
        endpoints, wrong = list[Endpoint](), list[str]()
        for pod in pods:
            links = inside.links(pid[pod["metadata"]["uid"]])
            endpoint, complaints = checks.endpoint(pod, links, cards, self.instances)
            endpoints.append(endpoint)
            wrong += complaints
        return endpoints, wrong

    def walk(self, endpoints: Sequence[Endpoint]) -> list[tuple[Question, str | None]]:
        """Everybody asks everybody and each Service; each question with what is wrong with its answer."""
        services = [self._service(name, endpoints) for name in ("web", "card")]
        addresses = [endpoint.address for endpoint in endpoints]
        for node in self.status.nodes:
            probe.wait_for_kube_proxy(self._box, node.name, addresses, seconds=PATIENCE)
        outside = self.status.outside
        askers: dict[str, probe.Asker] = {one.name: probe.PodAsker(self.kube, NAMESPACE, one.name) for one in endpoints}
        with probe.OutsideAsker(self._box, outside.name) as askers[outside.name]:
            questions = checks.questions([*endpoints, _as_endpoint(outside)], services)
            answers = probe.ask_all(questions, askers)
        return [(question, checks.judge(question, answer)) for question, answer in zip(questions, answers, strict=True)]

    def _service(self, name: str, endpoints: Sequence[Endpoint]) -> Service:
        address = IPv4Address(self.kube.get(f"/api/v1/namespaces/{NAMESPACE}/services/{name}")["spec"]["clusterIP"])
        kind = {"web": Kind.SHARED, "card": Kind.EXCLUSIVE}[name]
        return Service(name, address, frozenset(one.name for one in endpoints if one.kind is kind))


def ready(pods: Sequence[Object], count: int) -> list[Object] | None:
    """The pods that stay, once there are ``count`` of them and all are Ready."""
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    good = [
        pod
        for pod in alive
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    ]
    return good if len(good) == len(alive) == count else None


def _as_endpoint(instance: Instance) -> Endpoint:
    return Endpoint(
        name=instance.name,
        kind=Kind.OUTSIDE,
        node=instance.name,
        node_address=instance.address,
        address=instance.address,
        service_source=instance.address,
        eni="",
    )
