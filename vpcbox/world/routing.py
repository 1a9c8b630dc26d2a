"""Writes to the route tables: one at a time in a VPC, begun now and in force a moment later."""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from vpcbox.faults import Kind
from vpcbox.world.errors import Refused
from vpcbox.world.estate import Estate
from vpcbox.world.model import NextHopType, RouteEntry, RouteStatus, RouteType
from vpcbox.world.route_table import RouteTable
from vpcbox.world.tasks import Tasks
from vpcbox.world.wire import Wire

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An entry to be made."""

    table_id: str
    destination: IPv4Network
    next_hop_id: str
    next_hop_type: NextHopType = NextHopType.INSTANCE
    name: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Unwanted:
    """An entry to be deleted: the one of that id, or the one that leads there by that hop."""

    table_id: str
    entry_id: str | None = None
    destination: IPv4Network | None = None
    next_hop_id: str = ""


class Routing:
    """Makes and deletes custom entries. What is refused in a list leaves the rest of it alone.

    An entry outlives its next hop: it then leads nowhere, until it is deleted.
    """

    def __init__(self, estate: Estate, wire: Wire, tasks: Tasks, *, takes: float, retry: float) -> None:
        """A write takes so many seconds of box time; a wire that fails is asked again after ``retry``."""
        self._estate = estate
        self._wire = wire
        self._tasks = tasks
        self._takes = takes
        self._retry = retry

    def create(self, wanted: Sequence[Wanted], *, around_vswitches: bool) -> list[RouteEntry | Refused]:
        """Pending now and Available later, each of them or what speaks against it; raises ``TaskConflict``."""
        tables = self._free(want.table_id for want in wanted)
        made: list[RouteEntry | Refused] = []
        for want in wanted:
            table = tables[want.table_id]
            try:
                table.check(want.destination, around_vswitches=around_vswitches)
                eni_id = self._card(want, table.vpc.id)
            except Refused as refused:
                made.append(refused)
            else:
                entry = table.add(
                    want.destination,
                    want.next_hop_type,
                    want.next_hop_id,
                    eni_id,
                    self._estate.clock.now(),
                    name=want.name,
                    description=want.description,
                )
                made.append(entry)
        for table in tables.values():
            if table.changing:
                self._tasks.start(table.id, RouteStatus.PENDING, self._creating(table))
        return made

    def delete(self, unwanted: Sequence[Unwanted]) -> list[RouteEntry | Refused]:
        """Deleting now and gone later, each of them or what speaks against it; raises ``TaskConflict``."""
        tables = self._free(which.table_id for which in unwanted)
        deleted: list[RouteEntry | Refused] = []
        for which in unwanted:
            table = tables[which.table_id]
            try:
                entry = _find(table, which)
            except Refused as refused:
                deleted.append(refused)
            else:
                table.move(entry.id, RouteStatus.DELETING, self._estate.clock.now())
                deleted.append(table.entries[entry.id])
        for table in tables.values():
            if table.changing:
                self._tasks.start(table.id, RouteStatus.DELETING, self._deleting(table))
        return deleted

    def _free(self, table_ids: Iterable[str]) -> dict[str, RouteTable]:
        """The tables, none of which is being written to."""
        tables = {table_id: self._estate.route_table(table_id) for table_id in table_ids}
        busy = (self._estate.faults.strike(Kind.VPC_BUSY, table.vpc.id) for table in tables.values())
        if any(table.changing for table in tables.values()) or any(busy):
            raise Refused("TaskConflict", "The operation is too frequent, please wait a moment and try again.")
        return tables

    def _card(self, want: Wanted, vpc_id: str) -> str:
        """The ENI behind a next hop."""
        if want.next_hop_type is NextHopType.NETWORK_INTERFACE:
            eni = self._estate.enis.get(want.next_hop_id)
            if eni is None:
                raise Refused("InvalidNetworkInterface.NotFound", "The specified network interface does not exist.")
            if eni.vpc_id != vpc_id:
                raise Refused("Mismatch.EniIdAndRouteTableId", "The ENI and the route table are not in the same VPC.")
            return eni.id
        instance = self._estate.instances.get(want.next_hop_id)
        if instance is None:
            raise Refused("InvalidNextHopId.NotFound", "Specified next hop does not exist.")
        if instance.vpc_id != vpc_id:
            raise Refused("OperationFailed.InstanceDismatchCurrentVpc", "The instance is not in the current VPC.")
        return self._estate.primary(instance.id).id

    async def _creating(self, table: RouteTable) -> None:
        await self._estate.clock.sleep(self._takes + self._estate.faults.longer("CreateRouteEntry"))
        arriving = [entry.id for entry in table.entries.values() if entry.status is RouteStatus.PENDING]
        await self._tell(table, arriving)
        for entry_id in arriving:
            table.move(entry_id, RouteStatus.AVAILABLE, self._estate.clock.now())

    async def _deleting(self, table: RouteTable) -> None:
        await self._estate.clock.sleep(self._takes + self._estate.faults.longer("DeleteRouteEntry"))
        await self._tell(table, ())
        for entry in list(table.entries.values()):
            if entry.status is RouteStatus.DELETING:
                del table.entries[entry.id]

    async def _tell(self, table: RouteTable, arriving: Collection[str]) -> None:
        """Available means that packets take it, gone that none does."""
        while True:
            try:
                await self._wire.route(table.routes(arriving))
            except Exception:  # noqa: BLE001 - whatever the wire broke on, the entry waits for it
                _log.exception("the wire did not take the routes of %s", table.id)
                await self._estate.clock.sleep(self._retry)
            else:
                return


def _find(table: RouteTable, which: Unwanted) -> RouteEntry:
    if which.entry_id is None:
        assert which.destination is not None
        entry = table.find(which.destination, which.next_hop_id)
    elif which.entry_id in table.entries:
        entry = table.entries[which.entry_id]
    else:
        raise Refused("InvalidRouteEntryId.NotFound", "Specified RouteEntryId does not exist.")
    if entry.type is RouteType.SYSTEM:
        raise Refused("OperationDenied", "Specified operation is denied as route entry type is system.")
    if entry.status is not RouteStatus.AVAILABLE:
        raise Refused("IncorrectRouteEntryStatus", "Specified routeEntry status error.")
    return entry
