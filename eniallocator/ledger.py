"""The books on disk: sqlite, WAL, synchronous=FULL, written by one thread that commits many waiters at once.

The schema holds the invariants: an ENI or address has at most one lease, a slot at most one card, and nothing that a
lease refers to can be dropped. It changes by addition only, with defaults, so that the previous release can read what
this one writes: leases of routed pods came later and have a table of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec

from eniallocator import rows
from eniallocator.records import AddressRecord, AssignRecord, Change, EniRecord, LeaseRecord, Put, RoutedAddress
from eniway import log
from eniway.errors import InvariantBroken, NotReady

_log = log.get(__name__)

VERSION: Final = 2
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS enis (
    token      TEXT PRIMARY KEY,
    use        TEXT NOT NULL,
    state      TEXT NOT NULL,
    slot       INTEGER UNIQUE,
    vswitch_id TEXT NOT NULL,
    since      REAL NOT NULL,
    wanted     INTEGER NOT NULL DEFAULT 0,
    eni_id     TEXT UNIQUE,
    mac        TEXT UNIQUE,
    address    TEXT UNIQUE,
    prefix     TEXT,
    gateway    TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS addresses (
    address    TEXT PRIMARY KEY,
    token      TEXT NOT NULL REFERENCES enis (token),
    is_primary INTEGER NOT NULL DEFAULT 0,
    released   REAL,
    orphan     INTEGER NOT NULL DEFAULT 0,
    leaving    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS addresses_of_a_card ON addresses (token);
CREATE TABLE IF NOT EXISTS leases (
    network         TEXT NOT NULL,
    container_id    TEXT NOT NULL,
    ifname          TEXT NOT NULL,
    pod_namespace   TEXT NOT NULL,
    pod_name        TEXT NOT NULL,
    pod_uid         TEXT NOT NULL,
    kind            TEXT NOT NULL,
    netns           TEXT NOT NULL,
    token           TEXT NOT NULL REFERENCES enis (token),
    address         TEXT NOT NULL UNIQUE REFERENCES addresses (address),
    service_address TEXT UNIQUE REFERENCES addresses (address),
    confirmed       INTEGER NOT NULL DEFAULT 0,
    since           REAL NOT NULL,
    PRIMARY KEY (network, container_id, ifname)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS one_exclusive_lease_a_card ON leases (token) WHERE kind = 'exclusive';
CREATE TABLE IF NOT EXISTS assigns (
    token TEXT PRIMARY KEY,
    eni   TEXT NOT NULL REFERENCES enis (token),
    count INTEGER NOT NULL,
    since REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS routed_addresses (
    address  TEXT PRIMARY KEY,
    released REAL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS routed_leases (
    network         TEXT NOT NULL,
    container_id    TEXT NOT NULL,
    ifname          TEXT NOT NULL,
    pod_namespace   TEXT NOT NULL,
    pod_name        TEXT NOT NULL,
    pod_uid         TEXT NOT NULL,
    kind            TEXT NOT NULL,
    netns           TEXT NOT NULL,
    token           TEXT NOT NULL REFERENCES enis (token),
    address         TEXT NOT NULL UNIQUE REFERENCES routed_addresses (address),
    service_address TEXT CHECK (service_address IS NULL),
    confirmed       INTEGER NOT NULL DEFAULT 0,
    since           REAL NOT NULL,
    PRIMARY KEY (network, container_id, ifname)
) STRICT, WITHOUT ROWID;
"""

