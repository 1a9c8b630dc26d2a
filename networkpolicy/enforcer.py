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
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar

from datapath.command import Refused
from datapath.ipset import Element
from eniway import log, metrics
from eniway.errors import EniwayError, KernelError, NotReady
from eniway.model import Kind, Lease, LeaseKey
from networkpolicy import counters, render
from networkpolicy.change import Change, Held, follow, plain, repair, tidy
from networkpolicy.model import Endpoint, Model
from networkpolicy.place import Place, PlaceGone
from networkpolicy.render import EMPTY, Layout
from networkpolicy.site import Half, Site
from networkpolicy.terms import Direction, Family, set_name

_T = TypeVar("_T")
_log = log.get(__name__)

WAIT_SECONDS: Final = 10.0
"""How long an ADD waits for its pod's object and program."""
_RETRY_SECONDS: Final = 1.0
_BURY_SECONDS: Final = 0.1
_NODE_THREADS, _POD_THREADS = 2, 3
"""Places that are worked on at once. The node's own, one for each address family, wait for no pod."""


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
        self._node_threads = ThreadPoolExecutor(_NODE_THREADS, "networkpolicy")
        self._pod_threads = ThreadPoolExecutor(_POD_THREADS, "networkpolicy-pod")
        families: tuple[Family, ...] = (model.family, 6) if six and model.family == 4 else (model.family,)
        self._halves = [
            Half(each, Site(Place(path, family=each, iptables=iptables), self._node_threads)) for each in families
        ]
        self._ready = asyncio.Event()
        self._wanted = asyncio.Event()
        self._round = 0
        """Grows when the model is read; each site says which of these it has been through."""
        self._step: asyncio.Future[None] | None = None
        """Of those who wait until something moves."""

    def close(self) -> None:
        """Let go of the threads; what is in force stays."""
        self._node_threads.shutdown()
        self._pod_threads.shutdown()

    # -- told from outside

    async def refuses_samples(self) -> bool:
        """Whether this kernel takes rules, but none that samples what is dropped."""
        node = self._halves[0].node
        return await _said(node, lambda: node.place.refuses(render.sample(Direction.INGRESS)))

    async def without_six(self) -> bool:
        """Filter no IPv6 packets if this kernel takes no rules for them; whether that is so."""
        for half in self._halves[1:]:
            if await _said(half.node, half.node.place.refuses_all):
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
            if not self._ready.is_set():
                what = "all objects of the API server, or all pods of this node, are not known yet"
            self._refuse(lease, NotReady(f"pod {lease.pod}: {what} after {self._wait_seconds:.0f} s"), error)
        except KernelError as error:
            self._refuse(lease, error, error)
        metrics.POLICY_SECONDS.labels("prepare").observe(time.perf_counter() - began)

    async def in_force(self) -> None:
        """Return when what the model says now is in force; KernelError where it cannot be."""
        self.wake()
        await self._reach(self._sites)
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
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wanted.wait()
                self._turn(group)

    async def _prepare(self, lease: Lease) -> None:
        await self._ready.wait()
        if lease.key not in self.model.endpoints and lease.kind is Kind.EXCLUSIVE:
            for half in self._halves:
                half.pods[lease.key] = self._inside(lease, half, held=EMPTY)  # nobody was in there before
        endpoint = self.model.attach(lease)
        self.wake()

        def own() -> list[Site]:
            return [site for half in self._halves for site in (half.node, half.pods.get(lease.key)) if site is not None]

        while endpoint.pod is None:
            await self._moved()
            self._still_wanted(endpoint)
        self.wake()  # the turn that begins at its object's event may have begun before this one was waited for
        await self._reach(own)
        self._still_wanted(endpoint)
        if not endpoint.programs:
            return  # all that may be missing is its address in the sets of others
        chains = {
            render.program_chain(program, half.family)[0]
            for half in self._halves
            for program in endpoint.of(half.family).values()
        }
        while any(site.error is not None for site in own()):
            if any(isinstance(site.error, PlaceGone) for site in own()):
                raise KernelError(f"the network namespace of pod {lease.pod} is gone")
            await self._moved()
        if any(site.broken & chains for site in own()):
            raise KernelError(f"pod {lease.pod}: the kernel refused the rules of its policies")

    def _still_wanted(self, endpoint: Endpoint) -> None:
        if self.model.endpoints.get(endpoint.lease.key) is not endpoint:
            raise NotReady(f"pod {endpoint.lease.pod}: its network was given up while its policies were waited for")

    async def _reach(self, sites: Callable[[], Collection[Site]]) -> None:
        """Return when the model was read after now, and each of ``sites``, asked anew, has been through that."""
        wanted = self._round + 1
        while self._round < wanted or any(site.round < wanted for site in sites()):
            await self._moved()

    async def _moved(self) -> None:
        """Return when the model is read next, or a site's work ends."""
        if self._step is None:
            self._step = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._step)

    def _stepped(self) -> None:
        step, self._step = self._step, None
        if step is not None and not step.done():
            step.set_result(None)

    def _refuse(self, lease: Lease, error: EniwayError, cause: BaseException) -> None:
        metrics.POLICY_FAILURES.labels("open" if self._fail_open else "closed").inc()
        if not self._fail_open:
            raise error from cause
        _log.error("pod starts without its policies in force", pod=str(lease.pod), error=str(error))

    def _sites(self) -> list[Site]:
        return [site for half in self._halves for site in (half.node, *half.pods.values())]

    def _turn(self, group: asyncio.TaskGroup) -> None:
        """Read the model, and have every place that rests brought to what it says; the others come to it afterwards."""
        self._wanted.clear()
        self._round += 1
        delta = self.model.take()
        for half in self._halves:
            # Pods have no addresses in the family that is not the model's.
            changes = delta.members if half.family == self.model.family else {}
            half.changed = half.changed or delta.programs
            half.note(
                {set_name(ref, half.family): change for ref, change in changes.items()},
                dropped={set_name(ref, half.family) for ref in delta.dropped},
            )
            self._begin_half(half, group)
        self._stepped()

    def _begin_half(self, half: Half, group: asyncio.TaskGroup) -> None:
        endpoints = self.model.endpoints
        for key in [key for key in half.pods if key not in endpoints]:
            del half.pods[key]  # what is in there goes with its namespace
        if not half.node.busy:
            node = half.node.held
            if half.changed or node is None or half.node.due:
                node = self._standing(half.node, render.node(endpoints.values(), half.family))
                half.changed = False
            self._begin(half.node, node, None, group)
        for key, endpoint in endpoints.items():
            if endpoint.lease.kind is Kind.EXCLUSIVE:
                if key not in half.pods:
                    half.pods[key] = self._inside(endpoint.lease, half)
                if not (site := half.pods[key]).busy:
                    within = self._standing(site, render.inside(endpoint, half.family, nodes=self._nodes))
                    self._begin(site, within, endpoint.lease, group)

    def _inside(self, lease: Lease, half: Half, *, held: Layout | None = None) -> Site:
        place = Place(lease.netns, family=half.family, iptables=self._iptables)
        return Site(place, self._pod_threads, held=held)

    def _begin(self, site: Site, wanted: Layout, lease: Lease | None, group: asyncio.TaskGroup) -> None:
        work = self._work(site, wanted, lease)
        if work is None:
            site.round = self._round
        else:
            site.busy = True
            group.create_task(self._carry_out(site, work, self._round))

    async def _carry_out(self, site: Site, work: Coroutine[None, None, None], number: int) -> None:
        await work
        site.busy, site.round = False, number
        loop = asyncio.get_running_loop()
        if number < self._round:
            self.wake()  # for what came meanwhile
        if site.error is not None:
            loop.call_at(site.again, self.wake)
        elif not site.is_clean:
            loop.call_later(_BURY_SECONDS, self.wake)
        self._measure()
        self._stepped()

    def _work(self, site: Site, wanted: Layout, lease: Lease | None) -> Coroutine[None, None, None] | None:
        """What there is to do at a place."""
        news, site.news = site.news, {}
        lost, site.lost = site.lost, set()
        if not lost.isdisjoint(wanted.sets):
            site.due = True
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
        self, site: Site, wanted: Layout, members: Mapping[str, Sequence[Element]], lease: Lease | None
    ) -> Layout:
        was_known = site.held is not None
        held, sets = await _thread(site, site.place.observe)
        if self._counted:
            self._count(site)
        change = repair(held, sets, wanted, members)
        known = set(held.jumps) == set(site.stands.jumps) and held.chains == site.stands.chains
        if not change:
            self._note(site, change.left, wanted)
            return wanted
        try:
            await self._apply(site, change, wanted)
        except Refused:
            # Sets first: what a program looks into has to be there when it is tried.
            refused = await _thread(site, lambda: site.place.refused_sets(change))
            site.broken |= render.looking_into(wanted, refused)
            others = self._standing(site, wanted)
            site.broken |= await _thread(site, lambda: site.place.refused(render.programs(others)))
            if not site.broken:
                raise
            _log.error("programs were refused, their pods are shut off", where=_where(lease), chains=len(site.broken))
            wanted = self._standing(site, wanted)
            held, sets = await _thread(site, site.place.observe)
            return await self._apply(site, repair(held, sets, wanted, members), wanted)
        if was_known and not (known and replace(change, text="") == Change(left=change.left)):
            metrics.POLICY_REPAIRS.inc()
            _log.warning("policy rules were not as they were left", where=_where(lease), repaired=str(change))
            if lease is not None:
                self._repaired(lease, str(change))
        return wanted

    async def _apply(self, site: Site, change: Change, wanted: Layout) -> Layout:
        site.held = None
        began = time.perf_counter()
        await _thread(site, lambda: site.place.apply(change, bury=change.left == plain(wanted)))
        metrics.POLICY_SECONDS.labels("apply").observe(time.perf_counter() - began)
        if change.text:
            site.changed = asyncio.get_running_loop().time()
        self._note(site, change.left, wanted)
        return wanted

    def _count(self, site: Site) -> None:
        passed = counters.since(site.counts, site.place.counts)
        site.counts = site.place.counts
        active = set(self.model.active())
        for policy in self._shown - active:
            metrics.POLICY_PACKETS.remove(policy)
        self._shown &= active
        for policy in passed.keys() & active:
            self._shown.add(policy)
            metrics.POLICY_PACKETS.labels(policy).inc(passed[policy])

    def _note(self, site: Site, left: Held, wanted: Layout) -> None:
        site.stands = left
        if left == plain(wanted):
            site.untidy = None
        elif site.untidy is None:
            site.untidy = asyncio.get_running_loop().time()

    def _standing(self, site: Site, wanted: Layout) -> Layout:
        return render.without(wanted, site.broken, fail_open=self._fail_open) if site.broken else wanted

    async def _guarded(self, site: Site, work: Awaitable[Layout], lease: Lease | None) -> None:
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

    def _measure(self) -> None:
        held = [site.held for site in self._sites() if site.held is not None]
        metrics.POLICY_OBJECTS.labels("chains").set(sum(len(layout.chains) for layout in held))
        metrics.POLICY_OBJECTS.labels("sets").set(sum(len(layout.sets) for layout in held))


async def _said(site: Site, question: Callable[[], _T]) -> _T:
    """The kernel's answer, asked for until there is one: a lock that somebody holds says nothing of what it can do."""
    while True:
        try:
            return await _thread(site, question)
        except KernelError as error:
            _log.warning("the kernel does not say what rules it takes", error=str(error), retry_in=_RETRY_SECONDS)
        await asyncio.sleep(_RETRY_SECONDS)


def _where(lease: Lease | None) -> str:
    return "this node" if lease is None else f"pod {lease.pod}"


async def _thread(site: Site, work: Callable[[], _T]) -> _T:
    """``work`` in a thread for that place; a cancelled caller waits for it."""
    future = asyncio.get_running_loop().run_in_executor(site.threads, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
    except OSError as error:
        raise KernelError(str(error)) from error
