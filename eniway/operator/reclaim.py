"""Removes what instances that are gone have left behind: their ENIs, a few at a time, on proof."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Final

from eniallocator import route_nodes
from eniallocator.cloud.errors import ApiError
from eniallocator.cloud.fleet import FleetApi
from eniallocator.salvage import Round, salvage
from eniway import log, metrics
from eniway.config import NodeConfig
from eniway.kube.events import Event, ObjectRef, Recorder
from eniway.kube.reflector import Reflector
from eniway.kube.views import Node, NodeNetwork
from eniway.model import InstanceId

_log = log.get(__name__)

GATHER: Final = 1.0
"""Seconds to wait after a Node has changed for others: in a large cluster some always do."""
SOONEST: Final = 5.0
LATEST: Final = 300.0
"""Seconds between rounds: soon after something was done or a Node went, ever rarer while nothing happens."""


class Reclaim:
    """``run`` while leading."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        vpc: str,
        api: FleetApi,
        nodes: Reflector[Node],
        networks: Reflector[NodeNetwork],
        recorder: Recorder,
        about: ObjectRef,
        random: Random,
    ) -> None:
        """``about``: the object that Events of the cluster as a whole are told of."""
        self._config = config
        self._vpc = vpc
        self._api = api
        self._nodes = nodes
        self._networks = networks
        self._recorder = recorder
        self._about = about
        self._random = random

    async def run(self) -> None:
        """Do rounds until cancelled."""
        pauses = _pauses()
        try:
            while True:
                placed = self._placed()
                if await self._round(placed):
                    pauses = _pauses()
                if await self._a_node_goes(placed, within=next(pauses)):
                    pauses = _pauses()
        finally:
            metrics.ABANDONED.clear()
            metrics.DRY_RUN.clear()

    def _placed(self) -> frozenset[InstanceId]:
        return route_nodes.placed(self._nodes.items, self._networks.items)

    async def _a_node_goes(self, before: frozenset[InstanceId], *, within: float) -> bool:
        """Return when an instance, one that came meanwhile included, is no node any more, or the seconds are over."""
        try:
            async with asyncio.timeout(within):
                while before <= (placed := self._placed()):
                    before = placed
                    await self._nodes.changed(self._nodes.generation)
                    before |= self._placed()
                    await asyncio.sleep(GATHER)
        except TimeoutError:
            return False
        return True

    async def _round(self, placed: frozenset[InstanceId]) -> bool:
        """Whether another one is worth while soon."""
        operator = self._config.operator
        try:
            with metrics.RECLAIM_SECONDS.time():
                done = await salvage(
                    self._api,
                    vpc_id=self._vpc,
                    cluster=self._config.cluster,
                    placed=placed,
                    most_percent=operator.most_gone_percent,
                    dry_run=operator.dry_run,
                    random=self._random,
                )
        except ApiError as error:
            metrics.RECLAIM_ROUNDS.labels("failed").inc()
            _log.warning("no round over the VPC's ENIs", error=str(error))
            return False
        self._tell(done)
        return bool(done.deleted) and not operator.dry_run

    def _tell(self, done: Round) -> None:
        metrics.ABANDONED.labels("all").set(done.ours)
        metrics.ABANDONED.labels("abandoned").set(done.abandoned)
        if done.too_many:
            metrics.RECLAIM_ROUNDS.labels("too_many_gone").inc()
            words = (
                f"{len(done.gone)} instances with ENIs of cluster {self._config.cluster} are gone at once, more than "
                f"{self._config.operator.most_gone_percent} % of them: none of their {done.abandoned} ENIs is deleted. "
                "If the cluster did shrink so much, raise operator.most_gone_percent for a while"
            )
            _log.error(words, gone=sorted(done.gone))
            self._recorder.tell(Event(self._about, "Warning", "TooManyInstancesGone", words))
            return
        metrics.RECLAIM_ROUNDS.labels("done").inc()
        if self._config.operator.dry_run:
            metrics.DRY_RUN.labels("delete_eni").set(len(done.deleted))
            if done.deleted:
                _log.info("dry run", would_delete=done.deleted, gone=sorted(done.gone))
        elif done.deleted:
            metrics.RECLAIMED.inc(len(done.deleted))
            left = done.abandoned - len(done.deleted)
            _log.info("deleting ENIs of instances that are gone", enis=done.deleted, gone=sorted(done.gone), left=left)
            words = f"deleted {len(done.deleted)} ENIs of {', '.join(sorted(done.gone))}: the instances are gone"
            self._recorder.tell(Event(self._about, "Normal", "ReclaimedENIs", words))


def _pauses() -> Iterator[float]:
    seconds = SOONEST
    while True:
        yield seconds
        seconds = min(LATEST, seconds * 2)
