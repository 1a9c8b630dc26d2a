"""An allocator that can be killed between any two steps, and what must be so whatever happened to it.

A kill is a kill: from then on nothing more is written, sent or done, whatever is still half-way. What the ledger's
thread had taken is on disk, what it had not is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from eniallocator import Books
from eniallocator.cloud.switch import Calls
from eniallocator.lifecycle import State
from eniallocator.records import Use
from eniway.model import NO_CHOICE, Choice, EniId, Kind, Lease, LeaseKey, Wish
from tests.box.allocator_world import Rig, rig
from tests.box.virtual_time import AllocatorClock
from vpcbox.world.model import Eni, EniType

COOLDOWN = 30.0
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a ledger costs no time of the disk."""

Point = Callable[[str], Awaitable[None]]
"""Called before and after each write of the ledger and each operation of cloud and kernel; may never return."""


async def pass_by(_what: str) -> None:
    """Nothing happens."""


class Life(ABC):
    """A rig, the books that live on it now, and what pods were told; what must be so of them."""

    def __init__(self, cloud: Rig, random: Random) -> None:
        self.cloud = cloud
        self.random = random
        self.told: dict[LeaseKey, Lease] = {}
        self.chosen: dict[LeaseKey, Choice] = {}
        self.released: dict[object, float] = {}
        """Addresses that pods gave back, and when."""
        self.lives = 0
        self.crashed = asyncio.Event()
        self._books: Books | None = None
        self._dead = False
        self._created: Counter[str] = Counter()
        """How often the cloud made an ENI, by Description: each of ours names the one intent it is of."""
        cloud.world.create_eni = self._counting(cloud.world.create_eni)  # type: ignore[method-assign,assignment]

    def _counting(self, create: Callable[..., Awaitable[Eni]]) -> Callable[..., Awaitable[Eni]]:
        async def counted(*args: Any, **named: Any) -> Eni:
            eni = await create(*args, **named)
            self._created[eni.description] += 1
            return eni

        return counted

    @property
    def books(self) -> Books:
        assert self._books is not None
        return self._books

    @property
    def clock(self) -> AllocatorClock:
        assert isinstance(self.cloud.clock, AllocatorClock)
        return self.cloud.clock

    @abstractmethod
    async def live(self) -> None:
        """Start, from what is on disk."""

    @abstractmethod
    async def kill(self) -> None:
        """No word more."""

    @abstractmethod
    async def add(
        self, name: str, *, slot: int | None = None, within: float = 200.0, choice: Choice = NO_CHOICE
    ) -> Lease:
        """A pod comes, with the slot that kubelet gave to it; what it returns is told."""

    @abstractmethod
    async def release(self, name: str) -> None:
        """A pod goes."""

    @abstractmethod
    def slots(self) -> list[int]:
        """Those that kubelet could give away."""

    @abstractmethod
    def turn_switch(self, calls: Calls) -> None:
        """A person says which OpenAPI calls may be made."""

    @abstractmethod
    def fill_disk(self) -> None:
        """The ledger's takes no more."""

    @abstractmethod
    def clear_disk(self) -> None:
        """It does again."""

    def names(self) -> list[str]:
        """Of the pods that were told."""
        return sorted(lease.pod.name for lease in self.told.values())

    def tell(self, lease: Lease) -> None:
        """A pod was told that ``lease`` is its own."""
        self.told[lease.key] = lease
        self.check()

    def rest(self, lease: Lease) -> None:
        """A pod's addresses rest from now on; a card of its own need not."""
        addresses = {lease.address, lease.service_address} - {None}
        if lease.kind is Kind.EXCLUSIVE:
            addresses.discard(lease.address)
        self.released.update(dict.fromkeys(addresses, self.clock.monotonic()))

    # -- what must be so

    def check(self) -> None:
        """At any time: nobody has what another has, and the cloud delivers what was told."""
        addresses = [lease.address for lease in self.told.values()]
        addresses += [lease.service_address for lease in self.told.values() if lease.service_address is not None]
        assert len(set(addresses)) == len(addresses), "an address is leased twice"
        (primary,) = (eni for eni in self.cloud.world.enis.values() if eni.type is EniType.PRIMARY)
        for lease in self.told.values():
            eni = self.cloud.world.enis.get(lease.card.eni_id)
            assert eni is not None, f"{lease.card.eni_id} of {lease.pod} is gone"
            if lease.kind is Kind.ROUTED:
                assert not eni.source_dest_check, f"{eni.id} carries nothing for {lease.pod}"
            else:
                assert lease.address in eni.addresses, f"{lease.address} of {lease.pod} is not at {eni.id}"
            if lease.service_address is not None:
                assert lease.service_address in primary.addresses, f"{lease.pod} has lost {lease.service_address}"
            assert eni.instance_id == self.cloud.instance_id
            groups = self.chosen.get(lease.key, NO_CHOICE).security_groups or (self.cloud.group,)
            assert eni.security_group_ids == groups, f"{lease.pod} has {eni.security_group_ids}"
        if self._books is not None and not self._dead and self._books._pool._survey.compared:
            assert not (unasked := self._unasked()), f"assigned and not asked for: {unasked}"
        twice = [description for description, count in self._created.items() if count > 1]
        assert not twice, f"created twice: {twice}"

    def _unasked(self) -> list[str]:
        """Addresses that cards in service have beyond what the books know and what they have asked for just now."""
        inventory = self.books._inventory
        said = []
        for record in inventory.enis.values():
            if record.state is State.READY:
                unknown = set(self.cloud.world.enis[record.known_id].addresses) - inventory.of_card(record.token)
                asked = sum(assign.count for assign in inventory.assigns.values() if assign.eni == record.token)
                if len(unknown) > asked:
                    said.append(f"{record.eni_id} has {sorted(unknown)}, {asked} are on their way")
        return said

    async def settle(self, *, seconds: float = 3600.0) -> None:
        """Wait until the cloud is as the books are and nothing moves."""
        until = self.clock.monotonic() + seconds
        while not self._settled():
            assert self.clock.monotonic() < until, f"not settled: {self.differences()}"
            await asyncio.sleep(5.0)

    def _settled(self) -> bool:
        return not self.differences()

    def differences(self) -> list[str]:
        """What is not as it ought to be when nothing goes on any more."""
        inventory = self.books._inventory
        said = [f"{eni.token} is {eni.state}" for eni in inventory.enis.values() if eni.state is not State.READY]
        booked = {eni.known_id: eni for eni in inventory.enis.values() if eni.eni_id is not None}
        mine = [eni for eni in self.cloud.world.enis.values() if eni.instance_id == self.cloud.instance_id or eni.tags]
        said += [f"{eni.id} is a leak" for eni in mine if eni.id not in booked]
        for eni in mine:
            record = booked.get(EniId(eni.id))
            if record is not None:
                here = {address for address in inventory.of_card(record.token) if address != record.address}
                if here != set(eni.secondary_addresses):
                    said.append(f"{eni.id}: books {sorted(here)}, cloud {sorted(eni.secondary_addresses)}")
        if inventory.assigns:
            said.append("an assign is open")
        if self.books._store.owes:
            said.append("the disk lags")
        said += [f"{a.address} is orphaned" for a in inventory.addresses.values() if a.orphan or a.leaving]
        held = set(inventory.leases) - set(self.told)
        said += [f"{key.alias} is held for nobody" for key in held]
        said += [f"{key.alias} is not in the books" for key in self.told if key not in inventory.leases]
        return said

    def idle(self) -> int:
        """Shared addresses that nobody holds."""
        inventory = self.books._inventory
        shared = {eni.token for eni in inventory.enis.values() if eni.use is Use.SHARED}
        return sum(
            record.token in shared and not record.primary and not inventory.is_leased(record.address)
            for record in inventory.addresses.values()
        )


