"""Where the pods are, by one watch: to read all of them again and again would be a load of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

from eniway.kube.reflector import Reflector
from scheduler_extender.pods import Pod
from tests.box.scheduling import Scheduling


class Sight:
    """``room``: how many pods a node has places for; ``beyond``: keys of those that were bound to a full one."""

    def __init__(self, *, room: int | None = None) -> None:
        self.where: dict[str, str] = {}
        self.bound = 0
        self.binds = 0
        """Seen so far, those of pods that are gone included."""
        self.beyond: dict[str, str] = {}
        self._room = room
        self._on: Counter[str] = Counter()
        self._news = asyncio.Event()

    @property
    def pending(self) -> int:
        return len(self.where) - self.bound

    def put(self, key: str, item: Pod) -> None:
        before, node = self.where.get(key, ""), item.spec.node_name
        self.where[key] = node
        if node and not before:
            self.bound += 1
            self.binds += 1
            self._on[node] += 1
            # One watch: what was deleted before is known to be
            if self._room is not None and self._on[node] > self._room:
                self.beyond[key] = node
        self._news.set()

    def drop(self, key: str, _version: int, /) -> None:
        node = self.where.pop(key, "")
        if node:
            self.bound -= 1
            self._on[node] -= 1
        self._news.set()

    def listed(self, keys: set[str]) -> None:
        for key in self.where.keys() - keys:
            self.drop(key, 0)
        # While a list comes in, those that are gone are not known to be yet
        self.beyond = {key: node for key, node in self.beyond.items() if self._on[node] > (self._room or 0)}

    async def until(self, holds: Callable[[], bool], *, seconds: float = 600) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def watching(cluster: Scheduling, *, room: int | None = None) -> AsyncIterator[Sight]:
    """Until the end of the block."""
    sight = Sight(room=room)
    pods = Reflector(cluster.client, "/api/v1/namespaces/default/pods", Pod, random=Random(0), store=sight)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pods.run())
        await pods.synced()
        yield sight
        task.cancel()
