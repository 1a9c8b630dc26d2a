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

    def intend(self, *changes: Change) -> asyncio.Future[None]:
        """Change memory now, and disk by the time the future is done.

        For what the ledger has to know of before it is done. NotReady, and memory as before, when the disk refuses.
        Cancelling who awaits it does not cancel the change.
        """
        undo = self._apply(changes)
        done = self._ledger.write(*changes)

        def settle(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and done.exception() is not None:
                for change in reversed(undo):
                    self.inventory.apply(change)
                self._changed()

        done.add_done_callback(settle)
        self._changed()
        return asyncio.shield(done)

    def settle(self, *changes: Change) -> Coroutine[None, None, None]:
        """Change memory now, and disk by the time the coroutine is done.

        For what is so, whether the disk takes it or not: what it refuses is owed, and written before anything else is.
        """
        self._apply(changes)
        done = self._ledger.write(*changes, owe=True)
        self._changed()
        return self._outcome(done)

    def record(self, *changes: Change) -> None:
        """Change memory now and disk soon: for what a restart would find out by itself, and nobody waits to hear."""
        self._apply(changes)
        self._ledger.write(*changes, owe=True).add_done_callback(self._log_outcome)

    async def pay(self) -> None:
        """Write what is owed."""
        await self._outcome(self._ledger.write())

    async def flush(self) -> None:
        """Return when all that was intended before is durable."""
        await asyncio.shield(self._ledger.write())

    async def note(self, *notes: Note) -> bool:
        """Write notes, and say whether they are written; a refusal is logged, most notes can be learnt again."""
        try:
            await asyncio.shield(self._ledger.write(*notes))
        except NotReady as error:
            _log.warning("the ledger cannot be written", error=str(error))
            return False
        return True

    @property
    def owes(self) -> bool:
        """Whether the disk lags behind memory."""
        return self._ledger.owed > 0

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
        return undo

    async def _outcome(self, done: asyncio.Future[None]) -> None:
        await asyncio.wait([done])
        self._log_outcome(done)

    def _log_outcome(self, done: asyncio.Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, NotReady):
            _log.error("the ledger cannot be written; going on in memory", error=str(error), owed=self._ledger.owed)
        elif isinstance(error, EniwayError):
            # The schema refuses: a bug, and nothing that writing it again would mend.
            _log.error("the ledger contradicts the books", error=str(error))
        elif error is not None:
            raise error
