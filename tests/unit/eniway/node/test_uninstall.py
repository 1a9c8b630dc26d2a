"""Leaving a node: whose books are believed, what they own in the cloud, and what goes last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from eniallocator.cloud.metadata import Metadata
from eniallocator.ledger import Contents, Ledger, Note, to_note
from eniallocator.lifecycle import State
from eniallocator.opening import NOTE_BOOT, NOTE_IDENTITY
from eniallocator.records import AssignRecord, Identity, Use
from eniway.config import NodeConfig
from eniway.model import EniId, InstanceId, Mac, VSwitchId
from eniway.node.app import BOOT_ID
from eniway.node.dropins import HostCards, install
from eniway.node.uninstall import Remains, _finish, _leave_cloud, _possessions, _read
from tests.unit.eniallocator.made import eni, primary_of, secondary

IDENTITY = Identity(
    instance_id=InstanceId("i-original"),
    instance_type="ecs.g7.xlarge",
    region="cn-box",
    zone="cn-box-a",
    vpc_id="vpc-1",
    primary_eni=EniId("eni-0"),
    primary_mac=Mac("00:16:3e:00:00:00"),
    primary_vswitch=VSwitchId("vsw-1"),
    primary_address=IPv4Address("10.0.0.10"),
    primary_prefix=IPv4Network("10.0.0.0/20"),
    primary_gateway=IPv4Address("10.0.15.253"),
)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.db")
    await opened.write(to_note(NOTE_IDENTITY, IDENTITY), Note(NOTE_BOOT, "of another boot"))
    yield opened
    await asyncio.to_thread(opened.close)


async def test_after_a_boot_the_ledger_does_not_say_whose_it_is(ledger: Ledger) -> None:
    """Its disk may be a copy of another node's, which lives: with a silent metadata service nothing is given back."""
    async with Metadata("http://127.0.0.1:1") as silent:
        books = await _read(ledger, silent)
        assert books.identity is None
        config = NodeConfig(cluster="box", vswitches=["vsw-1"], security_groups=["sg-1"], service_cidr="172.21.0.0/20")
        (line,) = await _leave_cloud(config, books, lambda _: None)
        assert "which instance this is could not be found out" in line
        await ledger.write(Note(NOTE_BOOT, BOOT_ID.read_text(encoding="ascii").strip()))
        assert (await _read(ledger, silent)).identity == IDENTITY


def test_the_books_own_their_enis_and_what_was_given_to_the_primary_one() -> None:
    """An assigning on another ENI goes with that."""
    primary, shared, exclusive = eni(0), eni(1), eni(2, Use.EXCLUSIVE, State.DETACHING)
    coming = replace(eni(3, state=State.CREATING), eni_id=None)
    service = secondary(primary, 1)
    contents = Contents(
        enis=(primary, shared, exclusive, coming),
        addresses=(primary_of(primary), service, primary_of(shared), secondary(shared, 1)),
        assigns=(AssignRecord("on-primary", primary.token, 3, 1.0), AssignRecord("on-shared", shared.token, 5, 1.0)),
    )
    owned = _possessions(contents, IDENTITY, cluster="box")
    assert owned.addresses == {service.address}
    assert owned.enis == {"eni-1", "eni-2"}
    assert owned.assigns == {"on-primary": 3}
    assert owned.creating


def test_the_host_s_network_services_are_let_at_our_cards_only_once_none_is_left(tmp_path: Path) -> None:
    """What remains comes up again with the next boot; and the ledger knows what it is."""
    etc, path = tmp_path / "etc", tmp_path / "ledger.db"
    for service in ("systemd", "NetworkManager", "udev"):
        (etc / service).mkdir(parents=True)
    install(HostCards("virtio_net", ("eth0",)), etc)
    Ledger.open(path).close()

    def files() -> set[Path]:
        return {found for found in tmp_path.rglob("*") if not found.is_dir() or found.is_symlink()}

    before, said = files(), list[str]()
    _finish(path, Remains(cloud=("eni-1 (InUse): Forbidden.RAM",)), said.append, etc=etc)
    assert files() == before
    assert "kept" in said[-1]
    _finish(path, Remains(), said.append, etc=etc)
    assert files() == set()
