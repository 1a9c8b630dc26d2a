"""A copy of a collection, through everything that can happen to a watch."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from eniway.kube import client
from eniway.kube.client import Connection, KubeClient
from eniway.kube.reflector import Reflector, Store
from eniway.kube.views import Node

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Script:
    """Answers requests one after the other as told, and then keeps a watch open; remembers what was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        if self.replies:
            return await self.replies.pop(0)(request)
        return await watch()(request)


def node(name: str, version: int, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "spec": spec}


def listing(*items: dict[str, Any], version: int, more: str = "") -> Reply:
    async def reply(_request: web.Request) -> web.Response:
        return web.json_response(
            {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}
        )

    return reply


def status(code: int) -> Reply:
    async def reply(_request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "code": code, "message": "no"}, status=code)

    return reply


def watch(*events: tuple[str, dict[str, Any]], end: str = "never") -> Reply:
    """``end``: never, orderly, or torn (in the middle of a line)."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for kind, item in events:
            line = json.dumps({"type": kind, "object": item}).encode() + b"\n"
            half = len(line) // 2
            await response.write(line[:half])
            await response.write(line[half:])
        if end == "torn":
            await response.write(b'{"type": "ADDED", "obj')
            assert request.transport is not None
            request.transport.close()
        elif end == "never":
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return response

    return reply


@asynccontextmanager
async def reflecting(
    *replies: Reply, store: Store[Node] | None = None
) -> AsyncIterator[tuple[Script, Reflector[Node]]]:
    script = Script()
    script.replies += replies
    app = web.Application()
    app.router.add_route("GET", "/{path:.*}", script.handle)
    async with TestServer(app, shutdown_timeout=0.1) as server:
        connection = Connection(str(server.make_url("")).rstrip("/"), ssl.create_default_context(), lambda: None)
        async with KubeClient(connection) as kube:
            reflector = Reflector(kube, "/api/v1/nodes", Node, random=Random(1), store=store)
            task = asyncio.ensure_future(reflector.run())
            try:
                async with asyncio.timeout(30):
                    yield script, reflector
            finally:
                task.cancel()
                await asyncio.wait([task])


async def names(reflector: Reflector[Node], *expected: str) -> None:
    """Wait until these are the names."""
    while set(reflector.items) != set(expected):
        await reflector.changed(reflector.generation)


async def test_pages_make_one_list_and_the_watch_goes_on_from_it() -> None:
    """Nothing is shown before the list is whole."""
    async with reflecting(
        listing(node("a", 1), version=7, more="next"),
        listing(node("b", 2, podCIDR="172.20.1.0/24"), version=7),
        watch(("ADDED", node("c", 8)), ("DELETED", node("a", 9))),
    ) as (script, reflector):
        assert not reflector.items
        await reflector.synced()
        await names(reflector, "b", "c")
        assert reflector.items["b"].spec.pod_cidr == "172.20.1.0/24"
        assert [asked.get("continue") for asked in script.asked[:2]] == [None, "next"]
        assert script.asked[2]["resourceVersion"] == "7"


@pytest.mark.parametrize("end", ["orderly", "torn"])
async def test_a_watch_that_ends_is_taken_up_behind_its_last_event(end: str) -> None:
    """A bookmark counts as one; half a line does not."""
    async with reflecting(
        listing(node("a", 1), version=7),
        watch(("ADDED", node("b", 8)), ("BOOKMARK", node("", 12)), end=end),
        watch(("ADDED", node("c", 13))),
    ) as (script, reflector):
        await names(reflector, "a", "b", "c")
        assert script.asked[2]["resourceVersion"] == "12"


@pytest.mark.parametrize("gone", [status(410), watch(("ERROR", {"code": 410, "message": "too old"}), end="orderly")])
async def test_a_forgotten_version_is_listed_anew(gone: Reply) -> None:
    """Whether the watch is refused or told so; what vanished meanwhile is gone from the copy."""
    async with reflecting(
        listing(node("a", 1), node("b", 2), version=7), gone, listing(node("b", 2), version=20), watch()
    ) as (_, reflector):
        await reflector.synced()
        await names(reflector, "b")


async def test_a_watch_that_falls_silent_is_taken_up_behind_its_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs keeps its connections: bookmarks are asked for, and who hears none asks anew."""
    monkeypatch.setattr(client, "SILENT", 0.2)
    async with reflecting(
        listing(version=7),
        watch(("ADDED", node("a", 8))),
        watch(("ADDED", node("b", 9))),
    ) as (script, reflector):
        await names(reflector, "a", "b")
        assert script.asked[2]["resourceVersion"] == "8"
        assert script.asked[2]["allowWatchBookmarks"] == "true"


async def test_a_list_whose_pages_run_out_of_time_begins_again() -> None:
    """410 for a continue token."""
    async with reflecting(
        listing(node("a", 1), version=7, more="next"),
        status(410),
        listing(node("b", 2), version=9),
    ) as (script, reflector):
        await reflector.synced()
        assert set(reflector.items) == {"b"}
        assert "continue" not in script.asked[2]


async def test_the_last_copy_stands_while_the_server_is_away() -> None:
    """And an error of the server is no reason to forget where we were."""
    async with reflecting(
        listing(node("a", 1), version=7), status(503), status(500), watch(("ADDED", node("b", 8)))
    ) as (script, reflector):
        await reflector.synced()
        assert set(reflector.items) == {"a"}
        await names(reflector, "a", "b")
        assert [asked["resourceVersion"] for asked in script.asked[1:4]] == ["7", "7", "7"]


async def test_an_object_longer_than_a_buffer_is_read() -> None:
    """Objects can have 1.5 MiB; a stream reader's line has 64 KiB."""
    async with reflecting(listing(version=7), watch(("ADDED", node("a", 8, podCIDR="x" * 1_000_000)))) as (
        _,
        reflector,
    ):
        await names(reflector, "a")
        assert len(reflector.items["a"].spec.pod_cidr) == 1_000_000


async def test_one_object_of_the_wrong_shape_hides_no_other() -> None:
    """It is passed over, and gone if it was there."""
    async with reflecting(
        listing(node("a", 1), node("b", 2, podCIDR=5), version=7),
        watch(("ADDED", node("c", 8)), ("MODIFIED", node("a", 9, podCIDR=[]))),
    ) as (_, reflector):
        await names(reflector, "c")


class Noted:
    """A store that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def put(self, key: str, item: Node) -> None:
        self.told.append(("put", key, item.spec.pod_cidr))

    def drop(self, key: str, _version: int = 0, /) -> None:
        self.told.append(("drop", key))

    def listed(self, keys: set[str]) -> None:
        self.told.append(("listed", *sorted(keys)))


async def test_a_store_is_told_instead_page_by_page_and_what_is_there_at_the_end_of_a_list() -> None:
    """So that it can keep less; after 410 Gone the list says again what there is, and so what has gone."""
    store = Noted()
    async with reflecting(
        listing(node("a", 1, podCIDR="c1"), version=7, more="next"),
        listing(node("b", 2), version=7),
        watch(("MODIFIED", node("a", 8, podCIDR="c2")), ("DELETED", node("b", 9)), end="orderly"),
        status(410),
        listing(node("c", 20), version=20),
        store=store,
    ) as (_, reflector):
        while ("listed", "c") not in store.told:
            await reflector.changed(reflector.generation)
        assert not reflector.items
    assert store.told == [
        ("put", "a", "c1"),
        ("put", "b", ""),
        ("listed", "a", "b"),
        ("put", "a", "c2"),
        ("drop", "b"),
        ("put", "c", ""),
        ("listed", "c"),
    ]
