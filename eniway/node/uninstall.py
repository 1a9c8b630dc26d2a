"""Leaving a node: what eniway put into its kernel, its files and its instance is taken away, the books last.

In this order, so that it may be broken off anywhere and begun again:

1. the ledger's lock: beside a living daemon nothing is done;
2. leases: while a pod's sandbox stands on one, nothing is done;
3. the conflist, so that the runtime asks for nothing more, the relay, and our sockets;
4. the kernel: links, rules, routes, chains, sets, cards;
5. the cloud: ENIs, and addresses of the primary one;
6. if nothing of it remains, the files for the host's network services, which keep these from our cards until
   then, and the ledger, which knows what that is.

What stays: sysctls (what they were, nobody knows), empty folders, a source check of the primary ENI that routed pods
had turned off, and what belongs to the cluster and not to the node, such as route entries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from cni import conflist
from datapath.leave import leave as leave_kernel
from datapath.netns import CURRENT
from datapath.network import Network
from deviceplugin.registration import remove_sockets
from eniallocator import SystemClock
from eniallocator.cloud.metadata import Metadata
from eniallocator.cloud.opening import open_cloud
from eniallocator.cloud.switch import Switch
from eniallocator.give_back import Possessions, give_back
from eniallocator.ledger import Contents, Ledger, from_note
from eniallocator.lifecycle import State
from eniallocator.opening import NOTE_BOOT, NOTE_COMPLETE, NOTE_IDENTITY
from eniallocator.records import Identity, Use
from eniallocator.routed import NOTE_FORWARDS
from eniway import config as configuration
from eniway import http, log, names
from eniway.config import NodeConfig
from eniway.errors import ConflictError, EniwayError, KernelError, NotReady
from eniway.node import dropins
from eniway.node.app import BOOT_ID
from eniway.node.sweep import is_namespace
from eniway.signals import until_told
from networkpolicy.leave import leave as leave_policies

CLOUD_SECONDS: Final = 300.0
"""How long the cloud may take; an ENI takes some 10 s."""
_METADATA_SECONDS: Final = 15.0
_AGAIN_SECONDS: Final = 5.0

_log = log.get(__name__)
Told = Callable[[str], None]
"""Hears a line on each thing that is done."""


class InUse(ConflictError):
    """Pods have their network from here; ``holders`` names them."""

    def __init__(self, holders: Collection[str]) -> None:
        self.holders = tuple(sorted(holders))
        super().__init__(f"{len(self.holders)} pods have their network from eniway: {', '.join(self.holders)}")


@dataclass(frozen=True, slots=True)
class Remains:
    """What could not be taken away and why, a line each; all is done where there is none."""

    node: tuple[str, ...] = ()
    cloud: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """Of both."""
        return (*self.node, *self.cloud)


@dataclass(frozen=True, slots=True)
class _Books:
    """What the ledger says, as far as it is this instance's."""

    contents: Contents
    identity: Identity | None
    complete: bool
    """It knows of every lease there is."""
    forwards: bool
    """The primary ENI's source check was turned off."""


async def uninstall(config: NodeConfig, told: Told) -> Remains:
    """Clean this node; what remains nevertheless.

    InUse while pods have leases, NotReady while a daemon runs; both before anything is touched.
    """
    path = Path(names.LEDGER_FILE)
    try:
        ledger = await asyncio.to_thread(Ledger.open, path)
    except NotReady as error:
        raise NotReady(f"{error}; a daemon of eniway that runs has to end first") from error
    try:
        async with Metadata(config.cloud.metadata) as metadata:
            books = await _read(ledger, metadata)
        holders = await _holders(books)
        if holders:
            raise InUse(holders)
        remains = Remains(node=await _leave_node(books, told), cloud=await _leave_cloud(config, books, told))
        await asyncio.to_thread(_finish, path, remains, told)
    except OSError as error:
        raise NotReady(f"a file could not be removed: {error}") from error
    finally:
        await asyncio.to_thread(ledger.close)
    if books.forwards and books.identity is not None:
        told(f"{books.identity.primary_eni}: its source check was turned off for routed pods, and stays so")
    return remains


async def _read(ledger: Ledger, metadata: Metadata) -> _Books:
    """The ledger's word, unless it is of another instance; the metadata service is asked once a boot.

    Only its answer counts then: the disk may be cloned from another instance, which lives on.
    """
    noted = from_note(ledger.note(NOTE_IDENTITY), Identity)
    same_boot = ledger.note(NOTE_BOOT) == BOOT_ID.read_text(encoding="ascii").strip()
    identity = noted if same_boot else await _identify(metadata)
    if noted is not None and identity is not None and noted.instance_id != identity.instance_id:
        return _Books(Contents(), identity, complete=False, forwards=False)
    return _Books(
        ledger.contents(),
        identity,
        complete=ledger.note(NOTE_COMPLETE) is not None,
        forwards=from_note(ledger.note(NOTE_FORWARDS), bool) is True,
    )


