"""The rooms behind the CNI door, in memory, with the books' invariants checked at each step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from pathlib import Path

import msgspec
import pytest

from cni.wire import Request
from eniway.errors import ConflictError, KernelError, SlotsExhausted
from eniway.model import NO_CHOICE, Bandwidth, Card, Choice, EniId, Kind, Lease, LeaseKey, Mac, PodRef, Slot

PREFIX = IPv4Network("10.0.16.0/20")


def card(slot: int) -> Card:
    """The card in ``slot``."""
    return Card(
        eni_id=EniId(f"eni-{slot}"),
        mac=Mac(f"00:16:3e:00:00:{slot:02x}"),
        slot=Slot(slot),
        address=PREFIX[16 + slot],
        prefix=PREFIX,
        gateway=PREFIX[-3],
    )


class Steps:
    """Every await of the rooms goes through here, so that a test can cancel at each of them."""

    def __init__(self) -> None:
        """Cancel nowhere."""
        self.taken = 0
        self.cancel_at = 0

    async def step(self) -> None:
        """One await."""
        self.taken += 1
        if self.taken == self.cancel_at:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Link:
    """A link in a pod."""

    name: str
    mac: str = "00:16:3e:00:00:01"
    mtu: int = 1500


@dataclass(frozen=True)
class Attached:
    """What an attach made."""

    host_link: str
    pod_links: tuple[Link, ...]


@dataclass
class Rooms:
    """Books, kernel and kubelet at once."""

    steps: Steps = field(default_factory=Steps)
    held: dict[LeaseKey, Lease] = field(default_factory=dict)
    confirmed: set[LeaseKey] = field(default_factory=set)
    kernel: dict[LeaseKey, Lease] = field(default_factory=dict)
    slots: dict[str, tuple[Slot, ...]] = field(default_factory=dict)
    free: int = 100
    detach_fails: str = ""
    numbers: Iterator[int] = field(default_factory=lambda: count(100))
    log: list[str] = field(default_factory=list)

    async def slots_of(self, pod: PodRef) -> Sequence[Slot]:
        """As kubelet says."""
        await self.steps.step()
        return self.slots.get(pod.name, ())

    async def acquire(
        self,
        key: LeaseKey,
        pod: PodRef,
        *,
        kind: Kind,
        slot: Slot | None,
        netns: str,
        deadline: float,
        else_routed: bool,
        bandwidth: Bandwidth,
        choice: Choice,
    ) -> Lease:
        """Wait, take, make durable."""
        assert not else_routed or kind is Kind.SHARED
        assert choice == NO_CHOICE or kind is Kind.EXCLUSIVE
        assert deadline > 0
        await self.steps.step()
        if key not in self.held:
            if not self.free:
                raise SlotsExhausted("no address is left")
            if slot is not None and any(lease.card.slot == slot for lease in self.held.values()):
                raise ConflictError(f"slot {slot} is held by another pod")
            self.free -= 1
            address = PREFIX[next(self.numbers)]
            self.held[key] = Lease(key, pod, kind, netns, card(slot or 1), address, bandwidth=bandwidth)
            await self.steps.step()
        return self.held[key]

    async def confirm(self, key: LeaseKey) -> None:
        """Durable."""
        await self.steps.step()
        self.confirmed.add(key)
        await self.steps.step()

    async def release(self, key: LeaseKey) -> None:
        """Never before the kernel has let go."""
        assert key not in self.kernel, "an address was released while the kernel still routes it"
        await self.steps.step()
        if self.held.pop(key, None):
            self.free += 1
        self.confirmed.discard(key)
        await self.steps.step()

    def lease(self, key: LeaseKey) -> Lease | None:
        """Of the key."""
        return self.held.get(key)

    def leases(self) -> Sequence[Lease]:
        """All."""
        return list(self.held.values())

    async def attach(self, lease: Lease) -> Attached:
        """Never without a lease."""
        assert self.held[lease.key] == lease
        self.log.append(f"attach {lease.key.container_id}")
        await self.steps.step()
        self.kernel[lease.key] = lease
        await self.steps.step()
        links = (Link("eth0"), Link("veth1")) if lease.kind is Kind.EXCLUSIVE else (Link("eth0"),)
        return Attached("eniw0123456789a", links)

    async def check(self, lease: Lease) -> Sequence[object]:
        """Whether the kernel has it."""
        await self.steps.step()
        return () if lease.key in self.kernel else ("link eth0 is missing",)

    async def detach(self, lease: Lease) -> None:
        """Idempotent."""
        self.log.append(f"detach {lease.key.container_id}")
        await self.steps.step()
        if self.detach_fails:
            raise KernelError(self.detach_fails)
        self.kernel.pop(lease.key, None)
        await self.steps.step()

    async def remove_orphan(self, key: LeaseKey) -> None:
        """Idempotent."""
        self.log.append(f"remove {key.container_id}")
        await self.steps.step()
        self.kernel.pop(key, None)


@pytest.fixture
def rooms() -> Rooms:
    """Empty rooms."""
    return Rooms()


def make_request(
    verb: str,
    *,
    container: str = "c1",
    pod: str = "web-0",
    uid: str = "uid-1",
    netns: str = "/run/netns/x",
    version: str = "1.0.0",
    ifname: str = "eth0",
    annotations: dict[str, str] | None = None,
    **config: object,
) -> Request:
    """A request as containerd's libcni makes it."""
    keys = {key.replace("valid_attachments", "cni.dev/valid-attachments"): value for key, value in config.items()}
    conf = {
        "cniVersion": version,
        "name": "eniway",
        "type": "eniway",
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
        "runtimeConfig": {"io.kubernetes.cri.pod-annotations": annotations},
        **keys,
    }
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID={uid}"
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns,
        "CNI_IFNAME": ifname,
        "CNI_ARGS": args,
        "CNI_PATH": "/opt/cni/bin",
    }
    return Request({key: value for key, value in environment.items() if value}, msgspec.json.encode(conf))


@pytest.fixture
def request_of() -> Callable[..., Request]:
    """Makes requests."""
    return make_request


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Path]:
    """A short name for a fresh directory: a unix socket's path has at most 107 bytes."""
    link = Path(f"/tmp/eniway-{abs(hash(tmp_path)):x}")
    link.symlink_to(tmp_path)
    yield link
    link.unlink()


@pytest.fixture
def address() -> Callable[[int], IPv4Address]:
    """The nth address of the vSwitch."""
    return lambda number: PREFIX[number]
