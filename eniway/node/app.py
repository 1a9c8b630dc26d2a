"""The node daemon: builds the rooms, hands each what it needs of the others, and runs them in one task group.

Order of a start, and why:

0. the first start of a boot takes away the conflist that the last boot left: nobody serves it yet. /run, where our
   socket stood, is empty then;
1. the ledger, from disk: on a known boot nothing else is needed to know what this node has;
2. kubelet's door: until the device plugin is registered, kubelet refuses pods with devices, so it waits for nothing;
3. the kernel's node-wide state and the sweep: what a DEL missed while the daemon was away is undone;
4. the runtime's door opens, then the conflist is written: the node is not Ready before it can serve.

The books' loop, which alone speaks with the cloud, runs beside all that from 3 on and holds nothing up.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from random import Random
from typing import Any, Final

from cni import conflist, results
from cni.handler import Handler
from cni.server import Door
from datapath.borders import Borders
from deviceplugin.allocations import Allocations
from deviceplugin.podresources import PodResources
from deviceplugin.registration import DevicePlugin
from eniallocator import Books, SystemClock, open_ledger
from eniallocator.clock import Clock
from eniallocator.cloud.metadata import Metadata
from eniallocator.cloud.opening import open_cloud
from eniallocator.cloud.switch import Switch
from eniallocator.opening import Opening
from eniway import config as configuration
from eniway import http, log, metrics, names
from eniway.config import NodeConfig
from eniway.errors import BadConfig, EniwayError
from eniway.kube.client import Connection, KubeClient, in_cluster
from eniway.kube.events import Event, Recorder
from eniway.kube.nodenetwork import NodeNetworkPublisher
from eniway.kube.podcidr import PodCidrReader
from eniway.model import Card, Kind
from eniway.node import debug, dropins
from eniway.node.bandwidth import BandwidthFollower, watch_of
from eniway.node.doctor import Doctor
from eniway.node.labels import NodeLabels
from eniway.node.policy import GuardedNetwork, Policies, keep
from eniway.node.sweep import Sweeper
from eniway.signals import until_told

RELAY: Final = Path("/usr/share/eniway/cni/eniway")
"""Where the image has the relay."""
_CONDITIONS_SECONDS: Final = 1.0
_UNRECOVERED_SECONDS: Final = 5.0
"""Between two sweeps until the books know all leases."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_log = log.get(__name__)


async def run(
    config: NodeConfig, *, node: str, server: Connection, clock: Clock, random: Random, new_id: Callable[[], str]
) -> None:
    """Serve until cancelled; Outdated where the Node has become one of another pool.

    ``server``: the API server. ``clock``: its monotonic time is the running loop's. ``new_id``: 32 hex digits, never
    the same again.
    """
    async with KubeClient(server) as client, asyncio.TaskGroup() as group:
        labels = NodeLabels(client, node=node, kept=Path(names.LABELS_FILE), random=random)
        resolved = await labels.resolve(config)
        group.create_task(labels.run(config, resolved))
        await _serve(resolved, client, node=node, clock=clock, random=random, new_id=new_id)


