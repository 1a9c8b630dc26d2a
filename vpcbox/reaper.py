"""A duty of pid 1: orphans that end are waited for, and nobody else's children are."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path


async def reap_orphans(every: float = 1.0) -> None:
    """Reap children that have been dead for a whole round, until cancelled.

    The loop reaps a child that somebody waits for in the turn after its end, and a round has many turns: what is still
    dead after one was left to pid 1 by a parent that ended first.
    """
    dead: set[int] = set()
    while True:
        await asyncio.sleep(every)
        still = _dead_children()
        for pid in dead & still:
            _reap(pid)
        dead = still - dead


def _reap(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def _dead_children() -> set[int]:
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return set()
    except ChildProcessError:
        return set()
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    return {int(pid) for pid in children if _state(pid) == "Z"}


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
