"""The ledger on a real disk: what it keeps, what it refuses, and what it does about a file that is no ledger."""

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from eniallocator.ledger import VERSION, Contents, Ledger, Note, from_note, to_note
from eniallocator.lifecycle import State
from eniallocator.records import AssignRecord, Drop, Put, Record, RoutedAddress, TypeLimits, Use
from eniway.errors import InvariantBroken, NotReady
from eniway.model import Bandwidth, Choice, SecurityGroupId, VSwitchId
from tests.unit.eniallocator.made import POD_CIDR, eni, lease, primary_of, routed, secondary

CARD = eni(1)
OTHER = eni(2, Use.EXCLUSIVE)
FIRST = primary_of(CARD)
ADDRESSES = tuple(secondary(CARD, number) for number in range(1, 4))
EXCLUSIVE_ADDRESS = primary_of(OTHER)
ALL: tuple[Record, ...] = (CARD, OTHER, FIRST, *ADDRESSES, EXCLUSIVE_ADDRESS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(path)
    yield opened
    opened.close()


def reopened(ledger: Ledger) -> Contents:
    """What the next process finds after a kill."""
    with tempfile.TemporaryDirectory() as directory:
        for file in ledger.path.parent.glob(f"{ledger.path.name}*"):
            shutil.copy(file, directory)
        second = Ledger.open(Path(directory) / ledger.path.name)
        try:
            return second.contents()
        finally:
            second.close()


async def test_a_ledger_is_one_process_s_until_it_is_closed(ledger: Ledger) -> None:
    """A successor that read before the last commit would not know of it."""
    with pytest.raises(NotReady, match="open in another process"):
        Ledger.open(ledger.path)
    last = ledger.write(Put(CARD))
    await asyncio.to_thread(ledger.close)
    await last
    second = Ledger.open(ledger.path)
    assert second.contents().enis == (CARD,)
    second.close()


async def test_everything_written_is_found_again(ledger: Ledger) -> None:
    """Records of every kind come back as they were."""
    held = replace(lease("web", CARD, ADDRESSES[0]), bandwidth=Bandwidth(ingress=10**6))
    exclusive = lease("db", OTHER, EXCLUSIVE_ADDRESS, service=ADDRESSES[2])
    resting = replace(ADDRESSES[1], released=17.5, orphan=True, leaving=True)
    assign = AssignRecord("token", CARD.token, 5, 3.0)
    address, of_a_route = routed("cron", CARD, POD_CIDR[7])
    was_routed = RoutedAddress(POD_CIDR[8], 19.5)
    await ledger.write(*map(Put, ALL), Put(resting), Put(held), Put(exclusive), Put(assign))
    await ledger.write(Put(address), Put(of_a_route), Put(was_routed))
    found = reopened(ledger)
    assert set(found.enis) == {CARD, OTHER}
    assert set(found.addresses) == {FIRST, ADDRESSES[0], resting, ADDRESSES[2], EXCLUSIVE_ADDRESS}
    assert set(found.leases) == {held, exclusive, of_a_route}
    assert set(found.routed) == {address, was_routed}
    assert found.assigns == (assign,)
    await ledger.write(Drop(of_a_route), Drop(address))
    assert set(reopened(ledger).leases) == {held, exclusive}


@pytest.mark.parametrize(
    "choice",
    [
        Choice((SecurityGroupId("sg-1"), SecurityGroupId("sg-2")), VSwitchId("vsw-9")),
        Choice(vswitch=VSwitchId("vsw-9")),
        Choice((SecurityGroupId("sg-1"),)),
    ],
)
async def test_what_a_card_was_made_for_is_found_again(ledger: Ledger, choice: Choice) -> None:
    """Before it exists: its creation is gone on with as it was begun."""
    made = replace(OTHER, state=State.CREATING, choice=choice)
    await ledger.write(Put(made))
    assert reopened(ledger).enis == (made,)


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (lease("other", CARD, ADDRESSES[0]), "leases.address"),
        (replace(lease("db-2", OTHER, EXCLUSIVE_ADDRESS), address=ADDRESSES[1].address), "leases.token"),
        (lease("db-3", CARD, ADDRESSES[1], service=ADDRESSES[2]), "leases.service_address"),
    ],
    ids=["an address", "an exclusive ENI", "a service address"],
)
async def test_nothing_is_leased_twice(ledger: Ledger, second: object, what: str) -> None:
    """The schema itself refuses a second lease."""
    first = (lease("web", CARD, ADDRESSES[0]), lease("db", OTHER, EXCLUSIVE_ADDRESS, service=ADDRESSES[2]))
    await ledger.write(*map(Put, ALL), *map(Put, first))
    with pytest.raises(InvariantBroken, match=what):
        await ledger.write(Put(second))  # type: ignore[arg-type]  # a lease
    assert set(reopened(ledger).leases) == set(first)


