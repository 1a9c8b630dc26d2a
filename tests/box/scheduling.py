"""A real kube-scheduler and ``eniway extender`` beside it, on a real API server; the nodes are objects only.

Nothing runs on them: no kubelet, no daemon. What a daemon would publish, the test does.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientError, ClientSession

from eniway import names
from eniway.kube.client import APPLY, MERGE, KubeClient, from_kubeconfig
from tests.box.apiserver import LOOPBACK, ApiServer, free_ports
from vpcbox.cluster.components import ensure

MANIFESTS = Path(__file__).parents[2] / "manifests"
USER = "system:serviceaccount:kube-system:eniway-extender"
READY = {"type": "Ready", "status": "True", "reason": "Serving", "message": ""}
STAMP = "2026-01-01T00:00:00Z"
_AT_ONCE = 32
# What kwok does, and when: it does nothing by itself, and does not start without a stage for nodes
_STAGES = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: node-ready
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchExpressions:
      - {key: '.status.conditions.[] | select(.type == "Ready") | .status', operator: NotIn, values: ["True"]}
  next:
    statusTemplate: |
      conditions: [{type: Ready, status: "True"}]
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-runs
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
      - {key: .status.phase, operator: In, values: [Pending]}
  next:
    statusTemplate: |
      phase: Running
      conditions: [{type: Ready, status: "True", lastTransitionTime: {{ Now | Quote }}}]
"""


def words(in_service: int, *, growable: int = 0, cooling: int = 0, most: int | None = None) -> dict[str, int]:
    return {
        "inService": in_service,
        "growable": growable,
        "cooling": cooling,
        "orphaned": 0,
        "used": 0,
        "free": 0,
        "most": in_service + growable if most is None else most,
    }


