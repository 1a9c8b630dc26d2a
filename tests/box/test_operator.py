"""The operator as a process: a real API server, its real rights, the cloud over real HTTP."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientError, ClientSession

from tests.box.apiserver import ApiServer, free_ports
from tests.box.route_world import RouteWorld, route_world
from vpcbox.faults import Kind, Rule

USER = "system:serviceaccount:kube-system:eniway-operator"
AT_ANOTHER_PACE = """
import json, sys
from eniway.cli.main import main
from eniway.operator import reclaim, routes
for name, seconds in json.loads(sys.argv.pop(1)).items():
    module, constant = name.split(".")
    assert hasattr(globals()[module], constant)
    setattr(globals()[module], constant, seconds)
sys.exit(main())
"""
CONDITION = {
    "type": "NetworkUnavailable",
    "status": "True",
    "reason": "NoRouteCreated",
    "message": "Node created without a route",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


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

    async def node_network(
        self, number: int, *, instance: str, most: int | None = None, ready: str = "True", sufficient: str = "True"
    ) -> None:
        """What the daemon of a node says of itself; ``most``: addresses, with the condition SufficientIP."""
        name = f"node-{number}"
        owner = {
            "apiVersion": "v1",
            "kind": "Node",
            "name": name,
            "uid": (await self.get("node", name))["metadata"]["uid"],
        }
        said: dict[str, Any] = {"conditions": [{**CONDITION, "type": "Ready", "status": ready, "reason": "Ready"}]}
        if most is not None:
            none = dict.fromkeys(("inService", "growable", "cooling", "orphaned", "used", "free"), 0)
            said["capacity"] = {"addresses": {**none, "most": most}}
            said["defaultNetwork"] = "shared"
            said["conditions"] += [{**CONDITION, "type": "SufficientIP", "status": sufficient, "reason": "Free"}]
        head = {"apiVersion": "eniway.io/v1alpha1", "kind": "NodeNetwork"}
        body = {**head, "metadata": {"name": name, "ownerReferences": [owner]}}
        status = {**head, "metadata": {"name": name}, "status": {"instanceID": instance, **said}}
        apply = ["apply", "--server-side", "--field-manager=eniway-node", "--filename=-"]
        await asyncio.to_thread(self.api.kubectl, *apply, stdin=json.dumps(body))
        await asyncio.to_thread(self.api.kubectl, *apply, "--subresource=status", stdin=json.dumps(status))

    async def conditions(self, kind: str, number: int) -> dict[str, tuple[str, str]]:
        found = (await self.get(kind, f"node-{number}")).get("status", {}).get("conditions", [])
        return {condition["type"]: (condition["status"], condition["reason"]) for condition in found}

    async def lease(self) -> dict[str, Any]:
        spec: dict[str, Any] = (await self.get("lease", "eniway-operator", "--namespace=kube-system"))["spec"]
        return spec

    async def eni(self, instance: str, *, cluster: str = "box") -> str:
        """An ENI that says it is that instance's, attached to none."""
        tags = {"eniway.io/cluster": cluster, "eniway.io/instance": instance}
        made = await self.cloud.world.create_eni(self.cloud.vswitch_id, [self.cloud.group_id], tags=tags)
        return made.id

    async def release(self, number: int, instance: str) -> None:
        """An instance and its Node are gone, without a word to anybody."""
        await self.cloud.world.power.stop(instance)
        await self.cloud.world.power.release(instance)
        await asyncio.to_thread(self.api.kubectl, "delete", "node", f"node-{number}")

    async def events(self, reason: str) -> list[str]:
        """What was told under a reason: «Kind name: message»."""
        found = (await self.get("events", "--all-namespaces", f"--field-selector=reason={reason}"))["items"]
        about = [event["involvedObject"] for event in found]
        return [f"{a['kind']} {a['name']}: {e['message']}" for a, e in zip(about, found, strict=True)]

    @contextlib.asynccontextmanager
    async def operator(
        self, name: str, *, port: int = 0, dry_run: bool = False, pace: Mapping[str, float] | None = None
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A running replica; killed at the end if it is still there.

        ``port``: of its metrics. ``pace``: seconds in the place of constants, by module and name.
        """
        path, port = self.cloud.directory / f"{name}.yaml", port or free_ports(1)[0]
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
            "operator": {
                "region": "cn-box",
                "vpc": self.cloud.vpc_id,
                "metrics_address": f"127.0.0.1:{port}",
                "dry_run": dry_run,
            },
        }
        path.write_text(yaml.safe_dump(config))
        kubeconfig = self.api.kubeconfig(USER, "system:serviceaccounts")
        program = ["-c", AT_ANOTHER_PACE, json.dumps(pace)] if pace else ["-m", "eniway.cli.main"]
        argv = [sys.executable, *program, "operator", f"--config={path}", f"--kubeconfig={kubeconfig}"]
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
    for kind in ("nodes", "nodenetworks", "vswitches"):
        api.kubectl("delete", kind, "--all", "--wait=false")
    api.kubectl("delete", "lease", "--namespace=kube-system", "--all")


async def _healthy(port: int) -> bool:
    try:
        async with ClientSession() as http, http.get(f"http://127.0.0.1:{port}/healthz") as answer:
            return answer.status == 200
    except ClientError:
        return False


async def _metrics(port: int) -> list[str]:
    async with ClientSession() as http, http.get(f"http://127.0.0.1:{port}/metrics") as answer:
        return (await answer.text()).splitlines()


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


async def test_nodes_get_their_count_of_addresses_and_keep_it(cluster: Cluster) -> None:
    """``aliyun/eni-ip`` and SufficientIP, beside what kubelet says; again when it registers anew and forgets."""
    instance = await cluster.node(0)
    await cluster.node_network(0, instance=instance, most=28)
    kubelets = {"cpu": "4", "aliyun/eni": "2"}
    path = ["patch", "node", "node-0", "--subresource=status", "--type=merge"]

    async def counted() -> bool:
        status = (await cluster.get("node", "node-0"))["status"]
        found = (status.get(what, {}) for what in ("capacity", "allocatable"))
        return all(resources == {**kubelets, "aliyun/eni-ip": "28"} for resources in found)

    async with cluster.operator("one"):
        for forgotten in ({}, {"aliyun/eni-ip": None}):
            said = {**kubelets, **forgotten}
            patch = json.dumps({"status": {"capacity": said, "allocatable": said}})
            await asyncio.to_thread(cluster.api.kubectl, *path, f"--patch={patch}")
            await until(counted, what="the count stands on the Node")
        assert (await cluster.conditions("node", 0))["SufficientIP"] == ("True", "Free")
        # A daemon that does not know takes nothing back
        await cluster.node_network(0, instance=instance, most=0, ready="Unknown", sufficient="False")

        async def short() -> bool:
            return (await cluster.conditions("node", 0))["SufficientIP"] == ("False", "Free")

        await until(short, what="SufficientIP is False")
        assert await counted()


async def test_a_conflict_is_told_on_the_node_and_the_route_is_made_when_it_is_resolved(cluster: Cluster) -> None:
    """An Event and a condition name the stranger's entry; when it is gone, nobody has to tell the operator."""
    stranger = await cluster.cloud.add("172.20.5.0/24", instance_id=await cluster.cloud.instance("stranger"))
    instance = await cluster.node(5)
    await cluster.node_network(5, instance=instance)
    async with cluster.operator("one", pace={"routes.RESYNC": 3.0}):

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

        await until(made, what="the route, at the next look")


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


async def test_a_released_instance_leaves_neither_enis_nor_a_route(cluster: Cluster) -> None:
    """Within a round of its Node's going; what is of others, or of the living, is not touched. An Event says so."""
    one, two = [await cluster.node(number) for number in range(2)]
    left = [await cluster.eni(one), await cluster.eni(one)]
    stay = [await cluster.eni(one, cluster="theirs"), await cluster.eni(two)]
    async with cluster.operator("one"):

        async def routed() -> bool:
            return len(cluster.cloud.custom) == 2

        await until(routed, what="both routes")
        await cluster.release(0, one)

        async def clean() -> bool:
            return set(cluster.cloud.custom) == {"172.20.1.0/24"} and not cluster.cloud.world.enis.keys() & set(left)

        await until(clean, what="its ENIs and its route are gone", seconds=20)
        assert set(stay) <= cluster.cloud.world.enis.keys()

        async def told() -> bool:
            return any(one in text for text in await cluster.events("ReclaimedENIs"))

        await until(told, what="an Event")


async def test_an_instance_that_comes_and_goes_between_two_rounds_is_cleaned_up_behind(cluster: Cluster) -> None:
    """Its going is heard of, though no round has seen it come: the next one would be an hour later."""
    await cluster.node(0)
    (port,) = free_ports(1)
    async with cluster.operator("one", port=port, pace={"reclaim.SOONEST": 3600.0}):

        async def looked() -> bool:
            return 'eniway_reclaim_rounds_total{result="done"} 1.0' in await _metrics(port)

        await until(looked, what="its first round")
        gone = await cluster.node(1)

        async def routed() -> bool:
            return len(cluster.cloud.custom) == 2

        await until(routed, what="the operator knows the node")
        left = await cluster.eni(gone)
        await cluster.release(1, gone)

        async def clean() -> bool:
            return left not in cluster.cloud.world.enis

        await until(clean, what="its ENI is gone")


async def test_the_stock_of_the_vswitches_is_told(cluster: Cluster) -> None:
    """Of those that pods draw on, with when it was read; an empty one has an Event, a former one goes."""
    cluster.cloud.faults.add(Rule(Kind.VSWITCH_EMPTY, cluster.cloud.vswitch_id))
    former = {"apiVersion": "eniway.io/v1alpha1", "kind": "VSwitch", "metadata": {"name": "vsw-former"}}
    await asyncio.to_thread(cluster.api.kubectl, "create", "--filename=-", stdin=json.dumps(former))
    async with cluster.operator("one"):

        async def told() -> bool:
            found = {item["metadata"]["name"]: item for item in (await cluster.get("vswitches"))["items"]}
            return found.keys() == {cluster.cloud.vswitch_id} and "status" in found[cluster.cloud.vswitch_id]

        await until(told, what="a VSwitch with a status, and no other")
        status = (await cluster.get("vswitch", cluster.cloud.vswitch_id))["status"]
        age = datetime.now(UTC) - datetime.fromisoformat(status.pop("readAt"))
        assert timedelta() <= age < timedelta(minutes=1)
        assert status == {"zone": "cn-box-a", "cidr": "10.0.0.0/20", "available": 0}

        async def warned() -> bool:
            return any(cluster.cloud.vswitch_id in text for text in await cluster.events("VSwitchEmpty"))

        await until(warned, what="an Event on the VSwitch")


async def test_a_dry_run_changes_neither_enis_nor_routes(cluster: Cluster) -> None:
    """It counts what it would do, and says of no route that it stands."""
    one, two = [await cluster.node(number, unavailable=True) for number in range(2)]
    left = await cluster.eni(one)
    await cluster.eni(two)
    await cluster.release(0, one)
    (port,) = free_ports(1)
    async with cluster.operator("one", port=port, dry_run=True):

        async def counted() -> bool:
            pending = {f'eniway_dry_run_pending{{what="{what}"}} 1.0' for what in ("create_route", "delete_eni")}
            return pending <= {*await _metrics(port)}

        await until(counted, what="one of each is counted")
        assert not cluster.cloud.custom
        assert left in cluster.cloud.world.enis
        assert (await cluster.conditions("node", 1))["NetworkUnavailable"][0] == "True"
