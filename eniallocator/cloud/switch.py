"""How much of the cloud may be touched, by a file that a person can change while the daemon runs.

For the day on which something goes wrong at scale: ``no-releases`` keeps every ENI and address where it is, ``none``
makes no OpenAPI call at all. Pods are served from what is there either way. The file is of a ConfigMap of its own
(``kubectl -n kube-system create configmap eniway-switch --from-literal=cloud-calls=none``); none: all calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from eniallocator.clock import Clock
from eniway import log

POLL_SECONDS: Final = 5.0

_log = log.get(__name__)


class Calls(StrEnum):
    """Which calls may be made; the words of the file."""

    ALL = "all"
    NO_RELEASES = "no-releases"
    NONE = "none"


RELEASES: Final = frozenset(
    {
        "UnassignPrivateIpAddresses",
        "DetachNetworkInterface",
        "DeleteNetworkInterface",
        "DeleteRouteEntries",
        "DeleteRouteEntry",
    }
)
"""Actions that give something back."""


class Switch:
    """``follow`` the file; ``calls`` is what it said last. A word it does not know changes nothing, and is logged."""

    def __init__(self, path: Path | None = None, *, calls: Calls = Calls.ALL) -> None:
        self._path = path
        self._complained = ""
        self.calls = calls

    @classmethod
    async def at(cls, path: Path) -> Switch:
        """The switch as the file at ``path`` has it."""
        switch = cls(path)
        await asyncio.to_thread(switch.look)
        return switch

    def forbids(self, action: str) -> bool:
        """Whether a call of ``action`` may not be made now."""
        return self.calls is Calls.NONE or (self.calls is Calls.NO_RELEASES and action in RELEASES)

    def look(self) -> bool:
        """Read the file; whether ``calls`` has changed. Blocks."""
        if self._path is None:
            return False
        try:
            word = self._path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            word = Calls.ALL.value
        except (OSError, UnicodeDecodeError) as error:
            word = str(error)
        if word not in set(Calls):
            if word != self._complained:
                _log.error(
                    "the switch says what is not known; going on as before",
                    file=str(self._path),
                    said=word[:100],
                    expected=[*Calls],
                    calls=self.calls.value,
                )
            self._complained = word
            return False
        self._complained = ""
        changed = self.calls != word
        if changed:
            _log.warning("OpenAPI calls", allowed=word, before=self.calls.value)
        self.calls = Calls(word)
        return changed

    async def follow(self, changed: Callable[[], None], *, clock: Clock) -> None:
        """Look at the file for ever; ``changed`` is told."""
        while True:
            if await asyncio.to_thread(self.look):
                changed()
            await clock.sleep(POLL_SECONDS)
