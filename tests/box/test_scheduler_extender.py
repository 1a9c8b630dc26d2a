"""The extender beside a real kube-scheduler: where pods go, what they are told, when they are woken."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.box.apiserver import ApiServer, apiserver
from tests.box.scheduling import Scheduling, prepare, scheduling, words


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with apiserver(tmp_path_factory.mktemp("apiserver")) as server:
        prepare(server)
        yield server


@pytest.fixture
async def cluster(api: ApiServer, tmp_path: Path) -> AsyncIterator[Scheduling]:
    async with scheduling(api, tmp_path) as made:
        yield made
        everything = await made.pods()
        await made.all(made.delete(name) for name in everything)
        nodes = json.loads(await made.client.read("/api/v1/nodes"))["items"]
        for path in ("/api/v1/nodes", "/apis/eniway.io/v1alpha1/nodenetworks"):
            await made.all(made.client.request("DELETE", f"{path}/{node['metadata']['name']}") for node in nodes)


async def test_pods_go_where_room_is_and_wait_where_there_is_none(cluster: Scheduling) -> None:
    """One of three nodes has three addresses: three pods go there, the fourth hears why not, and is woken in time."""
    await cluster.node("a", addresses=words(0, most=10))
    await cluster.node("b", addresses=words(3, most=10))
    await cluster.node("c", addresses=words(0, most=10))
    async with cluster.extender(), cluster.scheduler():
        await cluster.all(cluster.pod(f"p{number}") for number in range(3))
        assert set((await cluster.until(lambda pods: all(pods.values()))).values()) == {"b"}
        await cluster.pod("late")
        assert "3 no free address on its ENIs" in await cluster.why("late")
        await cluster.pod("of-the-host", hostNetwork=True)
        await cluster.until(lambda pods: bool(pods["of-the-host"]))
        # Something free on another node, and nothing else happens in the cluster
        await cluster.network("c", addresses=words(1, most=10))
        found = await cluster.until(lambda pods: bool(pods["late"]))
        assert found["late"] == "c"


async def test_a_pod_that_ends_gives_its_place_on_only_when_its_node_says_so(cluster: Scheduling) -> None:
    """Its address cools down first: until that is over, the next pod waits; then it is bound."""
    await cluster.node("a", addresses=words(1))
    async with cluster.extender(), cluster.scheduler():
        await cluster.pod("first")
        await cluster.until(lambda pods: bool(pods["first"]))
        await cluster.pod("second")
        await cluster.why("second")
        await cluster.delete("first")
        await cluster.network("a", addresses=words(1, cooling=1))
        await cluster.pod("third")
        assert "cooling" in await cluster.why("third")
        assert set((await cluster.pods()).values()) == {""}
        await cluster.network("a", addresses=words(1))
        await cluster.until(lambda pods: any(pods.values()))


async def test_nothing_is_bound_beyond_what_is_there_though_the_extender_is_killed(cluster: Scheduling) -> None:
    """120 places on 20 nodes, 130 pods; killed five times. All places are taken, none twice."""
    await cluster.all(cluster.node(f"n{number:02}", addresses=words(6)) for number in range(20))
    async with cluster.scheduler():
        creating = asyncio.ensure_future(cluster.all(cluster.pod(f"p{number:03}") for number in range(130)))
        for _ in range(5):
            async with cluster.extender() as process:
                before = sum(map(bool, (await cluster.pods()).values()))
                await cluster.until(lambda pods, least=before + 10: sum(map(bool, pods.values())) >= min(least, 120))  # type: ignore[misc]
                process.kill()
                await process.wait()
        await creating
        async with cluster.extender():
            found = await cluster.until(lambda pods: sum(map(bool, pods.values())) >= 120, seconds=60)
            await cluster.why(next(name for name, node in found.items() if not node))
            counts = Counter(node for node in (await cluster.pods()).values() if node)
    assert set(counts.values()) == {6}
    assert len(counts) == 20


async def test_a_node_in_a_crowd_is_found_though_only_a_sample_is_shown(cluster: Scheduling) -> None:
    """400 nodes, one of them with room, nothing else going on: the scheduler shows 188 at a time."""
    await cluster.all(
        cluster.node(f"n{number:03}", addresses=words(2 * (number == 377), most=9)) for number in range(400)
    )
    async with cluster.extender(), cluster.scheduler():
        await cluster.all(cluster.pod(f"p{number}") for number in range(2))
        found = await cluster.until(lambda pods: all(pods.values()))
        assert set(found.values()) == {"n377"}


async def test_hostile_requests_are_refused_in_words_and_do_no_harm(cluster: Scheduling) -> None:
    """Too large, not JSON, no pod, wrong types: an error that says so, HTTP 200, and the next one is answered."""
    await cluster.node("a", addresses=words(1))
    pod = {"metadata": {"uid": "u"}, "spec": {"containers": []}}
    async with cluster.extender(max_request_bytes=65536), ClientSession() as session:
        url = f"http://127.0.0.1:{cluster.extender_port}"
        for body, said in (
            (b"x" * 200_000, "more than 65536 bytes"),
            (b"{", "not ExtenderArgs"),
            (b'{"NodeNames": ["a"]}', "Pod.metadata.uid"),
            (b'{"Pod": {"metadata": {"uid": 7}}, "NodeNames": ["a"]}', "Expected `str`"),
        ):
            async with session.post(f"{url}/filter", data=body) as answer:
                assert answer.status == 200
                assert said in (await answer.json())["Error"]
            async with session.post(f"{url}/prioritize", data=body) as answer:
                assert await answer.json() == []
        async with session.post(f"{url}/filter", json={"Pod": pod, "NodeNames": ["a", "gone"]}) as answer:
            assert await answer.json() == {
                "Nodes": None,
                "NodeNames": ["a"],
                "FailedNodes": {},
                "FailedAndUnresolvableNodes": {},
                "Error": "",
            }
        whole = {"Pod": pod, "Nodes": {"items": [{"metadata": {"name": "a", "labels": {"x": "y"}}}]}}
        async with session.post(f"{url}/filter", json=whole) as answer:
            assert (await answer.json())["Nodes"]["items"] == whole["Nodes"]["items"]  # type: ignore[index]
