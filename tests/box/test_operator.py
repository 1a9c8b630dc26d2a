"""The operator as a process: a real API server, its real rights, the cloud over real HTTP."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientError, ClientSession

from tests.box.apiserver import ApiServer, apiserver, free_ports
from tests.box.route_world import RouteWorld, route_world

MANIFESTS = Path(__file__).parents[2] / "manifests/base"
USER = "system:serviceaccount:kube-system:eniway-operator"
CONDITION = {
    "type": "NetworkUnavailable",
    "status": "True",
    "reason": "NoRouteCreated",
    "message": "Node created without a route",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with apiserver(tmp_path_factory.mktemp("apiserver")) as server:
        for name in ("nodenetwork.yaml", "operator.yaml"):
            server.kubectl("apply", "--filename", str(MANIFESTS / name))
        yield server


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[RouteWorld]:
    async with route_world(tmp_path) as made:
        yield made


class Cluster:
    """Nodes in the API server, and operators that keep their routes."""

    def __init__(self, api: ApiServer, cloud: RouteWorld) -> None:
        self.api = api
        self.cloud = cloud

    async def get(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await asyncio.to_thread(self.api.kubectl, "get", *words, "--output=json"))
        return found

    async def node(self, number: int, *, pod_cidr: str = "", unavailable: bool = False) -> str:
        """A Node on an instance of its own, as kubelet and controller manager make it; its instance's id."""
        name, instance = f"node-{number}", await self.cloud.instance(f"node-{number}")
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"podCIDR": pod_cidr or f"172.20.{number}.0/24", "providerID": f"cn-box.{instance}"},
        }
        await asyncio.to_thread(self.api.kubectl, "create", "--filename=-", stdin=json.dumps(node))
        if unavailable:
            patch = json.dumps({"status": {"conditions": [CONDITION]}})
            await asyncio.to_thread(self.api.kubectl, "patch", "node", name, "--subresource=status", f"--patch={patch}")
        return instance

    async def node_network(self, number: int, *, instance: str) -> None:
        """What the daemon of a node says of itself."""
        name = f"node-{number}"
        owner = {
            "apiVersion": "v1",
            "kind": "Node",
            "name": name,
            "uid": (await self.get("node", name))["metadata"]["uid"],
        }
        ready = {**CONDITION, "type": "Ready", "reason": "Ready"}
        head = {"apiVersion": "eniway.io/v1alpha1", "kind": "NodeNetwork"}
        body = {**head, "metadata": {"name": name, "ownerReferences": [owner]}}
        status = {**head, "metadata": {"name": name}, "status": {"instanceID": instance, "conditions": [ready]}}
        apply = ["apply", "--server-side", "--field-manager=eniway-node", "--filename=-"]
        await asyncio.to_thread(self.api.kubectl, *apply, stdin=json.dumps(body))
        await asyncio.to_thread(self.api.kubectl, *apply, "--subresource=status", stdin=json.dumps(status))

    async def conditions(self, kind: str, number: int) -> dict[str, tuple[str, str]]:
        found = (await self.get(kind, f"node-{number}")).get("status", {}).get("conditions", [])
        return {condition["type"]: (condition["status"], condition["reason"]) for condition in found}

    async def lease(self) -> dict[str, Any]:
        spec: dict[str, Any] = (await self.get("lease", "eniway-operator", "--namespace=kube-system"))["spec"]
        return spec

    @contextlib.asynccontextmanager
    async def operator(self, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A running replica; killed at the end if it is still there."""
        path, (port,) = self.cloud.directory / f"{name}.yaml", free_ports(1)
        config = {
            "cluster": "box",
            "vswitches": [self.cloud.vswitch_id],
            "security_groups": [self.cloud.group_id],
            "service_cidr": "172.21.0.0/20",
            "cloud": {
                "endpoint": self.cloud.endpoint,
                "credentials": str(self.cloud.directory),
                "calls_per_minute": 500,
            },
            "operator": {"region": "cn-box", "vpc": self.cloud.vpc_id, "metrics_address": f"127.0.0.1:{port}"},
        }
        path.write_text(yaml.safe_dump(config))
        kubeconfig = self.api.kubeconfig(USER, "system:serviceaccounts")
        argv = [sys.executable, "-m", "eniway.cli.main", "operator", f"--config={path}", f"--kubeconfig={kubeconfig}"]
        with (self.cloud.directory / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *argv, env={**os.environ, "HOSTNAME": name}, stdout=log, stderr=log
            )
        try:
            await until(lambda: _healthy(port), what=f"operator {name} is up")
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
async def cluster(api: ApiServer, cloud: RouteWorld) -> AsyncIterator[Cluster]:
    yield Cluster(api, cloud)
    for kind in ("nodes", "nodenetworks"):
        api.kubectl("delete", kind, "--all", "--wait=false")
    api.kubectl("delete", "lease", "--namespace=kube-system", "--all")


async def _healthy(port: int) -> bool:
    try:
        async with ClientSession() as http, http.get(f"http://127.0.0.1:{port}/healthz") as answer:
            return answer.status == 200
    except ClientError:
        return False


async def until(holds: Callable[[], Awaitable[bool]], *, what: str, seconds: float = 60.0) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await holds():  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"not within {seconds} s: {what}")


async def test_nodes_get_their_routes_and_learn_of_it(cluster: Cluster) -> None:
    """The route stands before NetworkUnavailable is cleared; the NodeNetwork says so beside what its daemon says."""
    instances = [await cluster.node(number, unavailable=number == 0) for number in range(3)]
    await cluster.node_network(0, instance=instances[0])
    async with cluster.operator("one"):

        async def cleared() -> bool:
            return all(
                [
                    (await cluster.conditions("node", number)).get("NetworkUnavailable") == ("False", "RouteCreated")
                    for number in range(3)
                ]
            )

        await until(cleared, what="NetworkUnavailable is False")
        routes = {destination: entry.next_hop_id for destination, entry in cluster.cloud.custom.items()}
        assert routes == {f"172.20.{number}.0/24": instance for number, instance in enumerate(instances)}

        async def told() -> bool:
            return "RouteReady" in await cluster.conditions("nodenetwork", 0)

        await until(told, what="RouteReady on the NodeNetwork")
        assert await cluster.conditions("nodenetwork", 0) == {
            "Ready": ("True", "Ready"),
            "RouteReady": ("True", "RouteCreated"),
        }


async def test_a_conflict_is_told_on_the_node_and_the_route_is_made_when_it_is_resolved(cluster: Cluster) -> None:
    """An Event and a condition name the stranger's entry; when it is gone, nobody has to tell the operator."""
    stranger = await cluster.cloud.add("172.20.5.0/24", instance_id=await cluster.cloud.instance("stranger"))
    instance = await cluster.node(5)
    await cluster.node_network(5, instance=instance)
    async with cluster.operator("one"):

        async def told() -> bool:
            return (await cluster.conditions("nodenetwork", 5)).get("RouteReady") == ("False", "RouteConflict")

        await until(told, what="RouteReady is False")
        assert "NetworkUnavailable" not in await cluster.conditions("node", 5)

        async def event() -> bool:
            events = (await cluster.get("events", "--namespace=default"))["items"]
            found = [e["message"] for e in events if e["involvedObject"]["name"] == "node-5"]
            return any(stranger.id in message for message in found)

        await until(event, what="an Event on the Node")
        assert cluster.cloud.custom["172.20.5.0/24"] == stranger
        await cluster.cloud.remove(stranger)

        async def made() -> bool:
            entry = cluster.cloud.custom.get("172.20.5.0/24")
            return entry is not None and entry.next_hop_id == instance

        await until(made, what="the route, at the next look", seconds=90)


async def test_one_of_two_acts_and_the_other_takes_over_when_it_dies(cluster: Cluster) -> None:
    """SIGKILL: the other leads when the Lease has run out. SIGTERM: the Lease is given back."""
    await cluster.node(0)
    async with cluster.operator("one") as first:

        async def routed(number: int) -> bool:
            return f"172.20.{number}.0/24" in cluster.cloud.custom

        await until(lambda: routed(0), what="the first route")
        async with cluster.operator("two") as second:
            lease = await cluster.lease()
            assert lease["holderIdentity"].startswith("one_")
            assert lease["leaseTransitions"] == 0
            first.send_signal(signal.SIGKILL)
            await first.wait()
            await cluster.node(1)
            await until(lambda: routed(1), what="the route that the second makes")
            lease = await cluster.lease()
            assert lease["holderIdentity"].startswith("two_")
            assert lease["leaseTransitions"] == 1
            second.send_signal(signal.SIGTERM)
            assert await second.wait() == 0
            assert not (await cluster.lease())["holderIdentity"]
