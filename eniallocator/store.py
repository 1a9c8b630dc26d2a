"""Memory and disk in step: every change goes to both, in one order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from eniallocator.inventory import Inventory
from eniallocator.ledger import Ledger, Note
from eniallocator.records import Change
from eniway import log
from eniway.errors import EniwayError, NotReady

_log = log.get(__name__)


class Store:
    """The inventory and its ledger; ``changed`` is called after every change of the inventory."""

    def __init__(self, inventory: Inventory, ledger: Ledger, *, changed: Callable[[], None]) -> None:
        self.inventory = inventory
        self._ledger = ledger
        self._changed = changed
        self._owed: list[Change] = []

    def intend(self, *changes: Change) -> asyncio.Future[None]:
        """Change memory now, and disk by the time the future is done: before something is done that the ledger has to know of.

        NotReady, and memory as before, when the disk refuses. Cancelling who awaits it does not cancel the change.
        """
        undo = self._apply(changes)
        done = self._write(changes)

        def settle(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and done.exception() is not None:
                for change in reversed(undo):
                    self.inventory.apply(change)
                self._changed()

        done.add_done_callback(settle)
        return asyncio.shield(done)

    def settle(self, *changes: Change) -> Coroutine[None, None, None]:
        """Change memory now, and disk when awaited, after something is done: it is so, whether the disk takes it or not.

        What the disk refuses is owed: written before anything else is.
        """
        self._apply(changes)
        return self.pay(changes)

    async def pay(self, changes: tuple[Change, ...] = ()) -> None:
        """Write ``changes`` and what is owed."""
        done = self._write(changes)
        # Cases: written; the disk refuses: owed from now on (by the callback, cancelled caller or not); the schema refuses: a bug.
        done.add_done_callback(lambda done: self._owe(done, changes))
        try:
            await asyncio.shield(done)
        except NotReady as error:
            _log.error("the ledger cannot be written; going on in memory", error=str(error), owed=len(self._owed))
        except EniwayError as error:
            _log.error("the ledger contradicts the books", error=str(error))

    async def flush(self) -> None:
        """Return when all that was intended before is durable."""
        await asyncio.shield(self._write(()))

    async def note(self, note: Note) -> None:
        """Write a note; a refusal is logged, notes can be learnt again."""
        try:
            await asyncio.shield(self._ledger.write(note))
        except NotReady as error:
            _log.warning("the ledger cannot be written", error=str(error))

    @property
    def owes(self) -> bool:
        """Whether the disk lags behind memory."""
        return bool(self._owed)

    def _apply(self, changes: tuple[Change, ...]) -> list[Change]:
        undo: list[Change] = []
        try:
            for change in changes:
                inverse = self.inventory.apply(change)
                if inverse is not None:
                    undo.append(inverse)
        except EniwayError:
            for change in reversed(undo):
                self.inventory.apply(change)
            raise
        self._changed()
        return undo

    def _write(self, changes: tuple[Change, ...]) -> asyncio.Future[None]:
        owed, self._owed = self._owed, []
        done = self._ledger.write(*owed, *changes)
        if owed:
            done.add_done_callback(lambda done: self._owe(done, tuple(owed)))
        return done

    def _owe(self, done: asyncio.Future[None], changes: tuple[Change, ...]) -> None:
        if not done.cancelled() and isinstance(done.exception(), NotReady):
            self._owed.extend(changes)
