"""What the books say of themselves: capacity, conditions, and how things stand for those who wait.

Looks, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eniallocator import publish
from eniallocator.clock import Clock
from eniallocator.cloud.api import CloudApi
from eniallocator.conditions import Conditions
from eniallocator.inventory import Inventory
from eniallocator.plan import CardView, Limits
from eniallocator.pool import Pool
from eniallocator.records import Identity, Use
from eniallocator.routed import Routed
from eniallocator.vswitches import VSwitches
from eniallocator.waiting import Outlook
from eniway.config import NodeConfig
from eniway.model import Capacity, VSwitchId


class Statement:
    """Of one node's books."""

    def __init__(
        self,
        *,
        identity: Identity,
        config: NodeConfig,
        inventory: Inventory,
        pool: Pool,
        routed: Routed,
        vswitches: VSwitches,
        cloud: CloudApi,
        clock: Clock,
    ) -> None:
        self._identity = identity
        self._config = config
        self._inventory = inventory
        self._pool = pool
        self._routed = routed
        self._vswitches = vswitches
        self._cloud = cloud
        self._clock = clock
        self._conditions = Conditions()

    def capacity(self) -> Mapping[str, Capacity]:
        """Of ``slots``, ``addresses``, ``services`` and ``routed``, in the four words."""
        return self._capacity(self._views())

    def status(self) -> dict[str, Any]:
        """The status of this node's NodeNetwork."""
        views = self._views()
        capacity = self._capacity(views)
        outlook = self.outlook()
        return publish.node_network(
            identity=self._identity,
            vswitches=[VSwitchId(vswitch.vswitch_id) for vswitch in self._vswitches.usable()],
            enis=self._inventory.enis.values(),
            cards={view.token: view for view in views},
            capacity=capacity,
            most=publish.most(capacity, self._pool.limits(), routed=self._inventory.pods.size),
            either=publish.either_use(views, self._pool.limits(), stock=self._stock()),
            holders=publish.holders(self._inventory.leases.values()),
            wish=self._config.default_wish,
            conditions=self._conditions.judge(
                started=self._pool.started,
                addresses=publish.free_by_default(capacity, self._config.default_wish),
                shortage=publish.shortage(outlook.shortage, outlook.routed, self._config.default_wish),
                obstacle=outlook.obstacle,
                routed=self._routed.standing(),
                trouble=self._cloud.trouble,
                wall=self._clock.wall(),
            ),
        )

    def coming(self) -> int | None:
        """Shared addresses that are free or can be had; None before the cloud has been seen."""
        return publish.free(self._addresses(self._views())) if self._pool.started else None

    def outlook(self) -> Outlook:
        """How things stand when a deadline passes."""
        limits = self._pool.limits()
        trouble = self._cloud.trouble
        capacity = self.capacity()
        unread = "" if self._vswitches.all_known() else "the vSwitches"
        if limits is None:
            unread = f"the limits of {self._identity.instance_type}"
        return Outlook(
            unread=unread,
            blocked=self._pool.blocked if limits is not None and limits.vswitch is None else "",
            vswitches=self._no_vswitch(),
            starved=", ".join(sorted(self._starved(limits))),
            addresses=capacity["addresses"],
            shared_slots=0 if limits is None else len(limits.shared_slots),
            instance_type=self._identity.instance_type,
            routed=self._routed.shortage(),
            routed_full=bool(self._routed.standing().possible and not capacity["routed"].cooling),
            trouble="" if trouble is None else trouble.message,
        )

    def _starved(self, limits: Limits | None) -> set[VSwitchId]:
        if limits is None:
            return set()
        shared = (view for view in self._views() if view.use is Use.SHARED and view.total < limits.secondary)
        return {view.vswitch_id for view in shared if view.vswitch_id in limits.empty_vswitches}

    def _no_vswitch(self) -> str:
        configured = f"{', '.join(self._config.vswitches)} of zone {self._identity.zone}"
        if not self._vswitches.usable():
            return f"no vSwitch to take addresses from: expected one of {configured} in the VPC {self._identity.vpc_id}"
        if self._vswitches.choose(self._clock.monotonic()) is None:
            return f"no free address in {configured}"
        return ""

    def _capacity(self, views: tuple[CardView, ...]) -> dict[str, Capacity]:
        return {
            "slots": publish.slot_capacity(views, self._pool.limits()),
            "addresses": self._addresses(views),
            "services": publish.service_capacity(views, self._pool.limits()),
            "routed": self._routed.capacity(self._clock.monotonic()),
        }

    def _addresses(self, views: tuple[CardView, ...]) -> Capacity:
        return publish.address_capacity(views, self._pool.limits(), stock=self._stock())

    def _stock(self) -> int:
        return self._vswitches.stock(self._clock.monotonic())

    def _views(self) -> tuple[CardView, ...]:
        return self._inventory.views(self._clock.monotonic(), late=self._pool.late)
