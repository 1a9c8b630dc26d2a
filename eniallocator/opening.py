"""Opening the ledger: whose it is, and whether it may be believed.

A boot id is random, so a ledger of this boot is this instance's and is believed without asking anybody. After a boot,
or on a disk cloned from another instance, the metadata service says who we are: another instance's ledger is set aside.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from random import Random
from typing import Final

from eniallocator.clock import Clock
from eniallocator.cloud.api import VSwitch
from eniallocator.cloud.metadata import Metadata
from eniallocator.ledger import Contents, Ledger, Note, from_note, set_aside, to_note
from eniallocator.lifecycle import State
from eniallocator.records import AddressRecord, Change, Drop, EniRecord, Identity, Put, TypeLimits, Use
from eniallocator.routed import NOTE_FORWARDS, NOTE_OURS, NOTE_POD_CIDR
from eniallocator.survey import NOTE_LIMITS, NOTE_VSWITCHES
from eniallocator.vswitches import VSwitches
from eniway import log
from eniway.backoff import full_jitter
from eniway.config import NodeConfig
from eniway.errors import NotReady
from eniway.model import Slot, VSwitchId

_log = log.get(__name__)

NOTE_IDENTITY: Final = "identity"
NOTE_BOOT: Final = "boot_id"
NOTE_COMPLETE: Final = "complete"
"""Cards, addresses and leases of this node are all in the ledger, or never were anywhere else."""
PRIMARY_TOKEN: Final = "primary"  # noqa: S105 -- names a row


@dataclass(frozen=True, slots=True)
class Opening:
    """What the books start from."""

    ledger: Ledger
    contents: Contents
    identity: Identity
    limits: TypeLimits | None
    vswitches: VSwitches
    pod_cidr: IPv4Network | None
    """The Node's, as it was noted."""
    forwards: bool
    """The primary ENI carries packets of routed pods."""
    opened_by_us: bool
    """We turned its source check off for them, and nobody else did."""
    rebuilt: bool
    """What was leased before may not be known: found addresses, and links that carry a key, may be in use."""


async def open_ledger(
    path: Path, *, config: NodeConfig, boot_id: str, metadata: Metadata, clock: Clock, random: Random
) -> Opening:
    """Open or make the ledger at ``path``. Waits for the metadata service only where the ledger is not of this boot."""
    ledger = await _open(path, clock, random)
    identity = noted = from_note(ledger.note(NOTE_IDENTITY), Identity)
    if identity is None or ledger.note(NOTE_BOOT) != boot_id:
        found = await _identify(metadata, clock, random)
        if identity is not None and identity.instance_id != found.instance_id:
            await asyncio.to_thread(ledger.close)
            kept = set_aside(path, f"of-{identity.instance_id}")
            _log.error(
                "the ledger is of another instance: set aside",
                kept=str(kept),
                ledger=identity.instance_id,
                instance=found.instance_id,
            )
            ledger = await _open(path, clock, random)
        elif identity is None and ledger.contents().enis:
            await asyncio.to_thread(ledger.close)
            _log.error("the ledger does not say whose it is: set aside", kept=str(set_aside(path, "nameless")))
            ledger = await _open(path, clock, random)
        identity = found
    contents = ledger.contents()
    same_type = noted is not None and noted.instance_type == identity.instance_type
    # Of the ledger as it was found; what is written now goes with the first write that gets through.
    opening = Opening(
        ledger=ledger,
        contents=_with_primary(contents, identity, clock),
        identity=identity,
        limits=from_note(ledger.note(NOTE_LIMITS), TypeLimits) if same_type else None,
        vswitches=_vswitches(ledger.note(NOTE_VSWITCHES), config, identity, now=clock.monotonic()),
        pod_cidr=from_note(ledger.note(NOTE_POD_CIDR), IPv4Network),
        forwards=from_note(ledger.note(NOTE_FORWARDS), bool) is True,
        opened_by_us=from_note(ledger.note(NOTE_OURS), bool) is True,
        rebuilt=ledger.note(NOTE_COMPLETE) is None,
    )
    addresses = {address.address for address in opening.contents.addresses}
    new: list[Change] = [Drop(address) for address in contents.addresses if address.address not in addresses]
    new += [Put(eni) for eni in opening.contents.enis if eni not in contents.enis]
    new += [Put(address) for address in opening.contents.addresses if address not in contents.addresses]
    try:
        await ledger.write(*new, to_note(NOTE_IDENTITY, identity), Note(NOTE_BOOT, boot_id))
    except NotReady as error:
        _log.error("the ledger cannot be written; going on with what it says", error=str(error))
    return opening


async def _open(path: Path, clock: Clock, random: Random) -> Ledger:
    for delay in full_jitter(base=0.5, cap=10.0, random=random):
        try:
            return await asyncio.to_thread(Ledger.open, path)
        except NotReady as error:
            _log.error("the ledger cannot be opened; trying again", error=str(error), after=round(delay, 1))
        await clock.sleep(delay)
    raise AssertionError("full_jitter is endless")


async def _identify(metadata: Metadata, clock: Clock, random: Random) -> Identity:
    for delay in full_jitter(base=0.2, cap=5.0, random=random):
        try:
            return await metadata.identity()
        except NotReady as error:
            _log.warning(
                "the metadata service does not say who this node is; trying again",
                error=str(error),
                after=round(delay, 1),
            )
        await clock.sleep(delay)
    raise AssertionError("full_jitter is endless")


def _with_primary(contents: Contents, identity: Identity, clock: Clock) -> Contents:
    """The primary card is known from metadata and needs no cloud; its address may change while the instance stands."""
    known = next((eni for eni in contents.enis if eni.use is Use.PRIMARY), None)
    primary = EniRecord(
        token=PRIMARY_TOKEN,
        use=Use.PRIMARY,
        state=State.READY,
        slot=Slot(0),
        vswitch_id=identity.primary_vswitch,
        since=clock.wall() if known is None else known.since,
        eni_id=identity.primary_eni,
        mac=identity.primary_mac,
        address=identity.primary_address,
        prefix=identity.primary_prefix,
        gateway=identity.primary_gateway,
    )
    if primary == known:
        return contents
    first = AddressRecord(identity.primary_address, PRIMARY_TOKEN, primary=True)
    return replace(
        contents,
        enis=(*(eni for eni in contents.enis if eni is not known), primary),
        addresses=(
            *(
                other
                for other in contents.addresses
                if other.address != first.address and not (other.primary and other.token == PRIMARY_TOKEN)
            ),
            first,
        ),
    )


def _vswitches(note: str | None, config: NodeConfig, identity: Identity, *, now: float) -> VSwitches:
    vswitches = VSwitches([VSwitchId(vswitch_id) for vswitch_id in config.vswitches], zone=identity.zone)
    vswitches.learn(from_note(note, tuple[VSwitch, ...]) or (), now=now)
    return vswitches