async def test_no_routed_address_is_leased_twice_or_dropped_under_a_lease(ledger: Ledger) -> None:
    """The same laws as for the addresses of cards."""
    address, held = routed("web", CARD, POD_CIDR[7])
    await ledger.write(*map(Put, ALL), Put(address), Put(held))
    with pytest.raises(InvariantBroken, match=r"routed_leases\.address"):
        await ledger.write(Put(routed("other", CARD, POD_CIDR[7])[1]))
    for record in (address, CARD):
        with pytest.raises(InvariantBroken, match="FOREIGN KEY"):
            await ledger.write(Drop(record))
    assert reopened(ledger).leases == (held,)


async def test_the_first_release_reads_a_ledger_with_routed_leases(ledger: Ledger) -> None:
    """It knew of no such kind: a row of it among its own would have made the whole ledger unreadable."""
    await ledger.write(*map(Put, ALL), Put(lease("web", CARD, ADDRESSES[0])))
    address, held = routed("cron", CARD, POD_CIDR[7])
    await ledger.write(Put(address), Put(held))
    with sqlite3.connect(ledger.path) as other:
        kinds = {row[0] for row in other.execute("SELECT kind FROM leases")}
        columns = [row[1] for row in other.execute("PRAGMA table_info(leases)")]
    other.close()
    assert kinds == {"shared"}
    assert columns[8:13] == ["token", "address", "service_address", "confirmed", "since"]
    assert columns[13:] == ["ingress_bandwidth", "egress_bandwidth"]


async def test_a_ledger_from_before_bandwidth_is_read_and_may_be_written_by_its_release(path: Path) -> None:
    """Its leases have no limit; what that release writes beside ours leaves ours as it was."""
    limited = replace(lease("web", CARD, ADDRESSES[0]), bandwidth=Bandwidth(10**6, 10**9))
    ledger = Ledger.open(path)
    await ledger.write(*map(Put, ALL), Put(limited))
    with sqlite3.connect(ledger.path) as other:
        other.execute("UPDATE leases SET confirmed = 1")
        other.execute("ALTER TABLE routed_leases DROP COLUMN ingress_bandwidth")
        other.execute("ALTER TABLE routed_leases DROP COLUMN egress_bandwidth")
    other.close()
    address, held = routed("cron", CARD, POD_CIDR[7])
    ledger.close()
    later = Ledger.open(path)
    await later.write(Put(address), Put(replace(held, bandwidth=Bandwidth(egress=5000))))
    assert set(later.contents().leases) == {
        replace(limited, confirmed=True),
        replace(held, bandwidth=Bandwidth(egress=5000)),
    }
    later.close()


@pytest.mark.parametrize("record", [CARD, ADDRESSES[0]], ids=["card", "address"])
async def test_nothing_leased_can_be_dropped(ledger: Ledger, record: object) -> None:
    """What a lease refers to stays, whoever asks."""
    await ledger.write(*map(Put, ALL), Put(lease("web", CARD, ADDRESSES[0])))
    with pytest.raises(InvariantBroken, match="FOREIGN KEY"):
        await ledger.write(Drop(record))  # type: ignore[arg-type]  # a record
    assert set(ALL) <= {*reopened(ledger).enis, *reopened(ledger).addresses}


