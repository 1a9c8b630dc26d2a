"""The file of the places held."""

from __future__ import annotations

from pathlib import Path

from eniway.model import PodUid
from scheduler_extender.filter import Hold
from scheduler_extender.journal import COMPACT_LINES, Journal
from scheduler_extender.pods import Need


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def hold(number: int) -> Hold:
    return Hold(PodUid(f"p{number}"), Need.SHARED, {"a": 1.0})


def test_a_journal_that_cannot_be_replaced_is_written_on_and_costs_no_file_a_time(tmp_path: Path) -> None:
    """It is tried again every second. What is held is in the old file all the while, and in the new one in the end."""
    path, aside = tmp_path / "holds", tmp_path / "aside"
    journal = Journal(path)
    journal.write(map(hold, range(COMPACT_LINES)))
    # A directory of that name is replaced by no file
    path.rename(aside)
    path.mkdir()
    before = open_files()
    for _ in range(3):
        journal.compact([hold(0)])
    assert open_files() == before
    journal.write([hold(-1)])
    path.rmdir()
    aside.rename(path)
    assert len(path.read_bytes().splitlines()) == COMPACT_LINES + 1
    journal.compact([hold(0), hold(-1)])
    journal.write([hold(1)])
    journal.close()
    again = Journal(path)
    assert [found.uid for found in again.read()] == ["p0", "p-1", "p1"]
    again.close()
