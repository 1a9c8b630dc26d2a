"""NetworkPolicy in force on this node: one loop that brings every place to what the model says, change after change.

It reads a namespace's rules and sets back when it takes it up, from time to time, and after any refusal, and puts right
what differs: so a restart changes nothing that is as it should be, and what others changed is repaired. Until the API
server's objects are known nothing is changed at all: what an earlier daemon left stays in force.

An ADD waits, for a bounded time, until its pod's object is known and its program stands. Then it fails, or the pod
starts without, as ``fail_open`` says; no other pod is touched by that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar

from datapath.ipset import Element
from eniway import log, metrics
from eniway.errors import EniwayError, KernelError, NotReady
from eniway.model import Kind, Lease, LeaseKey
from networkpolicy import counters, render
from networkpolicy.change import Change, Held, follow, plain, repair, tidy
from networkpolicy.index import Change as Members
from networkpolicy.model import Delta, Endpoint, Model
from networkpolicy.place import Place, PlaceGone
from networkpolicy.render import EMPTY, Layout
from networkpolicy.terms import Direction, Family, set_name

_T = TypeVar("_T")
_log = log.get(__name__)

WAIT_SECONDS: Final = 10.0
"""How long an ADD waits for its pod's object and program."""
_RETRY_SECONDS: Final = 1.0
_BURY_SECONDS: Final = 0.1
_TIDY_SECONDS: Final = 0.1
"""Without a change of rules, after which those that newer ones stand before are deleted: the next change would wait."""
_UNTIDY_SECONDS: Final = 1.0
"""How long they stay at most."""
_THREADS: Final = 3


@dataclass(slots=True)
class _Site:
    """A place and what is known of it; ``held`` None: it has to be read first."""

    place: Place
    held: Layout | None = None
    due: bool = False
    """It was told to have changed, or a while ago: it is read again."""
    error: KernelError | None = None
    again: float = 0.0
    """With an error: when it is tried again, and not before."""
    broken: frozenset[str] = frozenset()
    """Programs that the kernel refused; others stand in for them until all is read again."""
    stands: Held = field(default_factory=Held)
    """The rules that are there, leftovers included."""
    counts: counters.Counts = field(default_factory=dict)
    changed: float = 0.0
    """When rules were changed last; ``untidy``: since when some are left over."""
    untidy: float | None = None

    @property
    def is_clean(self) -> bool:
        """Whether nothing waits to be taken away."""
        return self.untidy is None and self.place.is_clean

    def is_tidied(self, now: float) -> bool:
        """Whether leftovers are to go now, even if a change has to wait for it."""
        return self.untidy is not None and (now - self.changed >= _TIDY_SECONDS or now - self.untidy >= _UNTIDY_SECONDS)


@dataclass(slots=True)
class _Half:
    """Where packets of one address family are filtered: on the node, and in exclusive pods."""

    family: Family
    node: _Site
    pods: dict[LeaseKey, _Site] = field(default_factory=dict)


