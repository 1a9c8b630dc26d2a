"""A copy of a collection of the API server's objects, kept up to date: list, then watch from where the list ended.

Kubernetes docs, "Efficient detection of changes": lists come in pages, bookmarks move the resource version on while
nothing happens, and 410 Gone means that the server has forgotten it: list again. Only the fields of a view are decoded:
ten thousand objects in tens of milliseconds. A ``Store`` may keep something else of them than the views.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from random import Random
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from eniway import log
from eniway.backoff import full_jitter
from eniway.errors import KubeError
from eniway.kube.client import KubeClient
from eniway.kube.views import Meta, ObjectMeta, View

_V = TypeVar("_V", bound=View)
_log = log.get(__name__)

PAGE: Final = 500
_GONE: Final = 410
_WATCH_SECONDS: Final = (240, 480)
"""A watch ends after a while so that it moves to another server of several; not all at once."""


class _Event(msgspec.Struct, frozen=True):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw(b"{}")


class _ListMeta(msgspec.Struct, frozen=True):
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: list[msgspec.Raw] = []


class _Bare(msgspec.Struct, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


class _Status(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


_T_contra = TypeVar("_T_contra", bound=View, contravariant=True)


class Store(Protocol[_T_contra]):
    """What becomes of objects. Keys are name, or namespace/name."""

    def put(self, key: str, item: _T_contra) -> None:
        """It is there, or is now as told."""
        ...

    def drop(self, key: str, version: int, /) -> None:
        """It is gone; one that is not known is no error. ``version``: resource version of that news."""
        ...

    def listed(self, keys: set[str]) -> None:
        """A list is complete: what is not among ``keys`` is gone."""
        ...


class Reflector(Generic[_V]):
    """``items`` while ``run`` runs. ``path`` is a collection's, such as /api/v1/nodes.

    With a ``store`` of the caller's own, views go there and ``items`` stay empty.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        view: type[_V],
        *,
        random: Random,
        query: Mapping[str, str] | None = None,
        page: int = PAGE,
        store: Store[_V] | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._decoder = msgspec.json.Decoder(view)
        self._random = random
        self._query = dict(query or {})
        self._page = page
        self._items: dict[str, _V] = {}
        self._store = store
        self._version: str | None = None
        self._synced = asyncio.Event()
        self._news = asyncio.Event()
        self.generation = 0
        """Grows with every change of ``items``."""

    @property
    def items(self) -> Mapping[str, _V]:
        """By name, or namespace/name. Empty until ``synced``."""
        return self._items

    async def synced(self) -> None:
        """Return once the first list is complete."""
        await self._synced.wait()

    async def changed(self, since: int) -> None:
        """Return once ``generation`` is greater than ``since``."""
        while self.generation <= since:
            await self._news.wait()

    async def run(self) -> None:
        """Keep up until cancelled. While the server is away the last copy stands."""
        delays = self._delays()
        while True:
            before = self._version
            try:
                if self._version is None:
                    self._version = await self._list()
                await self._watch(self._version)
            except KubeError as error:
                if self._version != before:
                    delays = self._delays()
                if error.status == _GONE:
                    self._version = None
                delay = next(delays)
                _log.warning("not up to date", path=self._path, error=str(error), retry_in=round(delay, 1))
                await asyncio.sleep(delay)
            else:
                delays = self._delays()

    def _delays(self) -> Iterator[float]:
        return full_jitter(base=0.5, cap=30, random=self._random)

    async def _list(self) -> str:
        """Take everything anew; the resource version of what was taken."""
        items: dict[str, _V] = {}
        keys: set[str] = set()
        query = {**self._query, "limit": str(self._page)}
        while True:
            page = _decoded(await self._client.read(self._path, query=query), msgspec.json.Decoder(_Page), self._path)
            for raw in page.items:
                if (item := self._decode(raw)) is None:
                    continue
                key = _key(item.metadata)
                if self._store is None:
                    items[key] = item
                else:
                    keys.add(key)
                    self._store.put(key, item)
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
        self._items = items
        if self._store is not None:
            self._store.listed(keys)
        self._announce()
        self._synced.set()
        return page.metadata.resource_version

    async def _watch(self, version: str) -> None:
        """Follow one watch to its end. A broken one is taken up behind its last event."""
        seconds = self._random.randint(*_WATCH_SECONDS)
        query = {**self._query, "resourceVersion": version, "allowWatchBookmarks": "true"}
        events = msgspec.json.Decoder(_Event)
        async with aclosing(self._client.watch(self._path, query=query, seconds=seconds)) as lines:
            async for line in lines:
                event = _decoded(line, events, self._path)
                if event.type == "ERROR":
                    status = _decoded(event.object, msgspec.json.Decoder(_Status), self._path)
                    raise KubeError(f"watch {self._path}: {status.message}", status=status.code)
                self._version = self._take(event)

    def _take(self, event: _Event) -> str:
        meta = _decoded(event.object, msgspec.json.Decoder(_Bare), self._path).metadata
        if event.type in ("ADDED", "MODIFIED", "DELETED"):
            item = self._decode(event.object) if event.type != "DELETED" else None
            key = _key(meta)
            if item is None:
                self._items.pop(key, None)
            elif self._store is None:
                self._items[key] = item
            if self._store is not None:
                if item is None:
                    self._store.drop(key, number(meta.resource_version))
                else:
                    self._store.put(key, item)
            self._announce()
        return meta.resource_version

    def _decode(self, raw: msgspec.Raw) -> _V | None:
        """The object; None for one that is not as its type says: it must not blind us for the others."""
        try:
            return self._decoder.decode(raw)
        except msgspec.DecodeError as error:
            name = _decoded(raw, msgspec.json.Decoder(_Bare), self._path).metadata.name
            _log.warning("passed over", path=self._path, name=name, error=str(error))
            return None

    def _announce(self) -> None:
        self.generation += 1
        self._news.set()
        self._news = asyncio.Event()


_T = TypeVar("_T")


def _decoded(raw: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[_T], path: str) -> _T:
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise KubeError(f"{path}: {error}") from error


def _key(meta: Meta) -> str:
    return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name


def number(version: str) -> int:
    """Resource versions are etcd's revisions: later is greater, for all that one etcd keeps (KEP-5504). 0: not one."""
    return int(version) if version.isdecimal() else 0


async def either_changed(*seen: tuple[Reflector[Any], int]) -> None:
    """Return once one of several copies has moved on from the generation beside it."""
    tasks = [asyncio.ensure_future(copy.changed(since)) for copy, since in seen]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
