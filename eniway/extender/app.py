"""``eniway extender``: builds the scheduler's door and runs it.

It serves from the first moment: pods of the host's network pass, all others are told to try again until pods and nodes
are known. So it can come up with the cluster, and with the scheduler that it serves.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Final

from eniway import config as configuration
from eniway import http, log, metrics
from eniway.config import ExtenderConfig
from eniway.errors import InvalidRequest, NotReady
from eniway.extender.bind import Binder
from eniway.extender.feed import Feed
from eniway.extender.wake import Waker
from eniway.kube.client import Connection, KubeClient, from_kubeconfig, in_cluster
from eniway.model import PodUid
from eniway.signals import until_told
from scheduler_extender import server
from scheduler_extender.filter import Chooser, Verdict
from scheduler_extender.index import CapacityIndex
from scheduler_extender.journal import Journal
from scheduler_extender.pods import Need, Pod, need_of
from scheduler_extender.wire import BindingArgs

_log = log.get(__name__)

TICK: Final = 1.0
"""Seconds between two looks at what has run out."""
OVERLOOKED_TICKS: Final = 15
"""Between two more attempts of pods that sleep though there is room."""
STARTING: Final = "pods and nodes are not listed yet"


class Answers:
    """Chooses, and writes down what it holds before it answers."""

    def __init__(
        self, chooser: Chooser, journal: Journal, *, client: KubeClient, binds: int, clock: Callable[[], float]
    ) -> None:
        self._chooser = chooser
        self._journal = journal
        self._clock = clock
        self._binder = Binder(client, most=binds, reserve=self._reserve) if binds else None
        self.unready: str | None = STARTING

    async def turn(self) -> None:
        """As ``server.Answers``."""
        if self._binder is not None:
            await self._binder.turn()

    def filter(self, pod: Pod, names: Sequence[str]) -> Verdict:
        """As ``server.Answers``."""
        self._demand_ready(pod)
        verdict = self._chooser.filter(pod, names, now=self._clock())
        self._journal.write(verdict.journal)
        return verdict

    def prioritize(self, pod: Pod, names: Sequence[str]) -> Mapping[str, int]:
        """As ``server.Answers``."""
        self._demand_ready(pod)
        return self._chooser.prioritize(pod, names)

    async def bind(self, asked: BindingArgs) -> None:
        """As ``server.Answers``."""
        if self._binder is None:
            raise InvalidRequest("binding is not the extender's here: set `binds`, or leave bindVerb out")
        await self._binder.bind(asked)

    def settle(self, uids: Collection[PodUid]) -> None:
        """Nothing need be held for these any more."""
        self._journal.write(self._chooser.settle(uids))

    def sleeps(self, need: Need) -> bool:
        """Whether a pod was refused for want of room for ``need``."""
        return need in self._chooser.refused.values()

    def _reserve(self, asked: BindingArgs) -> None:
        if self.unready is not None:
            raise NotReady(self.unready)
        verdict = self._chooser.reserve(asked.uid, asked.node, now=self._clock())
        if verdict.retry:
            raise NotReady(verdict.retry)
        self._journal.write(verdict.journal)

    def _demand_ready(self, pod: Pod) -> None:
        if self.unready is not None and need_of(pod) is not None:
            raise NotReady(self.unready)


async def run(config: ExtenderConfig, *, connection: Connection) -> None:
    """Serve until cancelled."""
    random = Random()  # noqa: S311 -- spreads retries
    tls = server.tls(Path(config.tls_certificate), Path(config.tls_key)) if config.tls_certificate else None
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(KubeClient(connection))

        def gained(need: Need, node: str) -> None:
            if answers.sleeps(need):
                waker.wake(node)

        index = CapacityIndex(weights=config.weights, gained=gained)
        chooser = Chooser(index, most=config.offer, other_nodes=config.other_nodes == "pass")
        journal = Journal(Path(config.journal))
        stack.callback(journal.close)
        answers = Answers(chooser, journal, client=client, binds=config.binds, clock=time.time)
        chooser.resume(journal.read())
        waker = Waker(client, random=random)
        feed = Feed(client, index, settled=answers.settle, clock=time.time, random=random)

        def refresh() -> None:
            metrics.EXTENDER_HOLDS.set(len(chooser.holds))
            metrics.EXTENDER_REFUSED.set(len(chooser.refused))

        app = server.application(
            answers, most_bytes=config.max_request_bytes, unready=lambda: answers.unready, refresh=refresh
        )
        host, port = http.parse_address(config.address)
        stack.push_async_callback((await http.serve(app, host=host, port=port, tls=tls)).cleanup)
        looked_at = http.application(lambda: None, refresh)
        host, port = http.parse_address(config.metrics_address)
        stack.push_async_callback((await http.serve(looked_at, host=host, port=port)).cleanup)
        async with asyncio.TaskGroup() as group:
            group.create_task(feed.run())
            group.create_task(waker.run())
            await feed.synced()
            # A journal's pods that are no more: their end was not heard of while this was down
            answers.settle([uid for uid in chooser.holds if not index.knows(uid)])
            answers.unready = None
            if node := chooser.forgotten():
                waker.wake(node)
            _log.info("serving", nodes=len(index.nodes), holds=len(chooser.holds))
            for tick in itertools.count(1):
                await asyncio.sleep(TICK)
                now = time.time()
                if tick % OVERLOOKED_TICKS == 0 and (node := chooser.overlooked()):
                    waker.wake(node)
                index.expire(now)
                journal.write(chooser.expire(now))
                journal.compact(chooser.holds.values())


def main(path: Path | None, kubeconfig: Path | None) -> int:
    """Load the configuration and run until SIGTERM or SIGINT. ``kubeconfig``: the API server, outside a pod."""
    config = configuration.load_extender(path) if path else ExtenderConfig()
    for address in (config.address, config.metrics_address):
        http.parse_address(address)
    log.configure(config.log_level)

    async def serve() -> None:
        await run(config, connection=await from_kubeconfig(kubeconfig) if kubeconfig else in_cluster())

    asyncio.run(until_told(serve))
    return 0
