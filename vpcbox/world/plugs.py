"""Which cards are on the wire: those attached to an instance that runs."""

import logging
from collections.abc import Awaitable, Callable

from vpcbox.world.estate import Estate
from vpcbox.world.model import Eni, InstanceStatus
from vpcbox.world.tasks import Tasks
from vpcbox.world.wire import Wire

_log = logging.getLogger(__name__)


class Plugs:
    """Plugs, unplugs and updates cards. What holds already is not asked for again."""

    def __init__(self, estate: Estate, wire: Wire, tasks: Tasks, *, retry: float) -> None:
        """``push`` and ``pull`` ask a wire that fails again after ``retry`` seconds of box time."""
        self._estate = estate
        self._wire = wire
        self._tasks = tasks
        self._retry = retry
        self._plugged: set[str] = set()

    async def plug(self, eni_id: str) -> None:
        """The ENI is a link, if its instance runs; in a turn of the caller's, who also hears of a failure."""
        eni = self._estate.enis[eni_id]
        instance = self._estate.instances.get(eni.instance_id or "")
        if eni_id not in self._plugged and instance is not None and instance.status is InstanceStatus.RUNNING:
            await self._wire.plug(self._estate.card(eni))
            self._plugged.add(eni_id)

    async def update(self, eni: Eni) -> None:
        """The ENI is about to be as given; in a turn of the caller's, as above."""
        if eni.id in self._plugged:
            await self._wire.update(self._estate.card(eni))

    async def push(self, eni_id: str) -> None:
        """As ``plug``, until the wire takes it."""
        await self._until_done(eni_id, self.plug)

    async def pull(self, eni_id: str) -> None:
        """The ENI is a link no more, wherever it was, as soon as the wire gives it back."""
        await self._until_done(eni_id, self._unplug)

    async def _unplug(self, eni_id: str) -> None:
        await self._wire.unplug(eni_id)
        self._plugged.discard(eni_id)

    async def _until_done(self, eni_id: str, change: Callable[[str], Awaitable[None]]) -> None:
        while True:
            try:
                async with self._tasks.turn(eni_id):
                    await change(eni_id)
            except Exception:  # noqa: BLE001 - whatever the wire breaks on, the state of the cloud waits for it
                _log.exception("the wire did not do its part for %s", eni_id)
                await self._estate.clock.sleep(self._retry)
            else:
                return
