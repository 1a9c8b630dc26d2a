"""The operator: builds the rooms, and lets them act while it holds the leader's lock.

Every replica follows the API server, so that the next leader begins with what it needs; only the leader writes.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

from eniallocator import SystemClock
from eniallocator.cloud.fleet import Fleet
from eniallocator.cloud.metadata import Metadata
from eniallocator.cloud.opening import open_cloud
from eniallocator.cloud.switch import Switch
from eniallocator.cloud.vpc import VpcRoutes
from eniway import config as configuration
from eniway import http, log, names
from eniway.config import NodeConfig
from eniway.errors import NotReady
from eniway.kube.client import Connection, KubeClient, from_kubeconfig, in_cluster
from eniway.kube.events import ObjectRef, Recorder
from eniway.kube.lease import LeaderLock
from eniway.kube.reflector import Reflector
from eniway.kube.views import Node, NodeNetwork
from eniway.operator.counts import Counts
from eniway.operator.reclaim import Reclaim
from eniway.operator.routes import Routes
from eniway.operator.stock import Stock
from eniway.signals import until_told

LOCK: Final = "eniway-operator"
NAMESPACE: Final = "kube-system"
_METADATA_RETRY: Final = 2.0

_log = log.get(__name__)


async def run(config: NodeConfig, *, connection: Connection, identity: str) -> None:
    """Serve until cancelled. ``identity`` tells this process from all others that want the lock."""
    clock = SystemClock()
    random = Random()  # noqa: S311 -- spreads retries
    async with AsyncExitStack() as stack:
        health = _Health()
        host, port = http.parse_address(config.operator.metrics_address)
        app = http.application(lambda: health.unhealthy, lambda: None)
        stack.push_async_callback((await http.serve(app, host=host, port=port)).cleanup)
        client = await stack.enter_async_context(KubeClient(connection))
        nodes = Reflector(client, "/api/v1/nodes", Node, random=random)
        networks = Reflector(client, f"/apis/{names.API_VERSION}/nodenetworks", NodeNetwork, random=random)
        recorder = Recorder(client, node="", clock=clock.monotonic, new_id=lambda: uuid.uuid4().hex[:16])
        about = ObjectRef("coordination.k8s.io/v1", "Lease", LOCK, NAMESPACE)
        lock = LeaderLock(
            client,
            namespace=NAMESPACE,
            name=LOCK,
            me=identity,
            clock=clock.monotonic,
            wall=lambda: datetime.now(UTC),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(nodes.run())
            group.create_task(networks.run())
            group.create_task(recorder.run())
            await nodes.synced()
            await networks.synced()
            region, vpc = await _place(config)
            switch = await Switch.at(Path(names.SWITCH_FILE))
            group.create_task(switch.follow(lambda: None, clock=clock))
            cloud = await stack.enter_async_context(
                open_cloud(config.cloud, region=region, switch=switch, clock=clock, random=random)
            )
            routes = Routes(
                config,
                region=region,
                vpc=vpc,
                api=VpcRoutes(cloud),
                client=client,
                nodes=nodes,
                networks=networks,
                recorder=recorder,
                about=about,
                clock=clock,
                random=random,
            )
            reclaim = Reclaim(
                config,
                vpc=vpc,
                api=Fleet(cloud),
                nodes=nodes,
                networks=networks,
                recorder=recorder,
                about=about,
                random=random,
            )
            stock = Stock(
                config, vpc=vpc, api=cloud, client=client, networks=networks, recorder=recorder, random=random
            )

            counts = Counts(client, nodes=nodes, networks=networks, random=random)

            async def lead() -> None:
                async with asyncio.TaskGroup() as duties:
                    duties.create_task(reclaim.run())
                    duties.create_task(stock.run())
                    duties.create_task(counts.run())
                    if config.operator.routes == "managed":
                        duties.create_task(routes.run())

            health.unhealthy = None
            _log.info(
                "ready",
                identity=identity,
                region=region,
                vpc=vpc,
                routes=config.operator.routes,
                dry_run=config.operator.dry_run,
            )
            await lock.lead(lead)


async def _place(config: NodeConfig) -> tuple[str, str]:
    """Region and VPC, configured or the operator's own."""
    if config.operator.vpc:
        return config.operator.region, config.operator.vpc
    async with Metadata(config.cloud.metadata) as service:
        while True:
            try:
                return await service.get("region-id"), await service.get("vpc-id")
            except NotReady as error:
                _log.warning("the metadata service does not say where this is", error=str(error))
            await asyncio.sleep(_METADATA_RETRY)


class _Health:
    """What /healthz says."""

    unhealthy: str | None = "starting: nodes are not listed yet, or the metadata service does not answer"


def main(path: Path, kubeconfig: Path | None, environ: Mapping[str, str] = os.environ) -> int:
    """Load the configuration and run until SIGTERM or SIGINT. ``kubeconfig``: the API server, outside a cluster."""
    config = configuration.load(path)
    http.parse_address(config.operator.metrics_address)
    log.configure(config.log_level)
    identity = f"{environ.get('HOSTNAME') or os.uname().nodename}_{uuid.uuid4().hex[:8]}"

    async def serve() -> None:
        connection = await from_kubeconfig(kubeconfig) if kubeconfig else in_cluster()
        await run(config, connection=connection, identity=identity)

    asyncio.run(until_told(serve))
    return 0