async def _identify(metadata: Metadata) -> Identity | None:
    try:
        async with asyncio.timeout(_METADATA_SECONDS):
            return await metadata.identity()
    except (NotReady, TimeoutError) as error:
        _log.warning("the metadata service does not say who this node is", error=str(error))
        return None


async def _holders(books: _Books, *, path: str = CURRENT) -> list[str]:
    """Pods whose sandbox stands; where the books do not know of all, links of pods as well.

    ``path``: the node's network namespace, where it is not the process's own.
    """
    leases = books.contents.leases
    alive = await asyncio.to_thread(lambda: [lease for lease in leases if is_namespace(lease.netns)])
    holders = [str(lease.pod) for lease in alive]
    if not books.complete:
        async with Network(path=path) as network:
            links = await network.observe_leases()
        known = {lease.key for lease in leases}
        holders += [f"sandbox {key.container_id} (link {link})" for key, link in links.items() if key not in known]
    return holders


async def _leave_node(books: _Books, told: Told) -> tuple[str, ...]:
    await asyncio.to_thread(_close_doors)
    told("conflist, relay and sockets: removed")
    cards = [
        eni.card
        for eni in books.contents.enis
        if eni.use is not Use.PRIMARY and eni.slot is not None and eni.mac is not None
    ]
    remains = await leave_policies(())
    try:
        remains += await asyncio.to_thread(leave_kernel, cards)
    except KernelError as error:
        remains += (str(error),)
    told(f"links, rules, routes, nftables table, chains and sets: {'removed, but for some' if remains else 'removed'}")
    return remains


def _close_doors() -> None:
    conflist.withdraw()
    conflist.remove_relay()
    remove_sockets()
    for socket in (names.CNI_SOCKET, names.DEBUG_SOCKET):
        Path(socket).unlink(missing_ok=True)


async def _leave_cloud(config: NodeConfig, books: _Books, told: Told) -> tuple[str, ...]:
    identity = books.identity
    if identity is None:
        return (f"ENIs tagged {names.TAG_CLUSTER}={config.cluster}: which instance this is could not be found out",)
    owned = _possessions(books.contents, identity, cluster=config.cluster)
    clock, random = SystemClock(), Random()  # noqa: S311 -- spreads calls
    switch = await Switch.at(Path(names.SWITCH_FILE))
    async with open_cloud(config.cloud, region=identity.region, switch=switch, clock=clock, random=random) as cloud:
        return await give_back(cloud, owned, clock=clock, seconds=CLOUD_SECONDS, told=told)


def _possessions(contents: Contents, identity: Identity, *, cluster: str) -> Possessions:
    primary = {eni.token for eni in contents.enis if eni.use is Use.PRIMARY}
    return Possessions(
        identity=identity,
        tags={names.TAG_CLUSTER: cluster, names.TAG_INSTANCE: identity.instance_id},
        addresses=frozenset(
            address.address for address in contents.addresses if address.token in primary and not address.primary
        ),
        enis=frozenset(eni.eni_id for eni in contents.enis if eni.use is not Use.PRIMARY and eni.eni_id is not None),
        assigns={assign.token: assign.count for assign in contents.assigns if assign.eni in primary},
        creating=any(eni.state is State.CREATING for eni in contents.enis),
    )


def _finish(path: Path, remains: Remains, told: Told, *, etc: Path = dropins.HOST_ETC) -> None:
    """Cards that remain come up again with the next boot: they are kept from the host's network services still."""
    if remains.lines:
        told("files for the host's network services, and books: kept, for what remains")
        return
    dropins.remove(etc)
    told("files for the host's network services: removed")
    _forget(path)
    told("books: removed")


def _forget(path: Path) -> None:
    """All of the ledger's files, also of those that were set aside, and the Node's labels; the lock last."""
    Path(names.LABELS_FILE).unlink(missing_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    for found in path.parent.glob(f"{path.name}*"):
        if found != lock:
            found.unlink(missing_ok=True)
    lock.unlink(missing_ok=True)


async def stay(config: NodeConfig, told: Told) -> None:
    """Try until the node is clean, then rest until cancelled; /healthz says how it is.

    In the place of a daemon: its pod is Ready once its node is clean.
    """
    state = "uninstalling"
    host, port = http.parse_address(config.metrics_address)
    done = asyncio.Event()
    app = http.application(lambda: None if done.is_set() else state, lambda: None)
    runner = await http.serve(app, host=host, port=port)
    try:
        while not done.is_set():
            try:
                remains = (await uninstall(config, told)).lines
            except EniwayError as error:
                remains = (str(error),)
            if not remains:
                done.set()
            elif (now := "; ".join(remains)) != state:
                state = now
                told(f"not clean yet: {now}")
            await asyncio.sleep(_AGAIN_SECONDS)
        told("clean")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main(path: Path, *, stays: bool, told: Told) -> Remains:
    """Load the configuration and do it; what remains. ``stays``: until SIGTERM or SIGINT."""
    config = configuration.load(path)
    log.configure(config.log_level)
    if not stays:
        return asyncio.run(uninstall(config, told))
    asyncio.run(until_told(lambda: stay(config, told)))
    return Remains()
