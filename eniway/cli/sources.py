"""Where verbs look: this node's daemon by its debug socket, or a cluster by its API server.

From outside a cluster, what only a daemon knows is asked of it by running this program in its pod: whoever may use
`kubectl exec` there may ask, and no daemon has to listen on a network for it.
"""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import aiohttp
import msgspec

from eniway import names
from eniway.errors import EniwayError, InvalidRequest, KubeError, NotReady
from eniway.kube import exec as remote
from eniway.kube.client import KubeClient, from_kubeconfig

NAMESPACE: Final = "kube-system"
SELECTOR: Final = "app.kubernetes.io/name=eniway-node"
CONTAINER: Final = "node"
_AT_ONCE: Final = 16
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_LONG: Final = aiohttp.ClientTimeout(total=300)
"""Of answers for which kubelet, the cloud and every pod's namespace are asked."""
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found, and what could not be asked."""

    found: list[Object]
    failed: list[str]


class Source(Protocol):
    """A node or a cluster. Each object found says its ``node``."""

    async def nodes(self) -> Answer:
        """{node, unhealthy, status}; ``status`` is the NodeNetwork's, None without one."""

    async def leases(self) -> Answer:
        """Leases, as eniway/node/debug.py tells them."""

    async def requests(self, pod: str) -> Answer:
        """The last CNI requests of the pod ``namespace/name``."""

    async def examine(self, node: str | None, *, fix: bool) -> Answer:
        """{node, differences, unread} of one node or all of them, as eniway/node/doctor.py tells; ``fix``: mended."""


@asynccontextmanager
async def source(options: Namespace, socket: Path = Path(names.DEBUG_SOCKET)) -> AsyncIterator[Source]:
    """What the options choose. KubeError where there is neither."""
    if options.kubeconfig is None and os.path.exists(socket):  # noqa: PTH110, ASYNC240 -- once, before anything runs
        yield OneNode(socket)
    else:
        async with KubeClient(await from_kubeconfig(options.kubeconfig)) as client:
            yield Cluster(client)


class OneNode:
    """The node that this program runs on."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def nodes(self) -> Answer:
        """This one."""
        return Answer([await self._get("/node")], [])

    async def leases(self) -> Answer:
        """Its leases."""
        return await self._list("/leases")

    async def requests(self, pod: str) -> Answer:
        """What it did for the pod."""
        return await self._list(f"/requests?pod={quote(pod, safe='')}")

    async def examine(self, node: str | None, *, fix: bool) -> Answer:
        """This one; InvalidRequest for another."""
        here = (await self._get("/node"))["node"]
        if node not in {None, here}:
            raise InvalidRequest(f"NODE: expected {here}, or --kubeconfig to ask another node than this, got {node!r}")
        return Answer([await self._get("/doctor", method="POST" if fix else "GET", within=_LONG)], [])

    async def _list(self, path: str) -> Answer:
        node = (await self._get("/node"))["node"]
        return Answer([{"node": node, **one} for one in await self._get(path)], [])

    async def _get(self, path: str, *, method: str = "GET", within: aiohttp.ClientTimeout = _TIMEOUT) -> Any:
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket)), timeout=within) as session,
                session.request(method, f"http://daemon{path}") as response,
            ):
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NotReady(f"the node's daemon does not answer at {self._socket}: {error}") from error
        if response.status != 200:
            raise NotReady(f"the node's daemon: {raw.decode(errors='replace').strip()}")
        return msgspec.json.decode(raw)


class Cluster:
    """All nodes of a cluster."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def nodes(self) -> Answer:
        """Every Node that has a NodeNetwork or a daemon."""
        listed = await self._client.request("GET", f"/apis/{names.API_VERSION}/nodenetworks")
        status = {one["metadata"]["name"]: one.get("status") for one in listed["items"]}
        daemons = await self._daemons()
        return Answer(
            [
                {"node": node, "unhealthy": _unhealthy(daemons.get(node)), "status": status.get(node)}
                for node in sorted(status.keys() | daemons.keys())
            ],
            [],
        )

    async def leases(self) -> Answer:
        """Asked of every daemon."""
        return await self._ask(await self._daemons(), ["eniway", "pods", "--output=json"])

    async def requests(self, pod: str) -> Answer:
        """Asked of the daemon of the pod's node, or of all where there is no such pod any more."""
        daemons = await self._daemons()
        namespace, _, name = pod.partition("/")
        try:
            placed = await self._client.request("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        except KubeError as error:
            if error.status != 404:
                raise
        else:
            node = placed["spec"].get("nodeName", "")
            if not node:
                raise NotReady(f"pod {pod} is not on a node yet: nothing has been done for it")
            if node not in daemons:
                raise NotReady(f"node {node} of pod {pod} has no daemon of eniway")
            daemons = {node: daemons[node]}
        return await self._ask(daemons, ["eniway", "trace", pod, "--output=json"])

    async def examine(self, node: str | None, *, fix: bool) -> Answer:
        """Asked of the daemon of one node, or of all; a node without one is told of as a failure."""
        daemons = await self._daemons()
        nodes = {one["node"] for one in (await self.nodes()).found} if node is None else {node}
        argv = ["eniway", "doctor", "--output=json", *(["--fix"] if fix else [])]
        answer = await self._ask({name: daemons[name] for name in sorted(nodes & daemons.keys())}, argv)
        return Answer(
            answer.found, [*answer.failed, *(f"{name}: no daemon" for name in sorted(nodes - daemons.keys()))]
        )

    async def _daemons(self) -> dict[str, Object]:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        listed = await self._client.request("GET", path, query={"labelSelector": SELECTOR})
        return {one["spec"]["nodeName"]: one for one in listed["items"] if one["spec"].get("nodeName")}

    async def _ask(self, daemons: dict[str, Object], argv: Sequence[str]) -> Answer:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(pod: Object) -> list[Object]:
            async with gate:
                status, out, err = await remote.run(
                    self._client, namespace=NAMESPACE, pod=pod["metadata"]["name"], container=CONTAINER, argv=argv
                )
            # With 1 there is an answer where a part of it could not be had.
            if status not in {0, 3} and not (status == 1 and out):
                raise NotReady(err.decode(errors="replace").strip() or f"exit status {status}")
            found: list[Object] = msgspec.json.decode(out)
            return found

        answers = await asyncio.gather(*(one(pod) for pod in daemons.values()), return_exceptions=True)
        found: list[Object] = []
        failed: list[str] = []
        for node, answer in sorted(zip(daemons, answers, strict=True), key=lambda pair: pair[0]):
            if isinstance(answer, EniwayError):
                failed.append(f"{node}: {answer}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found.extend(answer)
        return Answer(found, failed)


def _unhealthy(pod: Object | None) -> str | None:
    """What is wrong with a daemon's pod, or None."""
    if pod is None:
        return "no daemon"
    conditions = {one["type"]: one for one in pod.get("status", {}).get("conditions", [])}
    ready = conditions.get("Ready", {})
    return None if ready.get("status") == "True" else str(ready.get("reason") or "not ready")
