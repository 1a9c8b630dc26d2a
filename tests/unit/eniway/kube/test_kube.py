import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from eniway.errors import KubeError
from eniway.kube.client import Connection, KubeClient, in_cluster
from eniway.kube.events import Event, Recorder
from eniway.kube.nodenetwork import NodeNetworkPublisher, urgent
from eniway.model import PodRef, PodUid


class ApiServer:
    """Records requests and answers as told: the HTTP side of an API server, nothing of its meaning."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.arrived = asyncio.Condition()
        self.failures = 0
        self.uid = "node-uid"

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self.arrived:
            self.requests.append((request.method, request.path, json.loads(body) if body else {}))
            self.arrived.notify_all()
        if self.failures:
            self.failures -= 1
            return web.json_response({"kind": "Status", "message": "the server is tired"}, status=503)
        return web.json_response({"metadata": {"uid": self.uid}})

    async def wait_for(self, count: int) -> None:
        async with self.arrived, asyncio.timeout(20):
            await self.arrived.wait_for(lambda: len(self.requests) >= count)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[ApiServer, KubeClient]]:
    api = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    async with TestServer(app) as server:
        connection = Connection(str(server.make_url("")).rstrip("/"), ssl.create_default_context(), lambda: "t0ken")
        async with KubeClient(connection) as client:
            yield api, client


async def test_an_error_carries_status_and_the_servers_words() -> None:
    """What the API server says is what the log says."""
    async with serving() as (api, client):
        api.failures = 1
        with pytest.raises(KubeError, match="the server is tired") as caught:
            await client.request("GET", "/api/v1/nodes/n")
        assert caught.value.status == 503


async def test_no_server_is_an_error_without_status() -> None:
    """Unreachable and refused are told apart."""
    connection = Connection("http://127.0.0.1:9", ssl.create_default_context(), lambda: None)
    async with KubeClient(connection) as client:
        with pytest.raises(KubeError) as caught:
            await client.request("GET", "/version")
        assert caught.value.status is None


def test_outside_a_pod_the_missing_variables_are_named() -> None:
    """A daemon started by hand says what it lacks."""
    with pytest.raises(KubeError, match="KUBERNETES_SERVICE_HOST"):
        in_cluster({})


async def test_a_status_is_published_and_a_failed_write_is_tried_again() -> None:
    """The object is derived: nothing is lost while the API server is away."""
    async with serving() as (api, client):
        api.failures = 1

        async def changed() -> None:
            await asyncio.Event().wait()

        status: dict[str, Any] = {"capacity": {"addresses": {"free": 3}}}
        publisher = NodeNetworkPublisher(
            client, node="n", status=lambda: dict(status), changed=changed, random=Random(1)
        )
        task = asyncio.ensure_future(publisher.run())
        await api.wait_for(4)
        task.cancel()
        assert [(method, path) for method, path, _ in api.requests] == [
            ("GET", "/api/v1/nodes/n"),
            ("GET", "/api/v1/nodes/n"),
            ("PATCH", "/apis/eniway.io/v1alpha1/nodenetworks/n"),
            ("PATCH", "/apis/eniway.io/v1alpha1/nodenetworks/n/status"),
        ]
        assert api.requests[-1][2]["status"] == status
        assert api.requests[2][2]["metadata"]["ownerReferences"][0]["uid"] == "node-uid"


async def test_one_that_is_made_anew_is_written_under_the_node_as_it_is_by_then() -> None:
    """The garbage collector took it with an earlier Node of the name: it is not left to a dead owner."""
    async with serving() as (api, client):
        news: asyncio.Queue[int] = asyncio.Queue()
        free = 1

        async def changed() -> None:
            nonlocal free
            free = await news.get()

        publisher = NodeNetworkPublisher(
            client,
            node="n",
            status=lambda: {"capacity": {"addresses": {"free": free}}},
            changed=changed,
            random=Random(1),
            interval=0,
        )
        task = asyncio.ensure_future(publisher.run())
        await api.wait_for(3)
        api.uid = "a new one's"
        news.put_nowait(2)
        await api.wait_for(8)
        task.cancel()
        heads = [body["metadata"] for _, path, body in api.requests if path.endswith("nodenetworks/n")]
        written = [head["ownerReferences"][0]["uid"] for head in heads]
        assert written == ["node-uid", "node-uid", "a new one's"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(None, 0, True), (0, 1, True), (1, 0, False), (2, 1, False), (1, 2, False)],
    ids=["first", "none to some", "some to none", "fewer", "more"],
)
def test_only_the_first_status_and_none_to_some_are_urgent(before: int | None, after: int, expected: bool) -> None:
    """A waiting pod is woken at once; churn is not worth a write each."""

    def status(free: int) -> dict[str, Any]:
        return {"capacity": {"addresses": {"free": free}}}

    assert urgent(None if before is None else status(before), status(after)) is expected


async def test_a_repeated_event_is_told_once() -> None:
    """Ten minutes of the same failure are one line in kubectl describe."""
    async with serving() as (api, client):
        recorder = Recorder(client, node="n", clock=lambda: 0.0, new_id=lambda: "1")
        about = PodRef("default", "web", PodUid("u"))
        for reason in ("BadAnnotation", "BadAnnotation", "Waiting"):
            recorder.tell(Event(about, "Warning", reason, "text"))
        task = asyncio.ensure_future(recorder.run())
        await api.wait_for(2)
        task.cancel()
        assert [body["reason"] for _, _, body in api.requests] == ["BadAnnotation", "Waiting"]
        assert api.requests[0][2]["involvedObject"]["uid"] == "u"
