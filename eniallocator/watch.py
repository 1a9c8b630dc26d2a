"""Waiting for asynchronous changes of ENIs.

One Describe for everybody who waits, at the pace of whoever is due first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from eniallocator.clock import Clock
from eniallocator.cloud.api import CloudApi, Eni
from eniallocator.cloud.errors import ApiError
from eniway.errors import DeadlineExceeded
from eniway.model import EniId

GROWTH: Final = 1.5
LONGEST: Final = 15.0
"""Seconds between two looks, at most."""
GATHER: Final = 2.0
"""Whoever is due within this time is looked at together: no longer, or it would be looked at too early to be told."""
HURRY: Final = 0.3
"""The link of a card and its status follow each other as closely, in either order."""


@dataclass(slots=True, eq=False)
class _Wait:
    eni_id: EniId
    accept: Callable[[Eni | None], bool]
    seen: asyncio.Future[Eni | None]
    look_at: float
    pause: float


class Watch:
    """``until`` waits, ``run`` looks."""

    def __init__(self, cloud: CloudApi, clock: Clock) -> None:
        self._cloud = cloud
        self._clock = clock
        self._waits: list[_Wait] = []
        self._sooner = asyncio.Event()

    async def until(
        self, eni_id: EniId, accept: Callable[[Eni | None], bool], *, first: float, pause: float, deadline: float
    ) -> Eni | None:
        """The ENI as soon as it is seen as ``accept`` wants it (None: the cloud knows none of that id).

        Looked at after ``first`` seconds, then every ``pause``, ever longer. DeadlineExceeded at ``deadline``.
        """
        wait = _Wait(eni_id, accept, asyncio.get_running_loop().create_future(), self._clock.monotonic() + first, pause)
        self._waits.append(wait)
        self._sooner.set()
        try:
            async with self._clock.timeout_at(deadline):
                return await wait.seen
        except TimeoutError as error:
            raise DeadlineExceeded(f"waited for a change of {eni_id}") from error
        finally:
            self._waits.remove(wait)

    async def look(self, eni_id: EniId, *, deadline: float) -> Eni | None:
        """The ENI as it is now."""
        return await self.until(eni_id, lambda _: True, first=0.0, pause=1.0, deadline=deadline)

    def hurry(self, eni_id: EniId) -> None:
        """There is reason to look now (its link has appeared)."""
        for wait in self._waits:
            if wait.eni_id == eni_id:
                wait.look_at, wait.pause = min(wait.look_at, self._clock.monotonic() + HURRY), 0.5
        self._sooner.set()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self._sooner.clear()
            now = self._clock.monotonic()
            due = min((wait.look_at for wait in self._waits), default=None)
            if due is not None and due <= now:
                await self._look({wait: wait.look_at for wait in self._waits if wait.look_at <= now + GATHER})
            elif due is None:
                await self._sooner.wait()
            else:
                try:
                    async with self._clock.timeout_at(due):
                        await self._sooner.wait()
                except TimeoutError:
                    continue

    async def _look(self, waits: Mapping[_Wait, float]) -> None:
        """Look at ``waits``, each with the time for which it was due."""
        ids = sorted({wait.eni_id for wait in waits})
        try:
            found = {eni.eni_id: eni for eni in await self._cloud.enis(ids=ids)}
        except ApiError as error:
            # Logged where it was mapped. No answer says nothing about the ENIs: look again later.
            again = self._clock.monotonic() + max(error.patience[0], 1.0)
            for wait in waits:
                wait.look_at = again
            return
        now = self._clock.monotonic()
        for wait in waits:
            eni = found.get(wait.eni_id)
            if wait.accept(eni):
                if not wait.seen.done():
                    wait.seen.set_result(eni)
                wait.look_at = float("inf")
            elif wait.look_at == waits[wait]:
                # Whoever hurried it meanwhile is not put off.
                wait.look_at = now + wait.pause
                wait.pause = min(LONGEST, wait.pause * GROWTH)
