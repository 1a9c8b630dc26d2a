"""A slot passes from exclusive to shared pods, with kubelet's consent.

kubelet gives a slot away without asking, to whom it does not say. So a slot that shared pods need is first shown as
unhealthy; it is taken only when kubelet neither lists it as allocatable nor as any pod's, at two looks in a row: an
Allocate that was under way has arrived by then. An Allocate at any time before a shared card stands in it wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from eniallocator.clock import Clock
from eniway import log
from eniway.errors import NotReady
from eniway.model import Slot

LOOK_SECONDS: Final = 1.0
"""Between two looks: longer than an Allocate is on its way."""
MOST_LOOKS: Final = 5
KEPT_SECONDS: Final = 60.0
"""A slot that kubelet has not let go of after so many looks has a pod; it is not claimed again for a while."""

_log = log.get(__name__)

KubeletSlots = Callable[[], Awaitable[Collection[Slot]]]
"""Slots that kubelet may give away or has given to a pod; NotReady."""


class Handover:
    """``claim`` slots and ``run``; ``changed`` is told whenever ``moving`` or ``taken`` are others."""

    def __init__(self, kubelet: KubeletSlots, *, clock: Clock, changed: Callable[[], None]) -> None:
        self._kubelet = kubelet
        self._clock = clock
        self._changed = changed
        self._looks: dict[Slot, int] = {}
        """Moving slots: how often seen let go (positive), or kept (negative), in a row."""
        self._kept: dict[Slot, float] = {}
        self._taken: set[Slot] = set()
        self._news = asyncio.Event()

    @property
    def moving(self) -> Collection[Slot]:
        """Shown as unhealthy, and not let go by kubelet yet."""
        return self._looks.keys()

    @property
    def taken(self) -> Collection[Slot]:
        """Ours to put a shared card into."""
        return self._taken

    def kept(self, now: float) -> frozenset[Slot]:
        """Slots that kubelet did not let go of lately."""
        return frozenset(slot for slot, until in self._kept.items() if until > now)

    def claim(self, slot: Slot) -> None:
        """Shared pods need ``slot``."""
        if slot not in self._taken:
            self._looks.setdefault(slot, 0)
            self._news.set()

    def wanted(self, slot: Slot) -> None:
        """No: kubelet gave ``slot`` to a pod."""
        self._looks.pop(slot, None)
        self._taken.discard(slot)

    def settle(self, *, needed: bool, filling: Collection[Slot]) -> bool:
        """Give back what nobody needs any more; whether there was anything.

        ``needed``: shared pods still need slots; ``filling``: taken ones that are being made room in or filled.
        """
        idle = self._taken - set(filling)
        self._taken -= idle
        if needed:
            return bool(idle)
        given_up = bool(self._looks)
        self._looks.clear()
        return given_up or bool(idle)

    async def run(self) -> None:
        """Ask kubelet for ever, while anything is moving."""
        while True:
            if not self._looks:
                self._news.clear()
                await self._news.wait()
            try:
                kept = await self._kubelet()
            except NotReady as error:
                _log.warning("kubelet cannot be asked which slots it may give away", error=str(error))
            else:
                self._look(kept)
            await self._clock.sleep(LOOK_SECONDS)

    def _look(self, kept: Collection[Slot]) -> None:
        changed = False
        for slot, looks in tuple(self._looks.items()):
            if slot in kept:
                self._looks[slot] = min(looks, 0) - 1
                if self._looks[slot] <= -MOST_LOOKS:
                    del self._looks[slot]
                    self._kept[slot] = self._clock.monotonic() + KEPT_SECONDS
                    changed = True
            elif looks <= 0:
                self._looks[slot] = 1
            else:
                del self._looks[slot]
                self._taken.add(slot)
                changed = True
                _log.info("a slot passes to shared pods", slot=slot)
        if changed:
            self._changed()
