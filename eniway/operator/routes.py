"""Keeps the VPC's routes to the nodes, and says on Nodes and NodeNetworks how they are doing."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from random import Random
from typing import Final

from eniallocator import route_nodes
from eniallocator.clock import Clock
from eniallocator.cloud.errors import ApiError
from eniallocator.cloud.routes import RouteApi
from eniallocator.route_keeper import RouteKeeper
from eniallocator.route_nodes import ConditionWrite
from eniallocator.routes import NodeRoute, RouteState, Verdict
from eniway import log, metrics
from eniway.backoff import full_jitter
from eniway.config import NodeConfig
from eniway.errors import KubeError
from eniway.kube import conditions
from eniway.kube.client import KubeClient
from eniway.kube.events import Event, NodeRef, ObjectRef, Recorder
from eniway.kube.reflector import Reflector, either_changed
from eniway.kube.views import Node, NodeNetwork

_log = log.get(__name__)

RESYNC: Final = 60.0
"""Seconds after which the tables are looked at though no node has changed: somebody else may have changed them."""
GATHER: Final = 1.0
"""Seconds to wait after a change for others: nodes come in groups, and a batch costs as much as one entry."""
_MANAGER: Final = "eniway-operator"
_WORTH_AN_EVENT: Final = (RouteState.CONFLICT, RouteState.OVER_QUOTA, RouteState.NOT_ALLOWED, RouteState.REFUSED)


class Routes:
    """``run`` while leading."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        region: str,
        vpc: str,
        api: RouteApi,
        client: KubeClient,
        nodes: Reflector[Node],
        networks: Reflector[NodeNetwork],
        recorder: Recorder,
        about: ObjectRef,
        clock: Clock,
        random: Random,
    ) -> None:
        """``about``: the object that Events of the cluster as a whole are told of."""
        self._config = config
        self._region = region
        self._vpc = vpc
        self._api = api
        self._client = client
        self._nodes = nodes
        self._networks = networks
        self._recorder = recorder
        self._about = about
        self._clock = clock
        self._random = random
        self._verdicts: Mapping[NodeRoute, Verdict] = {}
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Keep routes and conditions until cancelled. What an earlier leadership knew is forgotten."""
        self._verdicts = {}
        try:
            async with asyncio.TaskGroup() as group:
                if not self._config.operator.dry_run:  # what a dry run says of a route is not so
                    group.create_task(self._write_conditions())
                await self._keep()
        finally:
            metrics.ROUTES.clear()

    async def _keep(self) -> None:
        keeper = RouteKeeper(
            self._api,
            tables=self._config.operator.route_tables or [await self._system_table()],
            cluster=self._config.cluster,
            quota=self._config.operator.route_quota,
            clock=self._clock,
            random=self._random,
            new_id=lambda: uuid.uuid4().hex,
            most_percent=self._config.operator.most_gone_percent,
            dry_run=self._config.operator.dry_run,
        )
        while True:
            seen = self._nodes.generation, self._networks.generation
            settled = self._wants()
            at_rest = await keeper.settle(self._wants, self._tell)
            self._tell_too_many(keeper.too_many_gone)
            if not at_rest:
                continue
            try:
                async with asyncio.timeout(RESYNC):
                    while self._wants() == settled:
                        await self._changed(*seen)
                        seen = self._nodes.generation, self._networks.generation
            except TimeoutError:
                continue
            await self._clock.sleep(GATHER)

    def _wants(self) -> Collection[NodeRoute]:
        return route_nodes.wanted(self._nodes.items.values(), self._networks.items, region=self._region)

    async def _system_table(self) -> str:
        for delay in full_jitter(base=1, cap=60, random=self._random):
            try:
                return (await self._api.tables(self._vpc)).system
            except ApiError as error:
                _log.warning("the VPC's route table is not known", vpc=self._vpc, error=str(error), retry_in=delay)
            await self._clock.sleep(delay)
        raise AssertionError("full_jitter is endless")

    async def _changed(self, nodes: int, networks: int) -> None:
        """Return when either copy has moved on."""
        await either_changed((self._nodes, nodes), (self._networks, networks))

    def _tell(self, verdicts: Mapping[NodeRoute, Verdict]) -> None:
        for want, verdict in verdicts.items():
            if verdict != self._verdicts.get(want):
                _log.info("route", node=want.node, state=verdict.state, what=verdict.message)
                if verdict.state in _WORTH_AN_EVENT:
                    self._recorder.tell(Event(NodeRef(want.node), "Warning", verdict.state, verdict.message))
        self._verdicts = verdicts
        counts = Counter(verdict.state for verdict in verdicts.values())
        for state in RouteState:
            metrics.ROUTES.labels(state).set(counts[state])
        self._told.set()

    def _tell_too_many(self, gone: Mapping[str, int]) -> None:
        for table, count in gone.items():
            words = (
                f"{count} instances that routes in {table} lead to are gone at once, more than "
                f"{self._config.operator.most_gone_percent} % of them: their entries stay. "
                "If the cluster did shrink so much, raise operator.most_gone_percent for a while"
            )
            self._recorder.tell(Event(self._about, "Warning", "TooManyInstancesGone", words))

    async def _write_conditions(self) -> None:
        """Whenever a verdict or an object has changed, write what the objects do not say yet."""
        delays = full_jitter(base=1, cap=30, random=self._random)
        while True:
            self._told.clear()
            seen = self._nodes.generation, self._networks.generation
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            failed = False
            writes = route_nodes.writes(
                self._verdicts, self._nodes.items, self._networks.items, region=self._region, now=now
            )
            for write in writes:
                try:
                    await self._write(write)
                except KubeError as error:
                    failed = True
                    _log.warning("a route's state is not written", kind=write.kind, name=write.name, error=str(error))
            if failed:
                await asyncio.sleep(next(delays))
                continue
            delays = full_jitter(base=1, cap=30, random=self._random)
            changed = asyncio.ensure_future(self._changed(*seen))
            told = asyncio.ensure_future(self._told.wait())
            try:
                await asyncio.wait([changed, told], return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
                told.cancel()

    async def _write(self, write: ConditionWrite) -> None:
        if write.kind == "Node":
            await conditions.write_node(self._client, write.name, write.condition)
        else:
            await conditions.write_node_network(self._client, write.name, write.condition, manager=_MANAGER)
