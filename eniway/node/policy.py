"""NetworkPolicy in the daemon: watches fill the model, leases make endpoints, the enforcer does the rest.

Three watches for the cluster; of a pod about a kilobyte is kept. The daemon writes one thing: an exclusive pod's
address towards Services, as an annotation of the pod, because daemons of other nodes cannot know it otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Final, Protocol, Self

from datapath.network import Attachment, Network
from eniway import log, names
from eniway.backoff import full_jitter
from eniway.config import NodeConfig
from eniway.errors import KubeError
from eniway.kube.client import MERGE, KubeClient
from eniway.kube.events import Event
from eniway.model import Card, Kind, Lease, LeaseKey
from eniway.node.drops import DropEvents
from networkpolicy import feed
from networkpolicy.enforcer import Enforcer
from networkpolicy.leave import leave
from networkpolicy.model import Model

_log = log.get(__name__)
AGAIN_SECONDS: Final = 60.0
"""How often the kernel is read back."""
_IPV6: Final = Path("/proc/sys/net/ipv6")
"""There where the kernel knows IPv6."""
_ANOTHER: Final = (404, 409)
"""The pod is gone, or another has its name."""


class _Guard(Protocol):
    """What has a word on a pod's start and end."""

    async def prepare(self, lease: Lease) -> None:
        """Before its links are up. NotReady or KernelError: they are not to be."""
        ...

    async def leave(self, key: LeaseKey) -> None:
        """Let go of its namespace, which may end now."""
        ...

    async def release(self, key: LeaseKey) -> None:
        """Its links are gone."""
        ...


class GuardedNetwork(Network):
    """A network whose pods have their policies in force before their links are up, and until these are gone.

    ``guard`` is set when NetworkPolicy is on.
    """

    guard: _Guard | None = None

    async def attach(self, lease: Lease) -> Attachment:
        """As Network; NotReady or KernelError where the policies cannot be put in force."""
        if self.guard is not None:
            await self.guard.prepare(lease)
        return await super().attach(lease)

    async def detach(self, lease: Lease) -> None:
        """As Network."""
        if self.guard is not None:
            await self.guard.leave(lease.key)
        await super().detach(lease)
        if self.guard is not None:
            await self.guard.release(lease.key)


class Books(Protocol):
    """Of the books."""

    @property
    def primary(self) -> Card:
        """The instance's own card."""
        ...

    def leases(self) -> Sequence[Lease]:
        """Of this node."""
        ...


