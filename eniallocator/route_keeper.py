"""Brings route tables to what the nodes need: look, plan, one write, look again.

Writes are serial, as a VPC takes them: up to fifty entries in a batch, and what a batch leaves out one by one, for only
the Actions for one entry say why. Everything is decided anew from what the cloud says, so a lost answer, another writer
or a new leader change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from random import Random
from typing import Final

from eniallocator import evidence, routes
from eniallocator.clock import Clock
from eniallocator.cloud.errors import (
    AlreadyThere,
    ApiError,
    Busy,
    Credentials,
    Forbidden,
    NotFound,
    QuotaExhausted,
    Refused,
    Throttled,
    Transient,
    WrongState,
)
from eniallocator.cloud.routes import MOST_AT_ONCE, NewEntry, RouteApi, RouteEntry
from eniallocator.evidence import MOST_A_ROUND
from eniallocator.routes import NodeRoute, RouteState, Verdict
from eniway import log, metrics
from eniway.backoff import full_jitter
from eniway.model import InstanceId

_log = log.get(__name__)

Wants = Callable[[], Collection[NodeRoute]]
Tell = Callable[[Mapping[NodeRoute, Verdict]], None]

_PASSING: Final = (Throttled, Transient, Busy, WrongState, Credentials)
"""Errors that say nothing about what was asked for: the same again, later."""
_OF_THE_TABLE: Final = (Refused, NotFound)
"""Errors of a look at a table that the next look would only repeat: it is gone, or no right leads to it."""
_SECONDS_BETWEEN: Final = 1.0
"""Between a write and the first look at what became of it."""
_SLOWEST_LOOK: Final = 5.0
_SECONDS_QUIET: Final = 30.0
"""How long a write waits for the one before it to be done; longer, and it is left to the cloud to refuse it."""
_SECONDS_PATIENT: Final = 30.0
"""How long a table in trouble is stayed with before the others have their turn."""


class RouteKeeper:
    """``settle`` until nothing is left to do. One at a time in a VPC: its caller holds the leader's lock."""

    def __init__(
        self,
        api: RouteApi,
        *,
        tables: Sequence[str],
        cluster: str,
        quota: int,
        clock: Clock,
        random: Random,
        new_id: Callable[[], str],
        most_percent: int = 20,
        dry_run: bool = False,
    ) -> None:
        """``most_percent``: share of the instances that entries lead to which may be gone at once.

        ``dry_run``: write nothing, say what would be written.
        """
        self._api = api
        self._tables = tables
        self._mark = routes.mark(cluster)
        self._quota = quota
        self._clock = clock
        self._random = random
        self._new_id = new_id
        self._most_percent = most_percent
        self._dry_run = dry_run
        self._verdicts: dict[str, dict[NodeRoute, Verdict]] = {table: {} for table in tables}
        """By the route, not the node: another Node of the name may want another one."""
        self._held: dict[tuple[str, NodeRoute], tuple[Verdict, float]] = {}
        """What the cloud refused, what it said, and the monotonic time from when on it is tried again."""
        self._create_singly: dict[NodeRoute, str] = {}
        """With the token of the attempt."""
        self._delete_singly: set[str] = set()
        self._stuck: set[str] = set()
        """Entries that the cloud does not let go of; left alone until the next ``settle``."""
        self.too_many_gone: dict[str, int] = {}
        """By table: how many instances are gone, where that is more than is believed: their entries stay."""

    async def settle(self, wants: Wants, tell: Tell) -> bool:
        """Return when every route stands, or cannot for now; False where trouble has not passed: call again at once.

        ``wants`` is asked again before each step; ``tell`` hears the verdict on each route that every table has been
        looked at for, whenever it may have changed.
        """
        return all([await self._settle(table, wants, tell) for table in self._tables])

    async def _settle(self, table: str, wants: Wants, tell: Tell) -> bool:
        asked: set[InstanceId] = set()
        gone: set[InstanceId] = set()
        looks = _looks()
        pauses: dict[type[ApiError], Iterator[float]] = {}
        self._create_singly.clear()
        self._delete_singly.clear()
        self._stuck.clear()
        self.too_many_gone.pop(table, None)
        removals = MOST_A_ROUND
        quiet_by = self._clock.monotonic()
        patient_until = quiet_by + _SECONDS_PATIENT
        while True:
            wanted = wants()
            try:
                entries = await self._api.entries(table)
                plan = routes.plan(
                    wanted,
                    entries,
                    table_id=table,
                    mark=self._mark,
                    quota=self._quota,
                    gone=gone,
                    most_removals=removals,
                    held=self._held_now(table),
                )
                self._tell(table, {want: plan.verdicts[want.node] for want in wanted}, tell)
                if fresh := plan.suspects - asked:
                    gone |= await self._proved(table, fresh, gone, plan, wanted)
                    asked |= fresh
                    continue
                if self._dry_run:
                    _would(table, plan)
                    return True
                delete = [entry for entry in plan.delete if entry.entry_id not in self._stuck]
                if plan.busy and (self._clock.monotonic() < quiet_by or not (delete or plan.create)):
                    pause = next(looks)
                elif delete or plan.create:
                    removals -= await self._write(table, delete, plan.create, gone)
                    looks = _looks()
                    pauses.clear()
                    quiet_by = self._clock.monotonic() + _SECONDS_QUIET
                    patient_until = self._clock.monotonic() + _SECONDS_PATIENT
                    pause = _SECONDS_BETWEEN
                else:
                    return True
            except ApiError as error:
                self._tell_trouble(table, wanted, error, tell)
                if isinstance(error, _OF_THE_TABLE):
                    return True
                base, cap = error.patience
                backoff = full_jitter(base=base, cap=cap, random=self._random)
                pause = next(pauses.setdefault(type(error), backoff))
            if self._clock.monotonic() >= patient_until:
                return False
            await self._clock.sleep(pause)

    async def _proved(
        self,
        table: str,
        fresh: Collection[InstanceId],
        gone: Collection[InstanceId],
        plan: routes.Plan,
        wanted: Collection[NodeRoute],
    ) -> frozenset[InstanceId]:
        """Those of ``fresh`` that are gone; none where that makes too many beside ``gone``."""
        proved = await evidence.gone(self._api, fresh, {want.instance_id for want in wanted}, random=self._random)
        all_gone, known = proved.union(gone), plan.known.union(gone)
        if evidence.too_many(all_gone, known, most_percent=self._most_percent):
            self._refuse(table, all_gone, known)
            return frozenset()
        return proved

    async def _write(
        self, table: str, delete: Sequence[RouteEntry], create: Sequence[NodeRoute], gone: Collection[InstanceId]
    ) -> int:
        """One write, deletions first; how many entries of instances that are ``gone`` are on their way out by it."""
        if not delete:
            await self._create(table, create)
            return 0
        return sum(entry.hops[0] in gone for entry in await self._delete(table, delete))

    def _refuse(self, table: str, gone: Collection[InstanceId], known: Collection[InstanceId]) -> None:
        self.too_many_gone[table] = len(gone)
        _log.error(
            "so many instances are gone that none of their routes is deleted",
            table=table,
            gone=len(gone),
            known=len(known),
            most_percent=self._most_percent,
        )

    async def _create(self, table: str, wants: Sequence[NodeRoute]) -> None:
        batch = [want for want in wants if want not in self._create_singly][:MOST_AT_ONCE]
        if not batch:
            await self._create_one(table, wants)
            return
        _log.info("creating routes", table=table, routes=[f"{w.destination} → {w.instance_id}" for w in batch])
        try:
            failed = await self._api.create(table, [self._entry(want) for want in batch])
        except _PASSING:
            raise
        except (QuotaExhausted, Forbidden) as error:
            self._hold(table, batch, error)
            return
        except ApiError:
            failed = {want.destination: "" for want in batch}
        for want in batch:
            if want.destination in failed:
                _log.warning("left out of a batch", route=str(want.destination), code=failed[want.destination])
                self._create_singly[want] = self._new_id()
        metrics.ROUTE_CHANGES.labels("create").inc(len(batch) - len(failed))

    async def _create_one(self, table: str, wants: Sequence[NodeRoute]) -> None:
        want = wants[0]
        try:
            await self._api.create_one(table, self._entry(want), token=self._create_singly[want])
        except _PASSING:
            raise
        except AlreadyThere as error:
            # The next look shows by whom; if it shows nothing, asking again at once would go round in circles
            self._hold(table, [want], error)
        except (QuotaExhausted, Forbidden) as error:
            self._hold(table, wants, error)
        except ApiError as error:
            self._hold(table, [want], error)
        else:
            metrics.ROUTE_CHANGES.labels("create").inc()
        del self._create_singly[want]

    async def _delete(self, table: str, entries: Sequence[RouteEntry]) -> Sequence[RouteEntry]:
        """Those on their way out."""
        batch = [entry for entry in entries if entry.entry_id not in self._delete_singly][:MOST_AT_ONCE]
        if not batch:
            return await self._delete_one(entries[0])
        _log.info("deleting routes", table=table, routes=[f"{e.destination} → {', '.join(e.hops)}" for e in batch])
        try:
            failed = await self._api.delete(table, batch)
        except _PASSING:
            raise
        except ApiError:
            failed = {entry.entry_id: "" for entry in batch}
        self._delete_singly |= set(failed)
        return self._deleted([entry for entry in batch if entry.entry_id not in failed])

    async def _delete_one(self, entry: RouteEntry) -> Sequence[RouteEntry]:
        try:
            await self._api.delete_one(entry.entry_id)
        except _PASSING:
            raise
        except NotFound:
            return ()
        except ApiError:
            self._stuck.add(entry.entry_id)
            return ()
        return self._deleted([entry])

    def _deleted(self, entries: Sequence[RouteEntry]) -> Sequence[RouteEntry]:
        """There is room again."""
        metrics.ROUTE_CHANGES.labels("delete").inc(len(entries))
        if entries:
            self._held = {key: held for key, held in self._held.items() if held[0].state is not RouteState.OVER_QUOTA}
        return entries

    def _entry(self, want: NodeRoute) -> NewEntry:
        return NewEntry(want.destination, want.instance_id, name=f"eniway-{want.node}"[:128], description=self._mark)

    def _hold(self, table: str, wants: Collection[NodeRoute], error: ApiError) -> None:
        """Leave ``wants`` alone for as long as such an error is likely to last."""
        state = RouteState.OVER_QUOTA if isinstance(error, QuotaExhausted) else RouteState.REFUSED
        until = self._clock.monotonic() + (error.patience[0] if state is RouteState.OVER_QUOTA else error.patience[1])
        for want in wants:
            self._held[table, want] = (_refusal(state, error), until)

    def _held_now(self, table: str) -> Mapping[NodeRoute, Verdict]:
        now = self._clock.monotonic()
        self._held = {key: held for key, held in self._held.items() if held[1] > now}
        return {want: verdict for (at, want), (verdict, _) in self._held.items() if at == table}

    def _tell_trouble(self, table: str, wants: Collection[NodeRoute], error: ApiError, tell: Tell) -> None:
        """Nothing is known of routes that did not stand a moment ago but what the cloud said instead."""
        if isinstance(error, Throttled | Busy | WrongState):
            return
        known = self._verdicts[table]
        state = RouteState.PENDING if isinstance(error, _PASSING) else RouteState.REFUSED
        told = {}
        for want in wants:
            before = known.get(want)
            told[want] = before if before is not None and before.stands else _refusal(state, error)
        self._tell(table, told, tell)

    def _tell(self, table: str, verdicts: Mapping[NodeRoute, Verdict], tell: Tell) -> None:
        self._verdicts[table] = dict(verdicts)
        known = self._verdicts.values()
        wants = set(verdicts).intersection(*known)
        tell({want: routes.worst(verdicts[want] for verdicts in known) for want in wants})


def _would(table: str, plan: routes.Plan) -> None:
    """Say and count what a dry run leaves undone."""
    _log.info(
        "dry run",
        table=table,
        would_create=[f"{want.destination} → {want.instance_id}" for want in plan.create],
        would_delete=[f"{entry.destination} → {', '.join(entry.hops)}" for entry in plan.delete],
    )
    metrics.DRY_RUN.labels("create_route").set(len(plan.create))
    metrics.DRY_RUN.labels("delete_route").set(len(plan.delete))


def _refusal(state: RouteState, error: ApiError) -> Verdict:
    """In words that are the same each time."""
    hint = f"; {error.hint}" if error.hint else ""
    return Verdict(state, f"the OpenAPI answered {error.action} with {error.code}{hint}")


def _looks() -> Iterator[float]:
    """Seconds between looks at something that is under way."""
    seconds = _SECONDS_BETWEEN
    while True:
        yield seconds
        seconds = min(_SLOWEST_LOOK, seconds * 1.5)
