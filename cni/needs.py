"""What the handler needs of other rooms; the composition root hands it in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from eniway.model import Bandwidth, Choice, Kind, Lease, LeaseKey, PodRef, Slot


class Books(Protocol):
    """The books' part: leases."""

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
        """The lease of ``key``, the same for the same key; waits for what it needs until ``deadline`` (monotonic).

        ``else_routed``: routed instead of shared where no shared address can be had. ``bandwidth`` is noted in a lease
        that is new. ``choice``: of an exclusive pod; BadAnnotation where it may not be.
        """

    async def confirm(self, key: LeaseKey) -> None:
        """The kernel is done."""

    async def release(self, key: LeaseKey) -> None:
        """The kernel is undone; no lease of ``key`` is no error."""

    def lease(self, key: LeaseKey) -> Lease | None:
        """The lease of ``key``, confirmed or not."""

    def leases(self) -> Sequence[Lease]:
        """All leases."""


class PodLink(Protocol):
    """A link inside the pod."""

    @property
    def name(self) -> str:
        """Its name there."""

    @property
    def mac(self) -> str:
        """Lower case, colons."""

    @property
    def mtu(self) -> int:
        """Bytes."""


class Attachment(Protocol):
    """What an attach made."""

    @property
    def host_link(self) -> str:
        """Name of the link on the host."""

    @property
    def pod_links(self) -> Sequence[PodLink]:
        """Links in the pod, eth0 first."""


class Network(Protocol):
    """The kernel's part."""

    async def attach(self, lease: Lease) -> Attachment:
        """Bring the pod's network to what its lease says; idempotent."""

    async def check(self, lease: Lease) -> Sequence[object]:
        """What is missing or wrong; empty if nothing is."""

    async def detach(self, lease: Lease) -> None:
        """Undo; works with a vanished netns."""

    async def remove_orphan(self, key: LeaseKey) -> None:
        """Remove what the host's side has of a lease that nobody knows; nothing is no error."""


class PodSlots(Protocol):
    """kubelet's part."""

    async def slots_of(self, pod: PodRef) -> Sequence[Slot]:
        """The ENI slots that kubelet has given to ``pod``."""
