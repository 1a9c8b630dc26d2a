"""The places held, on disk, so that a restart does not promise again what may be bound a moment later.

One JSON line a change, written before the answer leaves. Not synced: it outlives the process, and when the machine goes
the scheduler beside it goes as well. Compacted by writing it anew and renaming. A last line that was cut short is one
whose answer never left. A disk that takes nothing is told of and counted, and the holds in memory go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from eniway import log, metrics
from eniway.errors import BadConfig
from eniway.model import PodUid
from scheduler_extender.filter import Hold
from scheduler_extender.pods import Need

_log = log.get(__name__)

COMPACT_LINES: Final = 20_000
_MODE: Final = 0o600


class _Line(msgspec.Struct, frozen=True):
    """A hold as it stands; ``nodes``: until when (wall time), empty: none any more."""

    uid: PodUid
    need: Need
    nodes: dict[str, float]


class Journal:
    """One file. BadConfig where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _MODE)
        except OSError as error:
            raise BadConfig(f"journal: {path}: {error.strerror}") from error
        self._cut = False

    def read(self) -> list[Hold]:
        """What was held when the last process ended."""
        held: dict[PodUid, Hold] = {}
        content = self._path.read_bytes()
        self._cut = bool(content) and not content.endswith(b"\n")
        decoder = msgspec.json.Decoder(_Line)
        for line in content.splitlines():
            self._lines += 1
            try:
                said = decoder.decode(line)
            except msgspec.DecodeError as error:
                _log.warning("a line of the journal is passed over", path=str(self._path), error=str(error))
                continue
            held.pop(said.uid, None)
            if said.nodes:
                held[said.uid] = Hold(said.uid, said.need, said.nodes)
        return list(held.values())

    def write(self, changes: Iterable[Hold]) -> None:
        """Append changes, all in one write."""
        lines = [msgspec.json.encode(_Line(hold.uid, hold.need, dict(hold.nodes))) for hold in changes]
        if not lines:
            return
        data = b"\n" * self._cut + b"\n".join(lines) + b"\n"
        try:
            written = os.write(self._file, data)
        except OSError as error:
            self._failed(error.strerror or str(error))
            return
        # Cut short by a full disk: the next line must not continue it
        self._cut = written < len(data)
        if self._cut:
            self._failed("the disk is full")
        self._lines += len(lines)

    def compact(self, holds: Iterable[Hold]) -> None:
        """Write it anew, when it has grown long, with nothing but what is held now."""
        if self._lines < COMPACT_LINES:
            return
        draft = self._path.with_suffix(".new")
        lines = [msgspec.json.encode(_Line(hold.uid, hold.need, dict(hold.nodes))) + b"\n" for hold in holds]
        try:
            draft.write_bytes(b"".join(lines))
            fresh = os.open(draft, os.O_RDWR | os.O_APPEND, _MODE)
        except OSError as error:
            self._failed(error.strerror or str(error))
            return
        try:
            draft.replace(self._path)
        except OSError as error:
            os.close(fresh)
            self._failed(error.strerror or str(error))
            return
        os.close(self._file)
        self._file, self._lines, self._cut = fresh, len(lines), False

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _failed(self, why: str) -> None:
        metrics.JOURNAL_FAILURES.inc()
        _log.error("places held are not on disk: a restart would not know of them", path=str(self._path), error=why)
