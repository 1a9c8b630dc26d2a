"""Binds pods for a scheduler that leaves it to the extender (``bindVerb: bind``), a few at a time.

kube-scheduler begins as many binds as it has chosen nodes: left alone, they queue up until its calls time out though
the pods are bound. So no pod is chosen for while ``most`` bindings are under way, and one that finds no turn all the
same is refused before anything is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from eniway.errors import NotReady
from eniway.kube.client import KubeClient
from scheduler_extender.wire import BindingArgs

_PATIENCE: Final = 2.0
"""Seconds to wait for a turn; kube-scheduler gives the whole call five by default."""


class Binder:
    """``reserve`` raises NotReady where a pod must not be bound to its node; its place is held, durably, else."""

    def __init__(self, client: KubeClient, *, most: int, reserve: Callable[[BindingArgs], None]) -> None:
        self._client = client
        self._most = most
        self._reserve = reserve
        self._turns = asyncio.Semaphore(most)

    async def turn(self) -> None:
        """Return when another bind could begin; NotReady when that takes long."""
        await self._acquire()
        self._turns.release()

    async def bind(self, asked: BindingArgs) -> None:
        """NotReady, and nothing has been sent; or KubeError: without a status the pod may be bound all the same."""
        await self._acquire()
        try:
            self._reserve(asked)
            path = f"/api/v1/namespaces/{asked.namespace}/pods/{asked.name}/binding"
            await self._client.request("POST", path, body=_binding(asked))
        finally:
            self._turns.release()

    async def _acquire(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._turns.acquire()
        except TimeoutError:
            raise NotReady(f"{self._most} bindings are under way: try again") from None


def _binding(asked: BindingArgs) -> dict[str, object]:
    """v1 Binding. With the UID: a pod of that name that was made since is another."""
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"namespace": asked.namespace, "name": asked.name, "uid": asked.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": asked.node},
    }