_LATER: Final = (
    *(
        (table, column, "INTEGER")
        for table in ("leases", "routed_leases")
        for column in ("ingress_bandwidth", "egress_bandwidth")
    ),
    ("enis", "chosen_groups", "TEXT"),
    ("enis", "chosen_vswitch", "TEXT"),
)
"""Columns that the first releases had not: bits per second, NULL for no limit; ids, NULL for none chosen."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contents:
    """All rows, as found at the opening."""

    enis: tuple[EniRecord, ...] = ()
    addresses: tuple[AddressRecord, ...] = ()
    routed: tuple[RoutedAddress, ...] = ()
    leases: tuple[LeaseRecord, ...] = ()
    assigns: tuple[AssignRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """A value in the table of things there is one of: who the ledger belongs to, what was learnt of the cloud."""

    key: str
    value: str


class Ledger:
    """An open ledger.

    ``open``, ``note``, ``contents`` and ``close`` block and belong into a thread; ``write`` is for the loop.
    """

    def __init__(self, path: Path, database: sqlite3.Connection, lock: IO[bytes]) -> None:
        self.path = path
        self._lock = lock
        self._database = database
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._owed: tuple[_Write, ...] = ()
        """Refused by the disk, and written before anything else is. Only the writer's thread sets it."""
        self._writer = threading.Thread(target=self._commit_for_ever, name="ledger", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Open or make the ledger at ``path``; one that cannot be read is set aside, loudly, and a new one made.

        NotReady where there is no writing at all (directory missing, disk full), and while another process has it: what
        that one writes last must be read.
        """
        lock = _take_lock(path)
        try:
            return cls(path, _open(path), lock)
        except BaseException:
            lock.close()
            raise

    def contents(self) -> Contents:
        """Every record. Call before the first write."""
        return Contents(
            enis=tuple(_read(self._database, "enis", rows.eni)),
            addresses=tuple(_read(self._database, "addresses", rows.address)),
            routed=tuple(_read(self._database, "routed_addresses", rows.routed_address)),
            leases=(
                *_read(self._database, "leases", rows.lease),
                *_read(self._database, "routed_leases", rows.lease),
            ),
            assigns=tuple(_read(self._database, "assigns", rows.assign)),
        )

    def note(self, key: str) -> str | None:
        """What was last written under ``key``."""
        row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def write(self, *changes: Change | Note, owe: bool = False) -> asyncio.Future[None]:
        """Make ``changes`` durable, all or none, after all that was written before; the future is done when they are.

        It fails with NotReady when the disk refuses, with InvariantBroken when the schema does. ``owe``: what the disk
        refuses is written all the same, with whatever is asked for next and before that.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._queue.put(_Write(changes, owe, done, loop))
        return done

    @property
    def owed(self) -> int:
        """How many writes the disk has refused and not taken since."""
        return len(self._owed)

    def close(self) -> None:
        """Commit what was asked for, and what is owed if the disk takes it now, and close."""
        self._queue.put(None)
        self._writer.join()
        self._database.close()
        self._lock.close()

    def _commit_for_ever(self) -> None:
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    batch.append(self._queue.get_nowait())
            writes = [write for write in batch if write is not None]
            outcomes = self._commit(writes) if writes or self._owed else []
            if writes:
                writes[0].loop.call_soon_threadsafe(_settle, writes, outcomes)
            if len(writes) < len(batch):
                return

    def _commit(self, writes: Sequence[_Write]) -> list[Exception | None]:
        """Write what is owed, then ``writes``: in the order in which they were asked for."""
        outcomes: list[Exception | None] = []
        database, owed = self._database, self._owed
        try:
            database.execute("BEGIN IMMEDIATE")
            for write in (*owed, *writes):
                database.execute("SAVEPOINT one")
                try:
                    for change in write.changes:
                        _apply(database, change)
                    outcomes.append(None)
                except sqlite3.IntegrityError as error:
                    database.execute("ROLLBACK TO one")
                    outcomes.append(InvariantBroken(f"the ledger refuses {write.changes}: {error}"))
                database.execute("RELEASE one")
            database.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            self._owed = (*owed, *(write for write in writes if write.owe))
            return [NotReady(f"the ledger {self.path} cannot be written: {error}", after=5.0) for _ in writes]
        self._owed = ()
        for refusal in filter(None, outcomes[: len(owed)]):
            # Nobody waits for it any more.
            _log.error("the ledger contradicts the books", error=str(refusal))
        return outcomes[len(owed) :]


@dataclass(frozen=True, slots=True)
class _Write:
    changes: tuple[Change | Note, ...]
    owe: bool
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


def _settle(writes: Sequence[_Write], outcomes: Sequence[Exception | None]) -> None:
    for write, outcome in zip(writes, outcomes, strict=True):
        if write.done.cancelled():
            continue
        if outcome is None:
            write.done.set_result(None)
        else:
            write.done.set_exception(outcome)


def set_aside(path: Path, why: str) -> Path:
    """Rename a ledger and its write-ahead log out of the way; its new name."""
    kept = path.with_name(f"{path.name}.{why}.{time.time_ns()}")
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    path.rename(kept)
    return kept


def _take_lock(path: Path) -> IO[bytes]:
    """The ledger is this process's until what is returned is closed, or the process ends.

    On a file of its own: closing a descriptor of the database itself would drop sqlite's locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock").open("ab")
    except OSError as error:
        raise NotReady(f"the ledger {path} cannot be opened: {error.strerror}", after=5.0) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise NotReady(f"the ledger {path} is open in another process", after=1.0) from error
    return lock


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        # OperationalError: the file system's fault, not the content's. Any other: what stands there is no ledger of
        # ours.
        if isinstance(error, sqlite3.OperationalError):
            raise NotReady(f"the ledger {path} cannot be opened: {error}", after=5.0) from error
        kept = set_aside(path, "unreadable")
        _log.error(
            "the ledger cannot be read: set aside, rebuilding from the cloud",
            path=str(path),
            kept=str(kept),
            error=str(error),
        )
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        _check_pages(database)
        database.executescript(SCHEMA)
        for table, column, kind in _LATER:
            if column not in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}:
                database.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        if database.execute("PRAGMA user_version").fetchone()[0] < VERSION:
            database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("PRAGMA foreign_keys = ON")
        path.chmod(0o600)
        # A row that no reader understands is as bad as a torn page, and has to be seen here.
        for table, reader in (
            ("enis", rows.eni),
            ("addresses", rows.address),
            ("routed_addresses", rows.routed_address),
            ("leases", rows.lease),
            ("routed_leases", rows.lease),
            ("assigns", rows.assign),
        ):
            for _ in _read(database, table, reader):
                pass
    except BaseException:
        database.close()
        raise
    return database


def _check_pages(database: sqlite3.Connection) -> None:
    found = [row[0] for row in database.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise sqlite3.DatabaseError("; ".join(map(str, found)))


def _read(database: sqlite3.Connection, table: str, reader: Callable[[sqlite3.Row], T]) -> list[T]:
    cursor = database.cursor()
    cursor.row_factory = sqlite3.Row
    try:
        return [reader(row) for row in cursor.execute(f"SELECT * FROM {table}")]  # noqa: S608 -- a constant
    except (ValueError, IndexError) as error:
        raise sqlite3.DatabaseError(f"a row of {table} makes no sense: {error}") from error


def _apply(database: sqlite3.Connection, change: Change | Note) -> None:
    if isinstance(change, Note):
        database.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (change.key, change.value))
        return
    table, keys, row = rows.row_of(change.record)
    if isinstance(change, Put):
        others = [column for column in row if column not in keys]
        database.execute(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608 -- names of our own
            f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in others)}",
            tuple(row.values()),
        )
    else:
        where = " AND ".join(f"{key} = ?" for key in keys)
        database.execute(f"DELETE FROM {table} WHERE {where}", tuple(row[key] for key in keys))  # noqa: S608 -- as above


def to_note(key: str, value: object) -> Note:
    """A frozen dataclass as a note; addresses and networks as text."""
    return Note(key, msgspec.json.encode(value, enc_hook=str).decode())


def from_note(text: str | None, kind: type[T]) -> T | None:
    """Inverse of ``to_note``; None where there is none or where it is not understood."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=kind, dec_hook=lambda wanted, value: wanted(value))
    except (msgspec.DecodeError, ValueError):
        return None
