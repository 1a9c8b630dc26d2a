"""Who is at work on what: one call at a time, one change of status at a time, one word to the wire at a time."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from vpcbox.faults import Faults, Kind
from vpcbox.world.errors import Refused


class Tasks:
    """The work in progress. ``run`` must be running while changes of status are started."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._group: asyncio.TaskGroup | None = None
        self._busy: set[str] = set()
        self._changing: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    async def run(self) -> None:
        """Carry out what is started, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    def busy(self, eni_id: str) -> bool:
        """A call has the ENI to itself."""
        return eni_id in self._busy or self._faults.strike(Kind.ENI_BUSY, eni_id) is not None

    def check_idle(self, eni_id: str) -> None:
        """``Operation.Conflict`` where a call has the ENI to itself."""
        if self.busy(eni_id):
            raise Refused("Operation.Conflict", "ecs task is conflicted.")

    @contextmanager
    def alone(self, eni_id: str) -> Iterator[None]:
        """Have the ENI to oneself; only its tags and its status may change meanwhile."""
        self.check_idle(eni_id)
        self._busy.add(eni_id)
        try:
            yield
        finally:
            self._busy.remove(eni_id)

    @asynccontextmanager
    async def turn(self, eni_id: str) -> AsyncIterator[None]:
        """Speak to the wire about a card when nobody else does."""
        async with self._turns.setdefault(eni_id, asyncio.Lock()):
            yield

    def start(self, resource_id: str, status: str, change: Coroutine[Any, Any, None]) -> None:
        """Let the change take its course that ``status`` announces, unless it is under way already."""
        which = (resource_id, status)
        # One that is done stands there until the loop's next turn: too late for what it has not seen.
        under_way = which in self._changing and not self._changing[which].done()
        if self._group is None or under_way:
            change.close()
        if self._group is None:
            raise RuntimeError("the world does not run")
        if not under_way:
            task = self._group.create_task(change, name=f"{status} {resource_id}")
            self._changing[which] = task
            task.add_done_callback(lambda _: self._ended(which, task))

    def _ended(self, which: tuple[str, str], task: asyncio.Task[None]) -> None:
        if self._changing[which] is task:
            del self._changing[which]

    async def stop(self, resource_id: str) -> None:
        """End the changes of a resource half-way: whoever asks puts it in order."""
        tasks = [task for (changing, _), task in self._changing.items() if changing == resource_id]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def forget(self, eni_id: str) -> None:
        """The ENI is gone."""
        self._turns.pop(eni_id, None)