class Mortal(Life):
    """An allocator alone."""

    def __init__(self, cloud: Rig, random: Random, *, point: Point = pass_by, **pool: float | str) -> None:
        super().__init__(cloud, random)
        self.point = point
        self.pool = pool
        self._stack: contextlib.AsyncExitStack | None = None

    async def live(self) -> None:
        """Start: what the ledger says, the sweep's part of it, and then the pool."""
        self._dead = False
        self.crashed.clear()
        self.lives += 1
        self._stack = contextlib.AsyncExitStack()
        self._books = books = await self._stack.enter_async_context(
            self.cloud.books(run=False, tap=self._tap, **self.pool)  # type: ignore[arg-type]  # pool settings
        )
        known = {lease.key: lease for lease in books.leases()}
        for key, lease in self.told.items():
            assert known.get(key) == lease, f"{key.alias} was told {lease} and is {known.get(key)}"
        for key in known.keys() - self.told.keys():
            await books.release(key)
        task = asyncio.create_task(books.run())

        async def end() -> None:
            died = task.done()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert not died, "the pool ended by itself"

        self._stack.push_async_callback(end)

    async def kill(self) -> None:
        """No word more."""
        self._dead = True
        ledger = self.books._ledger
        if self.random.random() < 0.5:
            # The thread had not come to it yet.
            with contextlib.suppress(queue.Empty):
                while (lost := ledger._queue.get_nowait()) is not None:
                    lost.done.cancel()
        assert self._stack is not None
        await self._stack.aclose()
        self.cloud.node.prepared.clear()

    def _tap(self, books: Books, cloud: Any) -> None:  # noqa: C901 -- what stands between is small, and one whole
        """Stand between the allocator and all that outlives it."""
        write, call = books._ledger.write, cloud._call
        loop = asyncio.get_running_loop()

        def written(*changes: Any, owe: bool = False) -> asyncio.Future[None]:
            done: asyncio.Future[None] = loop.create_future()

            async def through() -> None:
                await self._passing("before write")
                real = write(*changes, owe=owe)
                await asyncio.wait([real])
                await self._passing("after write")
                if not done.done():
                    error = real.exception()
                    if error is None:
                        done.set_result(None)
                    else:
                        done.set_exception(error)

            if self._dead:
                return done
            if self.point is pass_by:
                return write(*changes, owe=owe)
            chain.put_nowait(through())
            return done

        chain: asyncio.Queue[Any] = asyncio.Queue()

        async def in_order() -> None:
            try:
                while True:
                    await (await chain.get())
            finally:
                while not chain.empty():
                    chain.get_nowait().close()

        async def called(action: str, *rest: Any) -> Any:
            await self._passing(f"before {action}")
            said = await call(action, *rest)
            await self._passing(f"after {action}")
            return said

        writer = asyncio.create_task(in_order())
        assert self._stack is not None
        self._stack.callback(writer.cancel)
        books._ledger.write = written  # type: ignore[method-assign]
        cloud._call = called

    def stand_before(self, name: str) -> None:
        """The same for an operation of the kernel."""
        does = getattr(self.cloud.node, name)

        async def done(*args: Any, **named: Any) -> Any:
            await self._passing(f"before {name}")
            said = await does(*args, **named)
            await self._passing(f"after {name}")
            return said

        setattr(self.cloud.node, name, done)

    async def crash(self) -> None:
        """Die here and now, without a word to whoever waits; ``kill`` clears up."""
        self._dead = True
        self.crashed.set()
        await asyncio.get_running_loop().create_future()

    async def _passing(self, what: str) -> None:
        if self._dead:
            await asyncio.get_running_loop().create_future()
        await self.point(what)
        if self._dead:
            await asyncio.get_running_loop().create_future()

    # -- what pods do

    async def add(
        self,
        name: str,
        *,
        slot: int | None = None,
        within: float = 200.0,
        choice: Choice = NO_CHOICE,
        wish: Wish = Wish.SHARED,
    ) -> Lease:
        """ADD; what it returns is told."""
        books = self.books
        lease = await self.cloud.add(books, name, slot=slot, within=within, choice=choice, wish=wish)
        if self._dead or books is not self._books:
            raise asyncio.CancelledError
        self.chosen[lease.key] = choice
        self.tell(lease)
        return lease

    async def release(self, name: str) -> None:
        """DEL."""
        key = self.cloud.key(name)
        lease = self.told.pop(key, None)
        await self.books.release(key)
        if lease is not None:
            self.rest(lease)

    # -- what goes wrong around it

    def slots(self) -> list[int]:
        return [device.slot for device in self.books.devices() if device.healthy]

    def turn_switch(self, calls: Calls) -> None:
        self.cloud.switch.calls = calls

    def fill_disk(self) -> None:
        """Until it is cleared, or another process opens the ledger."""
        self.books._ledger._database.execute("PRAGMA query_only = ON")

    def clear_disk(self) -> None:
        self.books._ledger._database.execute("PRAGMA query_only = OFF")


@contextlib.asynccontextmanager
async def mortal(
    directory: Path,
    random: Random,
    *,
    point: Point = pass_by,
    instance_type: str = "ecs.g7.xlarge",
    **pool: float | str,
) -> AsyncIterator[Mortal]:
    """A rig in virtual time, and nobody living on it yet. Call on a loop of virtual time."""
    async with rig(directory, instance_type=instance_type) as cloud:
        life = Mortal(cloud, random, point=point, **pool)
        for name in ("wait_card", "prepare_card", "retire_card", "park_card"):
            life.stand_before(name)
        yield life