@dataclass
class Scheduling:
    """The cluster; ``settings`` changes what the shipped KubeSchedulerConfiguration says of the extender."""

    api: ApiServer
    client: KubeClient
    folder: Path
    extender_port: int = field(default_factory=lambda: free_ports(1)[0])
    metrics_port: int = field(default_factory=lambda: free_ports(1)[0])
    scheduler_port: int = field(default_factory=lambda: free_ports(1)[0])
    scheme: str = "http"

    async def all(self, work: Iterable[Awaitable[Any]]) -> None:
        """Do many things, some at once."""
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(thing: Awaitable[Any]) -> None:
            async with turn:
                await thing

        await asyncio.gather(*map(one, work))

    async def node(self, name: str, *, native: int | None = None, **status: Any) -> None:
        """A Node and its NodeNetwork; ``native``: aliyun/eni-ip, where it is counted."""
        resources = {"cpu": "1000", "memory": "1000Gi", "pods": "500", names.RESOURCE_ENI: "8"}
        if native is not None:
            resources[names.RESOURCE_ENI_IP] = str(native)
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "status": {
                "capacity": resources,
                "allocatable": resources,
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        await self.client.request("POST", "/api/v1/nodes", body=body)
        # Admission gives every new Node the taint not-ready; a controller takes it off
        await self.client.request("PATCH", f"/api/v1/nodes/{name}", body={"spec": {"taints": None}}, content_type=MERGE)
        head = {"apiVersion": names.API_VERSION, "kind": "NodeNetwork", "metadata": {"name": name}}
        await self.client.request("POST", f"/apis/{names.API_VERSION}/nodenetworks", body=head)
        await self.network(name, **status)

    async def network(
        self, name: str, *, ready: bool = True, holders: dict[str, Sequence[str]] | None = None, **capacity: Any
    ) -> None:
        """What the node's daemon says."""
        none = words(0)
        status = {
            "defaultNetwork": "shared",
            "capacity": {"slots": none, "addresses": none, "routed": none, **capacity},
            "holders": holders or {},
            "conditions": [{**READY, "status": str(ready), "lastTransitionTime": STAMP}],
        }
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "NodeNetwork",
            "metadata": {"name": name},
            "status": status,
        }
        await self.client.request(
            "PATCH",
            f"/apis/{names.API_VERSION}/nodenetworks/{name}/status",
            body=body,
            content_type=APPLY,
            query={"fieldManager": "eniway-node", "force": "true"},
        )

    async def pod(self, name: str, **spec: Any) -> None:
        """An unbound pod."""
        await self.client.request("POST", "/api/v1/namespaces/default/pods", body=_pod(name, **spec))

    async def delete(self, name: str) -> None:
        """At once: no kubelet is there to wait for."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        await self.client.request("DELETE", f"/api/v1/namespaces/default/pods/{name}", body=body)

    async def pods(self) -> dict[str, str]:
        """Name → node, "" for one that is not bound."""
        raw = await self.client.read("/api/v1/namespaces/default/pods", query={"limit": "100000"})
        return {item["metadata"]["name"]: item["spec"].get("nodeName", "") for item in json.loads(raw)["items"]}

    async def until(self, holds: Callable[[dict[str, str]], bool], *, seconds: float = 30) -> dict[str, str]:
        """Wait until the pods are so."""
        async with asyncio.timeout(seconds):
            while not holds(found := await self.pods()):  # noqa: ASYNC110 -- other processes
                await asyncio.sleep(0.05)
        return found

    async def uid(self, name: str) -> str:
        """Of a pod."""
        pod = await self.client.request("GET", f"/api/v1/namespaces/default/pods/{name}")
        found: str = pod["metadata"]["uid"]
        return found

    async def why(self, name: str) -> str:
        """The scheduler's word on a pod that it could not bind."""
        async with asyncio.timeout(30):
            while True:
                pod = await self.client.request("GET", f"/api/v1/namespaces/default/pods/{name}")
                for condition in pod["status"].get("conditions", []):
                    if condition["type"] == "PodScheduled" and condition["status"] == "False":
                        said: str = condition["message"]
                        return said
                await asyncio.sleep(0.05)

    @property
    def extender_url(self) -> str:
        """Of the extender that was started last."""
        return f"{self.scheme}://127.0.0.1:{self.extender_port}"

    def tls(self) -> dict[str, str]:
        """Settings of an extender that speaks TLS."""
        files = {"tls_certificate": self.folder / "extender.crt", "tls_key": self.folder / "extender.key"}
        pair = self.api.authority.issue("extender", addresses=[LOOPBACK])
        for path, content in zip(files.values(), (pair.certificate, pair.key), strict=True):
            path.write_bytes(content)
        return {name: str(path) for name, path in files.items()}

    @asynccontextmanager
    async def extender(self, **settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
        """The process, ready; its journal is the same for all that follow one another."""
        path = self.folder / "extender.yaml"
        said = {
            "address": f"127.0.0.1:{self.extender_port}",
            "metrics_address": f"127.0.0.1:{self.metrics_port}",
            "journal": str(self.folder / "holds.jsonl"),
            **settings,
        }
        self.scheme = "https" if "tls_key" in settings else "http"
        path.write_text(yaml.safe_dump(said))
        kubeconfig = self.api.kubeconfig(USER, "system:serviceaccounts")
        argv = [sys.executable, "-m", "eniway.cli.main", "extender", f"--config={path}", f"--kubeconfig={kubeconfig}"]
        async with self._process(argv, "extender") as process:
            await self.until_ready(process)
            yield process

    async def until_ready(self, process: asyncio.subprocess.Process) -> None:
        async with asyncio.timeout(60), ClientSession() as session:
            while process.returncode is None:
                try:
                    async with session.get(f"{self.extender_url}/readyz", ssl=False) as answer:
                        if answer.status == 200:
                            return
                except ClientError:
                    pass
                await asyncio.sleep(0.02)
        raise AssertionError((self.folder / "extender.log").read_text()[-2000:])

    @asynccontextmanager
    async def scheduler(self, *, extended: bool = True, **changes: Any) -> AsyncIterator[asyncio.subprocess.Process]:
        """kube-scheduler with the shipped configuration."""
        shipped = yaml.safe_load((MANIFESTS / "control-plane/scheduler.yaml").read_text())
        shipped["clientConnection"] = {
            "kubeconfig": str(self.api.kubeconfig("system:kube-scheduler")),
            "qps": 5000,
            "burst": 5000,
            "contentType": "application/vnd.kubernetes.protobuf",
        }
        shipped["leaderElection"] = {"leaderElect": False}
        for key, value in changes.items():
            if key in {*shipped["extenders"][0], "bindVerb"}:
                shipped["extenders"][0][key] = value
            else:
                shipped[key] = value
        shipped["extenders"][0]["urlPrefix"] = self.extender_url
        if not extended:
            del shipped["extenders"]
        path = self.folder / "scheduler.yaml"
        path.write_text(yaml.safe_dump(shipped))
        program = str(ensure(["kubernetes"]).path("kube-scheduler"))
        authentication = self.api.kubeconfig("admin", "system:masters")
        argv = [
            program,
            f"--config={path}",
            f"--secure-port={self.scheduler_port}",
            "--bind-address=127.0.0.1",
            f"--authentication-kubeconfig={authentication}",
            f"--authorization-kubeconfig={authentication}",
        ]
        async with self._process(argv, "scheduler") as process:
            yield process

    @asynccontextmanager
    async def native_counts(self) -> AsyncIterator[None]:
        """Pods ask for what their node counts."""
        path = str(MANIFESTS / "native-counts/policies.yaml")
        self.api.kubectl("apply", "--filename", path)
        try:
            await self._counted(True)
            yield
        finally:
            self.api.kubectl("delete", "--filename", path)
            await self._counted(False)

    async def _counted(self, wanted: bool) -> None:
        """Wait until the API server has heard of its policies."""
        pod = json.dumps(_pod("probe"))
        async with asyncio.timeout(30):
            while (names.RESOURCE_ENI_IP in self._tried(pod)) is not wanted:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.05)

    def _tried(self, pod: str) -> str:
        return self.api.kubectl("create", "--dry-run=server", "--filename=-", "--output=json", stdin=pod)

    @asynccontextmanager
    async def kwok(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Put kwok in the place of kubelets: pods that are bound run.

        Without leases: those of 5,000 nodes, and nothing else, take more than a core.
        """
        stages = self.folder / "stages.yaml"
        stages.write_text(_STAGES)
        argv = [
            str(ensure(["kwok"]).path("kwok")),
            f"--kubeconfig={self.api.kubeconfig('kwok', 'system:masters')}",
            f"--config={stages}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=0",
        ]
        async with self._process(argv, "kwok") as process:
            yield process

    @asynccontextmanager
    async def _process(self, argv: list[str], name: str) -> AsyncIterator[asyncio.subprocess.Process]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log, env=dict(os.environ))
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), 10)
                except TimeoutError:
                    process.kill()
                    await process.wait()


def _pod(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "none", **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container], "automountServiceAccountToken": False, **spec},
    }


@asynccontextmanager
async def scheduling(api: ApiServer, folder: Path) -> AsyncIterator[Scheduling]:
    """A client of the API server's, and a folder for the processes."""
    connection = await from_kubeconfig(api.kubeconfig("admin", "system:masters"))
    async with KubeClient(connection) as client:
        yield Scheduling(api, client, folder)


def prepare(api: ApiServer) -> None:
    """CRDs, rights, and the service account of pods, which a controller would make."""
    api.kubectl("create", "serviceaccount", "default")
    for name in ("nodenetwork.yaml", "vswitch.yaml", "extender.yaml"):
        api.kubectl("apply", "--filename", str(MANIFESTS / "base" / name))
