"""The extender beside a real kube-scheduler: where pods go, what they are told, when they are woken."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.box.apiserver import ApiServer
from tests.box.scheduling import Scheduling, scheduling, words


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


async def test_pods_that_sleep_are_woken_though_the_extender_was_started_anew(cluster: Scheduling) -> None:
    """Room comes while it is away, and room comes after it is back: nobody else would wake them for five minutes."""
    await cluster.all(cluster.node(name, addresses=words(0, most=10)) for name in ("a", "b"))
    async with cluster.scheduler():
        async with cluster.extender():
            await cluster.all(map(cluster.pod, ("first", "second")))
            for name in ("first", "second"):
                assert "2 no free address on its ENIs" in await cluster.why(name)
        await cluster.network("b", addresses=words(1, most=10))
        async with cluster.extender():
            await cluster.until(lambda pods: any(pods.values()))
        async with cluster.extender():
            await cluster.network("a", addresses=words(1, most=10))
            found = await cluster.until(lambda pods: all(pods.values()))
            assert set(found.values()) == {"a", "b"}


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


async def test_pods_wait_for_an_extender_that_is_away_and_go_on(cluster: Scheduling) -> None:
    """As shipped, `ignorable: false`: none is bound without it; when it is back nothing else need happen."""
    await cluster.node("a", addresses=words(2))
    async with cluster.scheduler():
        await cluster.all(cluster.pod(f"p{number}") for number in range(3))
        assert "filter" in await cluster.why("p0")
        assert set((await cluster.pods()).values()) == {""}
        async with cluster.extender():
            await cluster.until(lambda pods: sum(map(bool, pods.values())) == 2)


async def test_native_counts_hold_while_the_extender_is_away_and_ignorable(cluster: Scheduling) -> None:
    """20 places on 5 nodes, 25 pods; the extender dies and stays away: 20 are bound, 4 a node, the others hear why."""
    async with cluster.native_counts():
        await cluster.all(cluster.node(f"n{number}", addresses=words(4), native=4) for number in range(5))
        async with cluster.extender() as process, cluster.scheduler(ignorable=True):
            await cluster.all(cluster.pod(f"p{number:02}") for number in range(4))
            await cluster.until(lambda pods: all(pods.values()))
            process.kill()
            await process.wait()
            await cluster.all(cluster.pod(f"q{number:02}") for number in range(21))
            found = await cluster.until(lambda pods: sum(map(bool, pods.values())) >= 20)
            late = next(name for name, node in found.items() if not node)
            assert "5 Insufficient aliyun/eni-ip" in await cluster.why(late)
            assert Counter(filter(None, (await cluster.pods()).values())) == {f"n{number}": 4 for number in range(5)}


async def test_with_bindverb_the_extender_binds_and_nothing_beyond_what_is_there(cluster: Scheduling) -> None:
    """120 places on 20 nodes, 130 pods, four bindings at once; killed in between. All places are taken, none twice."""
    await cluster.all(cluster.node(f"n{number:02}", addresses=words(6)) for number in range(20))
    async with cluster.scheduler(bindVerb="bind"):
        creating = asyncio.ensure_future(cluster.all(cluster.pod(f"p{number:03}") for number in range(130)))
        async with cluster.extender(binds=4) as process:
            await cluster.until(lambda pods: sum(map(bool, pods.values())) >= 40)
            process.kill()
            await process.wait()
        await creating
        async with cluster.extender(binds=4), ClientSession() as session:
            await cluster.until(lambda pods: sum(map(bool, pods.values())) >= 120, seconds=60)
            counts = Counter(filter(None, (await cluster.pods()).values()))
            async with session.get(f"{cluster.extender_url}/metrics") as answer:
                assert 'eniway_extender_request_seconds_count{result="some",verb="bind"}' in await answer.text()
    assert counts == {f"n{number:02}": 6 for number in range(20)}


async def test_a_bind_that_finds_no_place_or_no_turn_is_refused(cluster: Scheduling) -> None:
    """Nothing is sent then. The API server's own refusal is passed on; one that says nothing keeps others out."""
    await cluster.node("a", addresses=words(3))
    await cluster.all(map(cluster.pod, ("one", "two", "three", "four")))
    asked = {
        name: {"PodName": name, "PodNamespace": "default", "PodUID": await cluster.uid(name), "Node": "a"}
        for name in await cluster.pods()
    }
    async with cluster.extender(binds=1), ClientSession() as session:

        async def bind(name: str, **changes: str) -> str:
            while True:
                async with session.post(f"{cluster.extender_url}/bind", json=asked[name] | changes) as answer:
                    error: str = (await answer.json())["Error"]
                # Its watch may be behind
                if "has not told of the pod yet" not in error:
                    return error

        assert await bind("one") == ""
        assert "the pod is bound to a already" in await bind("one")
        assert 'pods "other" not found' in await bind("two", PodName="other")
        with cluster.api.stalled():
            waiting = {asyncio.ensure_future(bind(name)): name for name in ("two", "three")}
            (refused,), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert refused.result() == "eniway: 1 bindings are under way: try again"
        (sent,) = waiting.keys() - {refused}
        assert await sent == ""
        assert await bind(waiting[refused]) == ""
        assert await bind("four") == "eniway: the node has no place for the pod any more: try again"
        assert await cluster.pods() == {"one": "a", "two": "a", "three": "a", "four": ""}


async def test_memory_is_bounded_whoever_sends_what(cluster: Scheduling) -> None:
    """Two hundred connections with a megabyte each that does not end, and made-up pods by the thousand."""
    await cluster.node("a", addresses=words(1))
    async with cluster.extender(max_request_bytes=1 << 20) as process, ClientSession() as session:
        url = f"{cluster.extender_url}/filter"
        before = memory(process.pid)
        head = f"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 20}\r\n\r\n".encode()
        hostile = []
        for _ in range(200):
            _, writer = await asyncio.open_connection("127.0.0.1", cluster.extender_port)
            writer.write(head + b" " * ((1 << 20) - 1))
            hostile.append(writer)
        pod = {"metadata": {"uid": ""}, "spec": {"containers": []}}
        for number in range(6000):
            pod["metadata"] = {"uid": f"made-up-{number:04}"}
            async with session.post(url, json={"Pod": pod, "NodeNames": ["a"]}) as answer:
                last = (await answer.json())["Error"]
        assert "has not told of the pod yet" in last
        # 200 times what comes in before anybody looks, eight bodies
        assert memory(process.pid) < before + (128 << 20)
        for writer in hostile:
            writer.close()
        pod["metadata"] = {"uid": "made-up-0000"}
        async with session.post(url, json={"Pod": pod, "NodeNames": ["a"]}) as answer:
            assert (await answer.json())["NodeNames"] == ["a"]


def memory(pid: int) -> int:
    """The most that the process has had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


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
