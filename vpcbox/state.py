"""A box as the machine sees it: a directory, a process with a start time, cgroups. What `down` has to take away."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

RECORD = "box.json"
LOG = "box.log"
CONTROL = "control.sock"
_CGROUPS = Path("/sys/fs/cgroup")
_PATIENCE = 8.0  # seconds for the kernel to end all processes of a box, and again to give up its cgroups


class StateError(Exception):
    """The directory, or what lives in it, is not as the command needs it; the text says what was expected."""


@dataclass(frozen=True)
class Record:
    """Which process the box of a directory is. A pid alone may be somebody else's by now: the start time tells."""

    id: str
    pid: int
    started: int  # proc(5): starttime, clock ticks since the machine's start

    @property
    def cgroup(self) -> str:
        """Where all cgroups of the box lie, in each hierarchy."""
        return f"vpcbox-{self.id}"


def read(state: Path) -> Record | None:
    """Return the record of the directory's box, alive or dead."""
    try:
        return Record(**json.loads((state / RECORD).read_text()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise StateError(f"{state / RECORD}: not the record of a box: {error}") from error


def write(state: Path, record: Record) -> None:
    """Note which process the box is."""
    unfinished = state / (RECORD + ".new")
    unfinished.write_text(json.dumps(asdict(record)))
    unfinished.replace(state / RECORD)


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks; None for one that is gone or only waits to be reaped."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])


def alive(record: Record) -> bool:
    """Tell whether the box's process runs."""
    return start_time(record.pid) == record.started


def living(state: Path) -> Record:
    """Return the record of the directory's running box; StateError if there is none."""
    record = read(state)
    if record is None:
        raise StateError(f"{state}: there is no box")
    if not alive(record):
        raise StateError(f"{state}: the box is dead; `vpcbox down` clears what it left")
    return record


def prepare(state: Path) -> None:
    """Make the directory of a new box; what a dead one left is cleared."""
    record = read(state)
    if record is not None and alive(record):
        raise StateError(f"{state}: a box runs there (pid {record.pid})")
    if record is not None:
        clear(state)
    state.mkdir(parents=True, exist_ok=True)
    if any(state.iterdir()):
        raise StateError(f"{state}: expected an empty directory or that of a box")
    state.chmod(0o700)


def clear(state: Path) -> bool:
    """End the directory's box and remove all it left; False if there is none. A box may be in any state, or dead."""
    record = read(state)
    if record is None:
        return False
    _end(record)
    for hierarchy in (_CGROUPS, *(entry for entry in _CGROUPS.iterdir() if entry.is_dir() and not entry.is_symlink())):
        _remove_cgroup(hierarchy / record.cgroup)
    shutil.rmtree(state)
    return True


def _end(record: Record) -> None:
    """Kill the box. It is pid 1 of its namespace: the kernel ends the rest before it lets the box itself go."""
    try:
        process = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if alive(record):  # asked after the descriptor was opened: it cannot become another process any more
            signal.pidfd_send_signal(process, signal.SIGKILL)
            ended, _, _ = select.select([process], [], [], _PATIENCE)
            if not ended:
                raise StateError(f"the box (pid {record.pid}) did not end within {_PATIENCE:.0f} s of being killed")
    finally:
        os.close(process)


def _remove_cgroup(cgroup: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    for folder, _, _ in os.walk(cgroup, topdown=False):
        while True:
            try:
                Path(folder).rmdir()
            except FileNotFoundError:
                break
            except OSError as error:  # the kernel still counts a process that is on its way out
                if time.monotonic() > deadline:
                    raise StateError(f"{folder}: cannot be removed: {error.strerror}") from error
                time.sleep(0.02)
            else:
                break
