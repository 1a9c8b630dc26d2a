"""What the index is fed with: pods, NodeNetworks and VSwitches, as the API server has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from random import Random
from typing import Final, Generic, TypeVar

from eniway import names
from eniway.kube.client import KubeClient
from eniway.kube.reflector import Reflector, number
from eniway.kube.views import View
from eniway.model import PodUid
from scheduler_extender.index import CapacityIndex
from scheduler_extender.pods import Pod
from scheduler_extender.room import NodeNetwork
from scheduler_extender.stock import VSwitch

UNFINISHED: Final = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
"""Finished pods take nothing; the watch says of one that finishes that it is gone."""


_V = TypeVar("_V", bound=View)


class _Telling(Generic[_V]):
    """A store that keeps only keys: each object goes on, or None for one that is gone, with its resource version."""

    def __init__(self, tell: Callable[[str, _V | None, int], object]) -> None:
        self._tell = tell
        self._keys: set[str] = set()

    def put(self, key: str, item: _V) -> None:
        self._keys.add(key)
        self._tell(key, item, number(item.metadata.resource_version))

    def drop(self, key: str, version: int, /) -> None:
        self._keys.discard(key)
        self._tell(key, None, version)

    def listed(self, keys: set[str]) -> None:
        for key in self._keys - keys:
            self._tell(key, None, 0)
        self._keys = keys


class Feed:
    """``run`` feeds ``index``; ``settled`` is told of pods that nothing need be held for any more."""

    def __init__(
        self,
        client: KubeClient,
        index: CapacityIndex,
        *,
        settled: Callable[[Collection[PodUid]], None],
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        def pod(key: str, found: Pod | None, version: int) -> None:
            if ended := index.set_pod(key, found, version, now=clock()):
                settled(ended)

        crds = f"/apis/{names.API_VERSION}"
        self._pods = Reflector(client, "/api/v1/pods", Pod, random=random, query=UNFINISHED, store=_Telling(pod))
        self._networks = Reflector(
            client, f"{crds}/nodenetworks", NodeNetwork, random=random, store=_Telling(index.set_network)
        )
        self._vswitches = Reflector(
            client, f"{crds}/vswitches", VSwitch, random=random, store=_Telling(index.set_vswitch)
        )

    async def run(self) -> None:
        """Feed until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pods.run())
            group.create_task(self._networks.run())
            group.create_task(self._vswitches.run())

    async def synced(self) -> None:
        """Return once pods and nodes are known. vSwitches are not waited for: a cluster may have no such objects."""
        await self._networks.synced()
        await self._pods.synced()