class Enforcer:
    """``model`` is told of objects by whoever watches them, who then calls ``wake``.

    ``nodes``: addresses of this node. ``path``: its network namespace, where it is not the process's own. ``repaired``
    is told of each exclusive pod whose own namespace was not as it was left. ``counted``: what policies let pass is
    shown in a metric. ``six``: IPv6 packets are filtered beside those of the model's family.
    """

    def __init__(
        self,
        model: Model,
        *,
        fail_open: bool = False,
        path: str | None = None,
        iptables: str = "iptables",
        wait_seconds: float = WAIT_SECONDS,
        counted: bool = False,
        six: bool = False,
        repaired: Callable[[Lease, str], None] = lambda _lease, _what: None,
    ) -> None:
        self.model = model
        self._fail_open = fail_open
        self._iptables = iptables
        self._wait_seconds = wait_seconds
        self._counted = counted
        self._shown: set[str] = set()
        """Policies in the metric."""
        self._repaired = repaired
        self._nodes: tuple[IPv4Address | IPv6Address, ...] = ()
        self._threads = ThreadPoolExecutor(_THREADS, "networkpolicy")
        families: tuple[Family, ...] = (model.family, 6) if six and model.family == 4 else (model.family,)
        self._halves = [_Half(each, _Site(Place(path, family=each, iptables=iptables))) for each in families]
        self._ready = asyncio.Event()
        self._wanted = asyncio.Event()
        self._round = 0
        """Grows when a change is begun; waiters of an earlier one are served by it."""
        self._ended: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Let go of the threads; what is in force stays."""
        self._threads.shutdown()

    # -- told from outside

    async def refuses_samples(self) -> bool:
        """Whether this kernel takes rules, but none that samples what is dropped."""
        return await self._thread(lambda: self._halves[0].node.place.refuses(render.sample(Direction.INGRESS)))

    async def without_six(self) -> bool:
        """Filter no IPv6 packets if this kernel takes no rules for them; whether that is so."""
        for half in self._halves[1:]:
            if await self._thread(half.node.place.refuses_all):
                self._halves.remove(half)
                return True
        return False

    def start(self, leases: Iterable[Lease], *, nodes: Sequence[IPv4Address | IPv6Address]) -> None:
        """Every object is known now, and ``leases`` are this node's pods."""
        self._nodes = tuple(nodes)
        for lease in leases:
            self.model.attach(lease)
        self._ready.set()
        self.wake()

    def wake(self) -> None:
        """The model may have changed."""
        self._wanted.set()

    def settle(self, leases: Collection[Lease]) -> None:
        """Follow the books: pods that they know no more are given up, and all places are read again soon."""
        held = {lease.key: lease for lease in leases}
        for key in [key for key in self.model.endpoints if key not in held]:
            self.model.detach(key)
        for lease in held.values():
            self.model.attach(lease)
        for site in self._sites():
            site.due, site.broken = True, frozenset()
        self.wake()

    async def prepare(self, lease: Lease) -> None:
        """Return when the policies of the lease's pod are in force, before its links are up.

        NotReady or KernelError after a bounded wait, unless pods start without (``fail_open``).
        """
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._prepare(lease)
        except TimeoutError as error:
            known = lease.key in self.model.endpoints and self.model.endpoints[lease.key].pod is not None
            what = "its policies are not in force" if known else "the API server's watch has not told of it"
            self._refuse(lease, NotReady(f"pod {lease.pod}: {what} after {self._wait_seconds:.0f} s"), error)
        except KernelError as error:
            self._refuse(lease, error, error)
        metrics.POLICY_SECONDS.labels("prepare").observe(time.perf_counter() - began)

    async def in_force(self) -> None:
        """Return when what the model says now is in force; KernelError where it cannot be."""
        self.wake()
        await self._next_turn()
        for site in self._sites():
            if site.error is not None:
                raise site.error

    async def release(self, key: LeaseKey) -> None:
        """The pod's links are gone."""
        if key in self.model.endpoints:
            self.model.detach(key)
            self.wake()

    # -- the loop

    async def run(self) -> None:
        """Follow the model until cancelled."""
        await self._ready.wait()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wanted.wait()
            await self._turn()

    def _pause(self) -> float | None:
        """Until a place has to be looked after, though nothing changes."""
        now = asyncio.get_running_loop().time()
        errors = [site.again - now for site in self._sites() if site.error is not None]
        is_clean = all(site.is_clean for site in self._sites() if site.error is None)
        return min([*errors, *([] if is_clean else [_BURY_SECONDS])], default=None)

    async def _prepare(self, lease: Lease) -> None:
        await self._ready.wait()
        if lease.key not in self.model.endpoints and lease.kind is Kind.EXCLUSIVE:
            for half in self._halves:
                half.pods[lease.key] = _Site(self._inside(lease, half), held=EMPTY)  # nobody was in there before
        endpoint = self.model.attach(lease)
        self.wake()
        while endpoint.pod is None:
            await self._next_turn()
            self._still_wanted(endpoint)
        self.wake()  # the turn that begins at its object's event may have begun before this one was waited for
        await self._next_turn()
        self._still_wanted(endpoint)
        if not endpoint.programs:
            return  # all that may be missing is its address in the sets of others
        chains = {
            render.program_chain(program, half.family)[0]
            for half in self._halves
            for program in endpoint.of(half.family).values()
        }
        sites = [site for half in self._halves for site in (half.node, half.pods.get(lease.key)) if site is not None]
        while any(site.error is not None for site in sites):
            if any(isinstance(site.error, PlaceGone) for site in sites):
                raise KernelError(f"the network namespace of pod {lease.pod} is gone")
            await self._next_turn()
        if any(site.broken & chains for site in sites):
            raise KernelError(f"pod {lease.pod}: the kernel refused the rules of its policies")

    def _still_wanted(self, endpoint: Endpoint) -> None:
        if self.model.endpoints.get(endpoint.lease.key) is not endpoint:
            raise NotReady(f"pod {endpoint.lease.pod}: its network was given up while its policies were waited for")

    async def _next_turn(self) -> None:
        """Return at the end of a turn that has begun after now."""
        wanted = self._round + 1
        while True:
            if self._ended is None:
                self._ended = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._ended)
            if self._round >= wanted:
                return

    def _refuse(self, lease: Lease, error: EniwayError, cause: BaseException) -> None:
        metrics.POLICY_FAILURES.labels("open" if self._fail_open else "closed").inc()
        if not self._fail_open:
            raise error from cause
        _log.error("pod starts without its policies in force", pod=str(lease.pod), error=str(error))

    def _sites(self) -> list[_Site]:
        return [site for half in self._halves for site in (half.node, *half.pods.values())]

    async def _turn(self) -> None:
        """Bring every place to what the model says now. What it says is read here, before anything is waited for."""
        self._wanted.clear()
        self._round += 1
        ended, self._ended = self._ended, None
        delta = self.model.take()
        work = [each for half in self._halves for each in self._half_work(half, delta)]
        try:
            async with asyncio.TaskGroup() as group:
                for each in filter(None, work):
                    group.create_task(each)
        finally:
            if ended is not None and not ended.done():
                ended.set_result(None)
        self._measure()

    def _half_work(self, half: _Half, delta: Delta) -> Iterator[Coroutine[None, None, None] | None]:
        # Pods have no addresses in the family that is not the model's.
        changes = delta.members if half.family == self.model.family else {}
        news = {set_name(ref, half.family): change for ref, change in changes.items()}
        endpoints = self.model.endpoints
        for key in [key for key in half.pods if key not in endpoints]:
            del half.pods[key]  # what is in there goes with its namespace
        node = half.node.held
        if delta.programs or node is None or half.node.due:
            node = self._standing(half.node, render.node(endpoints.values(), half.family))
        yield self._work(half.node, node, news, None)
        for key, endpoint in endpoints.items():
            if endpoint.lease.kind is Kind.EXCLUSIVE:
                site = half.pods.setdefault(key, _Site(self._inside(endpoint.lease, half)))
                within = self._standing(site, render.inside(endpoint, half.family, nodes=self._nodes))
                yield self._work(site, within, news, endpoint.lease)

    def _inside(self, lease: Lease, half: _Half) -> Place:
        return Place(lease.netns, family=half.family, iptables=self._iptables)

    def _work(
        self, site: _Site, wanted: Layout, news: Mapping[str, Members], lease: Lease | None
    ) -> Coroutine[None, None, None] | None:
        """What there is to do at a place."""
        now = asyncio.get_running_loop().time()
        if site.error is not None and now < site.again:
            return None
        if site.held is None or site.due:
            site.due = False
            members = {name: tuple(self.model.members(ref)) for name, ref in wanted.sets.items()}
            return self._guarded(site, self._repair(site, wanted, members, lease), lease)
        change = follow(site.held, site.stands, wanted, news, self.model.members)
        if site.is_tidied(now):
            change = tidy(change, site.stands, wanted)
        if change or (site.untidy is None and not site.place.is_clean):
            return self._guarded(site, self._apply(site, change, wanted), lease)
        return None

    async def _repair(
        self, site: _Site, wanted: Layout, members: Mapping[str, Sequence[Element]], lease: Lease | None
    ) -> Layout:
        was_known = site.held is not None
        held, sets = await self._thread(site.place.observe)
        if self._counted:
            self._count(site)
        change = repair(held, sets, wanted, members)
        known = set(held.jumps) == set(site.stands.jumps) and held.chains == site.stands.chains
        if not change:
            self._note(site, change.left, wanted)
            return wanted
        try:
            await self._apply(site, change, wanted)
        except PlaceGone:
            raise
        except KernelError:
            site.broken |= await self._thread(lambda: site.place.refused(render.programs(wanted)))
            if not site.broken:
                raise
            _log.error("programs were refused, their pods are shut off", where=_where(lease), chains=len(site.broken))
            wanted = self._standing(site, wanted)
            held, sets = await self._thread(site.place.observe)
            return await self._apply(site, repair(held, sets, wanted, members), wanted)
        if was_known and not (known and replace(change, text="") == Change(left=change.left)):
            metrics.POLICY_REPAIRS.inc()
            _log.warning("policy rules were not as they were left", where=_where(lease), repaired=str(change))
            if lease is not None:
                self._repaired(lease, str(change))
        return wanted

    async def _apply(self, site: _Site, change: Change, wanted: Layout) -> Layout:
        site.held = None
        began = time.perf_counter()
        await self._thread(lambda: site.place.apply(change, bury=change.left == plain(wanted)))
        metrics.POLICY_SECONDS.labels("apply").observe(time.perf_counter() - began)
        if change.text:
            site.changed = asyncio.get_running_loop().time()
        self._note(site, change.left, wanted)
        return wanted

    def _count(self, site: _Site) -> None:
        passed = counters.since(site.counts, site.place.counts)
        site.counts = site.place.counts
        active = set(self.model.active())
        for policy in self._shown - active:
            metrics.POLICY_PACKETS.remove(policy)
        self._shown &= active
        for policy in passed.keys() & active:
            self._shown.add(policy)
            metrics.POLICY_PACKETS.labels(policy).inc(passed[policy])

    def _note(self, site: _Site, left: Held, wanted: Layout) -> None:
        site.stands = left
        if left == plain(wanted):
            site.untidy = None
        elif site.untidy is None:
            site.untidy = asyncio.get_running_loop().time()

    def _standing(self, site: _Site, wanted: Layout) -> Layout:
        return render.without(wanted, site.broken, fail_open=self._fail_open) if site.broken else wanted

    async def _guarded(self, site: _Site, work: Awaitable[Layout], lease: Lease | None) -> None:
        """One place's work; what fails is kept with it, and tried again after the place was read."""
        try:
            site.held = await work
        except KernelError as error:
            if not isinstance(error, PlaceGone):
                metrics.POLICY_FAILURES.labels("kernel").inc()
                _log.error("policies are not in force", where=_where(lease), error=str(error))
            site.held, site.untidy, site.error = None, None, error
            site.again = asyncio.get_running_loop().time() + _RETRY_SECONDS
        else:
            site.error = None

    async def _thread(self, work: Callable[[], _T]) -> _T:
        """``work`` in a thread; a cancelled caller waits for it."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
        except OSError as error:
            raise KernelError(str(error)) from error

    def _measure(self) -> None:
        held = [site.held for site in self._sites() if site.held is not None]
        metrics.POLICY_OBJECTS.labels("chains").set(sum(len(layout.chains) for layout in held))
        metrics.POLICY_OBJECTS.labels("sets").set(sum(len(layout.sets) for layout in held))


def _where(lease: Lease | None) -> str:
    return "this node" if lease is None else f"pod {lease.pod}"