async def _serve(  # noqa: PLR0915 -- a composition root: it only lists
    config: NodeConfig, client: KubeClient, *, node: str, clock: Clock, random: Random, new_id: Callable[[], str]
) -> None:
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(GuardedNetwork(borders=_borders(config)))
        metadata = await stack.enter_async_context(Metadata(config.cloud.metadata))
        opening = await open_ledger(
            Path(names.LEDGER_FILE),
            config=config,
            boot_id=BOOT_ID.read_text(encoding="ascii").strip(),
            metadata=metadata,
            clock=clock,
            random=random,
        )
        switch = await Switch.at(Path(names.SWITCH_FILE))
        cloud = await stack.enter_async_context(
            open_cloud(config.cloud, region=opening.identity.region, switch=switch, clock=clock, random=random)
        )
        recorder = Recorder(client, node=node, clock=clock.monotonic, new_id=lambda: new_id()[:16])
        allocations = Allocations(now=clock.monotonic())
        pods = PodResources(allocations, random=random, clock=clock.monotonic)
        stack.push_async_callback(pods.close)
        books = Books(
            opening,
            config=config,
            cloud=cloud,
            kernel=network,
            clock=clock,
            random=random,
            new_id=new_id,
            fell_back=lambda pod, why: recorder.tell(Event(pod, "Normal", "RoutedInstead", why)),
            refused=lambda pod, why: recorder.tell(Event(pod, "Warning", "ENIRefused", why)),
            kubelet=pods.slots,
            switch=switch,
        )
        stack.push_async_callback(books.close)
        policies: Policies | None = None
        if config.networkpolicy:
            policies = network.guard = stack.enter_context(
                Policies(
                    client,
                    config=config,
                    leases=books.leases,
                    recovered=books.recovered,
                    tell=recorder.tell,
                    random=random,
                )
            )
        handler = Handler(
            books,
            network,
            pods,
            add_seconds=config.add_deadline_seconds,
            default=config.default_wish,
            clock=clock.monotonic,
        )
        door = Door(handler.handle)
        bandwidth = BandwidthFollower(
            books,
            network,
            watch_of(client, node=node, random=random),
            turn=handler.turn,
            tell=recorder.tell,
        )
        sweeper = Sweeper(
            books,
            network,
            service_cidr=config.service_network,
            turn=handler.turn,
            trusted=not opening.rebuilt,
            mended=bandwidth.mended,
            remembered=results.remembered,
        )
        await _tell_host(opening, books.primary)
        publisher = NodeNetworkPublisher(
            client, node=node, status=books.status, changed=books.status_changed, random=random
        )

        async def learn(cidr: IPv4Network | None) -> None:
            await books.learn_pod_cidr(cidr)
            try:
                await sweeper.sweep_ranges()
            except EniwayError as error:
                _log.warning("the podCIDR is left to the next sweep", error=str(error))

        reader = PodCidrReader(client, node=node, found=learn, random=random)
        state = _State()
        host, port = http.parse_address(config.metrics_address)
        app = http.application(lambda: state.unhealthy, lambda: _refresh(books))
        stack.push_async_callback((await http.serve(app, host=host, port=port)).cleanup)
        doctor = Doctor(books, network, sweeper, pods, relay=RELAY, install=_install)
        await debug.serve(stack, books, handler.recent, doctor, node=node, unhealthy=lambda: state.unhealthy)

        async with asyncio.TaskGroup() as group:
            group.create_task(DevicePlugin(books, allocations, random=random, clock=clock.monotonic).run())
            group.create_task(publisher.run())
            group.create_task(recorder.run())
            group.create_task(_tell_conditions(books, recorder))
            await network.start(service_cidr=config.service_network, primary=books.primary)
            group.create_task(keep(policies, books))
            group.create_task(switch.follow(books.wake, clock=clock))
            group.create_task(books.run())
            group.create_task(reader.run())
            await _sweep(sweeper)
            conflist.install_relay(RELAY)
            group.create_task(bandwidth.run())
            door.open()
            group.create_task(door.run())
            conflist.write()
            state.unhealthy = None
            _log.info("serving", node=node, instance=opening.identity.instance_id, leases=len(books.leases()))
            while True:
                # Leases that lost books do not know yet are known after a sweep, and ADDs may wait for that.
                await sweeper.due(config.sweep_seconds if books.is_recovered() else _UNRECOVERED_SECONDS)
                if policies is not None:
                    policies.look_again()
                await _sweep(sweeper)


async def _tell_host(opening: Opening, primary: Card) -> None:
    """Which cards the host's network services are to leave alone."""
    own = frozenset(eni.mac for eni in opening.contents.enis if eni.mac is not None)
    await asyncio.to_thread(lambda: dropins.install(dropins.observe(primary.mac, own)))


def _install() -> None:
    """What the runtime needs on the host."""
    conflist.install_relay(RELAY)
    conflist.write()


def _borders(config: NodeConfig) -> Borders:
    return Borders(
        metadata=config.metadata_access == "allow",
        inside=config.vpc_networks if config.snat == "outside-vpc" else None,
    )


async def _sweep(sweeper: Sweeper) -> None:
    """One sweep; what keeps it from looking at all is logged, and the next one tries again."""
    try:
        await sweeper.sweep()
    except EniwayError as error:
        metrics.SWEEP_FAILURES.inc()
        _log.error("the sweep could not look", error=str(error))


class _State:
    """What /healthz says."""

    unhealthy: str | None = "starting: the CNI socket is not open yet"


def _refresh(books: Books) -> None:
    """Bring the gauges up to date."""
    for what, capacity in books.capacity().items():
        for word in ("in_service", "growable", "cooling", "orphaned", "used"):
            metrics.CAPACITY.labels(what, word).set(getattr(capacity, word))
    held = [lease.kind for lease in books.leases()]
    for kind in Kind:
        metrics.LEASES.labels(kind.value).set(held.count(kind))


async def _tell_conditions(books: Books, recorder: Recorder) -> None:
    """An Event on the Node for each condition that is, or becomes, false."""
    told: dict[str, Any] = {}
    while True:
        # A burst of changes is one change to whoever reads events.
        await asyncio.sleep(_CONDITIONS_SECONDS)
        for condition in books.status()["conditions"]:
            said = (condition["status"], condition["reason"], condition["message"])
            if condition["status"] == "False" and told.get(condition["type"]) != said:
                recorder.tell(Event(None, "Warning", condition["reason"], condition["message"]))
            told[condition["type"]] = said
        await books.status_changed()


def main(path: Path, environ: Mapping[str, str] = os.environ) -> int:
    """Load the configuration and run until SIGTERM or SIGINT."""
    config = configuration.load(path)
    http.parse_address(config.metrics_address)
    node = environ.get("NODE_NAME", "")
    if not node:
        raise BadConfig("NODE_NAME: expected the name of this node in the environment, it is not set")
    log.configure(config.log_level)
    if not Path(names.CNI_SOCKET).exists():
        conflist.withdraw()
    work = partial(
        run,
        config,
        node=node,
        server=in_cluster(),
        clock=SystemClock(),
        random=Random(),  # noqa: S311 -- spreads retries, names sockets
        new_id=lambda: uuid.uuid4().hex,
    )
    asyncio.run(until_told(work))
    return 0