class Policies:
    """``leases``: this node's, all known when ``recovered`` returns; ``tell``: of an Event.

    A context manager that ends its threads.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        config: NodeConfig,
        leases: Callable[[], Sequence[Lease]],
        recovered: Callable[[], Awaitable[None]],
        tell: Callable[[Event], None],
        random: Random,
    ) -> None:
        self._client = client
        self._leases = leases
        self._recovered = recovered
        self._tell = tell
        self._random = random
        self.model = Model(4, fail_open=config.policy_fail_open, sampled=config.policy_drop_events)
        self.enforcer = Enforcer(
            self.model,
            fail_open=config.policy_fail_open,
            counted=config.policy_counters,
            six=True,
            repaired=self._repaired,
        )
        self._drops = DropEvents(self.model, tell=tell)
        self._unwritten: asyncio.Queue[LeaseKey] = asyncio.Queue()
        self._writing: set[LeaseKey] = set()
        """Leases whose pods are being annotated, or about to be."""
        self._again = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.enforcer.close()

    async def run(self, *, node: IPv4Address) -> None:
        """Keep policies in force until cancelled; ``node``: this node's address."""
        watches = feed.watches(
            self._client, self.model, changed=self.enforcer.wake, local=self._seen, random=self._random
        )
        if self.model.sampled and await self.enforcer.refuses_samples():
            _log.warning("what policies drop is not told of: the kernel refuses rules with NFLOG and limit")
            self.model.sampled = False
        if await self.enforcer.without_six() and _IPV6.exists():
            _log.error("IPv6 packets of pods are not filtered: the kernel refuses rules of ip6tables")
        async with asyncio.TaskGroup() as group:
            for watch in watches:
                group.create_task(watch.run())
            group.create_task(self._write(group))
            if self.model.sampled:
                group.create_task(self._drops.run())
            for watch in watches:
                await watch.synced()
            # Rules of a pod that no lease names would go as nobody's: it may run, and a policy isolate it.
            await self._recovered()
            self.enforcer.start(self._leases(), nodes=[node])
            _log.info("policies are in force", pods=len(self.model.pods()), policies=len(self.model.policies()))
            group.create_task(self.enforcer.run())
            for lease in self._leases():
                self._seen(lease.pod.namespace, lease.pod.name)
            while True:
                if self.model.sampled:
                    await self._drops.follow(self._leases())
                with suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_SECONDS):
                        await self._again.wait()
                self._again.clear()
                self.enforcer.settle(self._leases())

    def look_again(self) -> None:
        """Somebody else may have changed what is in the kernel: it is read back."""
        self._again.set()

    async def prepare(self, lease: Lease) -> None:
        """As the enforcer's; other nodes are told of the pod's addresses meanwhile."""
        self._seen(lease.pod.namespace, lease.pod.name)
        await self.enforcer.prepare(lease)
        if self.model.sampled:
            await self._drops.listen(lease)

    async def leave(self, key: LeaseKey) -> None:
        """Its namespace may end."""
        await self._drops.forget(key)

    async def release(self, key: LeaseKey) -> None:
        """As the enforcer's."""
        await self.enforcer.release(key)

    def _repaired(self, lease: Lease, what: str) -> None:
        message = f"NetworkPolicy rules in the pod's own network namespace were changed and have been put back: {what}"
        self._tell(Event(lease.pod, "Warning", "NetworkPolicyRepaired", message))

    def _seen(self, namespace: str, name: str) -> None:
        """A pod of ours may not say yet by which address it calls Services."""
        for lease in self._leases():
            if (lease.pod.namespace, lease.pod.name) != (namespace, name) or lease.key in self._writing:
                continue
            if self._is_untold(lease):
                self._writing.add(lease.key)
                self._unwritten.put_nowait(lease.key)

    def _is_untold(self, lease: Lease) -> bool:
        pod = self.model.pod(lease.pod.namespace, lease.pod.name)
        return (
            lease.kind is Kind.EXCLUSIVE
            and pod is not None
            and lease.pod.uid in pod.uids
            and pod.service_address != str(lease.service_address)
        )

    async def _write(self, group: asyncio.TaskGroup) -> None:
        """Annotate exclusive pods, each at its own pace: one that a webhook of somebody's refuses holds up no other."""
        while True:
            group.create_task(self._insist(await self._unwritten.get()))

    async def _insist(self, key: LeaseKey) -> None:
        """Annotate a pod, again and again as long as there is something to tell."""
        try:
            for delay in full_jitter(base=0.5, cap=30, random=self._random):
                lease = next((lease for lease in self._leases() if lease.key == key), None)
                if lease is None or not self._is_untold(lease):
                    return
                try:
                    await self._annotate(lease)
                except KubeError as error:
                    if error.status in _ANOTHER:
                        return
                    _log.warning("pod not annotated", pod=str(lease.pod), error=str(error), retry_in=round(delay, 1))
                else:
                    return
                await asyncio.sleep(delay)
        finally:
            self._writing.discard(key)

    async def _annotate(self, lease: Lease) -> None:
        notes = {names.ANNOTATION_SERVICE_ADDRESS: str(lease.service_address)}
        # The uid: a pod of that name that came after is refused with a conflict, and told of by its own event.
        meta = {"uid": lease.pod.uid, "annotations": notes}
        path = f"/api/v1/namespaces/{lease.pod.namespace}/pods/{lease.pod.name}"
        await self._client.request("PATCH", path, body={"metadata": meta}, content_type=MERGE)


async def keep(policies: Policies | None, books: Books) -> None:
    """Keep ``policies`` in force until cancelled; without any, take away what was in force before."""
    if policies is not None:
        await policies.run(node=books.primary.address)
    for line in await leave(books.leases()):
        _log.error("rules of NetworkPolicy are left behind", error=line)