async def test_one_bad_write_does_not_take_its_neighbours_along(ledger: Ledger) -> None:
    """Writes that share a commit fail each for itself, and each is all or nothing."""
    await ledger.write(*map(Put, ALL), Put(lease("web", CARD, ADDRESSES[0])))
    good = ledger.write(Put(lease("good", CARD, ADDRESSES[1])))
    bad = ledger.write(Put(replace(CARD, wanted=9)), Put(lease("bad", CARD, ADDRESSES[0])))
    after = ledger.write(Put(lease("after", CARD, ADDRESSES[2])))
    outcomes = await asyncio.gather(good, bad, after, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), InvariantBroken, type(None)]
    found = reopened(ledger)
    assert {held.key.container_id for held in found.leases} == {"web", "good", "after"}
    assert CARD in found.enis


async def test_many_waiters_share_a_commit(ledger: Ledger) -> None:
    """A hundred writes at once are far fewer commits than a hundred."""
    await ledger.write(Put(CARD))
    commits: list[str] = []
    ledger._database.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    await asyncio.gather(*(ledger.write(Put(secondary(CARD, number))) for number in range(1, 101)))
    assert len(commits) < 50
    assert len(reopened(ledger).addresses) == 100


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 8000], ids=["text", "torn"])
def test_what_is_no_ledger_is_set_aside(path: Path, content: bytes) -> None:
    """The file is kept for a person to look at, and a new one begun."""
    path.parent.mkdir()
    path.write_bytes(content)
    ledger = Ledger.open(path)
    try:
        assert ledger.contents() == Contents()
    finally:
        ledger.close()
    (kept,) = path.parent.glob("ledger.db.unreadable.*")
    assert kept.read_bytes() == content


def test_a_truncated_ledger_is_set_aside(ledger: Ledger, path: Path) -> None:
    """Half a ledger is none."""

    async def write() -> None:
        await ledger.write(*map(Put, ALL))

    asyncio.run(write())
    ledger.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    second = Ledger.open(path)
    assert second.contents() == Contents()
    second.close()


async def test_a_row_that_makes_no_sense_is_seen_at_the_opening(ledger: Ledger, path: Path) -> None:
    """Values nobody understands are as bad as torn pages."""
    await ledger.write(*map(Put, ALL))
    with sqlite3.connect(path) as other:
        other.execute("UPDATE enis SET state = 'floating'")
    other.close()
    assert reopened(ledger) == Contents()


async def test_what_a_later_release_added_is_no_obstacle(ledger: Ledger, path: Path) -> None:
    """The schema grows by columns with defaults and by tables: this release reads and writes on."""
    await ledger.write(*map(Put, ALL))
    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE leases ADD COLUMN bandwidth INTEGER NOT NULL DEFAULT 0")
        other.execute("CREATE TABLE routes (cidr TEXT PRIMARY KEY)")
        other.execute(f"PRAGMA user_version = {VERSION + 1}")
    other.close()
    ledger.close()
    later = Ledger.open(path)
    held = lease("web", CARD, ADDRESSES[0])
    await later.write(Put(held))
    assert later.contents().leases == (held,)
    assert later._database.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)
    later.close()


async def test_a_full_disk_refuses_and_loses_nothing(ledger: Ledger) -> None:
    """A limit of pages stands for the disk: the write is refused as a whole, and taken when there is room."""
    await ledger.write(Put(CARD))
    (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
    ledger._database.execute(f"PRAGMA max_page_count = {pages}")
    many = [Put(secondary(CARD, number)) for number in range(1, 241)]
    with pytest.raises(NotReady, match=r"ledger.db cannot be written: database or disk is full"):
        await ledger.write(*many)
    assert ledger.contents().addresses == ()
    ledger._database.execute("PRAGMA max_page_count = 100000")
    await ledger.write(*many)
    assert len(ledger.contents().addresses) == 240


def test_a_ledger_where_none_can_be_is_not_ready(tmp_path: Path) -> None:
    """A path that cannot be written to is said, not worked around."""
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(NotReady, match="cannot be opened"):
        Ledger.open(tmp_path / "ledger.db")


async def test_notes_are_kept_and_may_be_unknown(ledger: Ledger) -> None:
    """What was learnt comes back as what it was, and what cannot be understood is not there."""
    limits = TypeLimits(enis=4, addresses_per_eni=15)
    await ledger.write(to_note("limits", limits), Note("strange", "{}"))
    assert from_note(ledger.note("limits"), TypeLimits) == limits
    assert from_note(ledger.note("strange"), TypeLimits) is None
    assert from_note(ledger.note("never written"), TypeLimits) is None
