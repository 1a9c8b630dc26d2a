from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from eniway.errors import KernelError, NotReady
from eniway.model import Card, ContainerId, EniId, Kind, Lease, LeaseKey, Mac, PodRef, PodUid, Slot
from eniway.node.sweep import Sweeper, compare, is_namespace

CARD = Card(
    EniId("eni-1"),
    Mac("00:16:3e:00:00:01"),
    Slot(1),
    IPv4Address("10.0.0.5"),
    IPv4Network("10.0.0.0/24"),
    IPv4Address("10.0.0.253"),
)


def lease(number: int) -> Lease:
    key = LeaseKey("eniway", ContainerId(f"c{number}"), "eth0")
    pod = PodRef("default", f"pod-{number}", PodUid(f"uid-{number}"))
    return Lease(key, pod, Kind.SHARED, f"/run/netns/cni-{number}", CARD, IPv4Address("10.0.0.10") + number)


def test_a_lease_whose_sandbox_is_gone_is_released() -> None:
    """Its DEL never came, or came while the daemon was away."""
    findings = compare(leases=[lease(1), lease(2)], alive=["/run/netns/cni-2"], links={})
    assert findings.released == (lease(1).key,)
    assert findings.checked == (lease(2),)


def test_a_link_without_a_lease_is_an_orphan() -> None:
    """Its key is read from the link's alias."""
    findings = compare(leases=[lease(1)], alive=["/run/netns/cni-1"], links={lease(1).key: "a", lease(2).key: "b"})
    assert findings.orphaned == (lease(2).key,)


def test_a_plain_file_is_no_namespace(tmp_path: Path) -> None:
    """A teardown that unmounted but did not unlink leaves one."""
    left = tmp_path / "cni-1"
    left.touch()
    assert not is_namespace(str(left))
    assert not is_namespace(str(tmp_path / "none"))
    assert not is_namespace("")
    assert is_namespace("/proc/self/ns/net")


class Rooms:
    """Books that know the podCIDR, and a kernel that routes an address to a pod."""

    pod_cidr: IPv4Network | None = None
    accounted: Collection[IPv4Address] = ()
    claimed: Collection[IPv4Network] = ()

    def account(self, addresses: Collection[IPv4Address]) -> None:
        self.accounted = addresses

    async def observe_addresses(self) -> Collection[IPv4Address]:
        return {IPv4Address("172.20.1.9")}

    async def claim_ranges(self, cidrs: Collection[IPv4Network]) -> None:
        self.claimed = cidrs


async def test_a_sweep_tells_the_books_what_is_routed_and_the_kernel_what_is_the_nodes() -> None:
    """So nobody gets an address in use, and what of the podCIDR is nobody's goes nowhere."""
    rooms: Any = Rooms()
    sweeper = Sweeper(
        rooms,
        rooms,
        service_cidr=IPv4Network("172.21.0.0/20"),
        turn=lambda _: nullcontext(),
        trusted=True,
        remembered=lambda: (),
    )
    await sweeper.sweep_ranges()
    assert (rooms.accounted, rooms.claimed) == ({IPv4Address("172.20.1.9")}, ())
    rooms.pod_cidr = IPv4Network("172.20.1.0/24")
    await sweeper.sweep_ranges()
    assert rooms.claimed == (rooms.pod_cidr,)


class Trouble(Rooms):
    """One card of each use that the kernel says ``error`` about, another of each, and a pod whose DEL was missed."""

    primary = CARD

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.missing: list[Slot] = []
        self.present: list[Slot] = []
        self.held = {lease(1).key: lease(1)}

    def shared_cards(self) -> Collection[Card]:
        return [replace(CARD, slot=Slot(slot)) for slot in (1, 2)]

    def idle_exclusive_cards(self) -> Collection[Card]:
        return [replace(CARD, slot=Slot(slot)) for slot in (3, 4)]

    async def prepare_card(self, card: Card) -> bool:
        if card.slot in {1, 3}:
            raise self.error
        return False

    park_card = prepare_card

    def card_missing(self, card: Card) -> None:
        self.missing.append(card.slot)

    def card_present(self, card: Card) -> None:
        self.present.append(card.slot)

    async def start(self, **_: object) -> bool:
        return False

    async def observe_leases(self) -> dict[LeaseKey, str]:
        return {}

    def leases(self) -> Collection[Lease]:
        return tuple(self.held.values())

    def lease(self, key: LeaseKey) -> Lease | None:
        return self.held.get(key)

    async def detach(self, _: Lease) -> None:
        pass

    async def release(self, key: LeaseKey) -> None:
        del self.held[key]

    async def settle_orphans(self, _: Collection[object]) -> None:
        pass

    async def prune(self, _: object) -> int:
        return 0


@pytest.mark.parametrize(("error", "missing"), [(KernelError("EBUSY"), []), (NotReady("no link"), [1, 3])])
async def test_a_card_in_trouble_keeps_nothing_else_from_being_mended(error: Exception, missing: list[int]) -> None:
    """Other cards, missed DELs, accounts; only one whose link is away is taken out of service."""
    rooms: Any = Trouble(error)
    sweeper = Sweeper(
        rooms,
        rooms,
        service_cidr=IPv4Network("172.21.0.0/20"),
        turn=lambda _: nullcontext(),
        trusted=True,
        remembered=lambda: (),
        alive=lambda _: False,
    )
    assert await sweeper.sweep() == 1
    assert rooms.held == {}
    assert (rooms.missing, rooms.present) == (missing, [2, 4])
    assert rooms.accounted
