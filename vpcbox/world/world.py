"""The VPC as it moves: what the API is asked for now, and what comes of it seconds later."""

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from vpcbox.faults import Faults, Kind
from vpcbox.world import ids
from vpcbox.world.clock import Clock
from vpcbox.world.errors import Refused
from vpcbox.world.estate import Estate
from vpcbox.world.lifecycle import Event, following, wrong_state
from vpcbox.world.model import Eni, EniStatus, EniType, Instance, InstanceStatus, InstanceType
from vpcbox.world.plugs import Plugs
from vpcbox.world.power import Power
from vpcbox.world.routing import Routing
from vpcbox.world.tasks import Tasks
from vpcbox.world.wire import Wire

_log = logging.getLogger(__name__)

MOST_ADDRESSES_UNATTACHED = 50  # of an ENI that no instance type limits yet, the primary one among them


@dataclass(frozen=True, slots=True)
class Latency:
    """How long things take, in seconds of box time; a guess from what clients of the real cloud wait for."""

    create: float = 0.5
    attach: float = 3.0
    attach_spread: float = 1.0  # either way
    link: float = 0.3  # between the link and the status InUse, whichever comes first
    detach: float = 3.0
    delete: float = 1.0
    assign: float = 0.3
    route: float = 1.0  # from Pending to Available, and from Deleting to gone
    stock: float = 1.0  # AvailableIpAddressCount lags by so much
    metadata: float = 1.0  # the metadata service lags behind the API by so much
    retry: float = 1.0  # before a wire that failed is asked again


class World(Estate):
    """All ENI and address actions; ``run`` must be running while they are asked for.

    Every action checks all it can before it changes anything and raises ``Refused`` with the API's error code. One ENI
    runs one task at a time: what comes in between is ``Operation.Conflict``.
    """

    def __init__(
        self,
        clock: Clock,
        wire: Wire,
        rng: random.Random,
        instance_types: Mapping[str, InstanceType],
        *,
        faults: Faults | None = None,
        latency: Latency | None = None,
    ) -> None:
        super().__init__(clock, rng, instance_types, Faults() if faults is None else faults)
        self.latency = latency or Latency()
        self._tasks = Tasks(self.faults)
        self._plugs = Plugs(self, wire, self._tasks, retry=self.latency.retry)
        self.power = Power(self, self._plugs, self._tasks)
        self.routing = Routing(self, wire, self._tasks, takes=self.latency.route, retry=self.latency.retry)

    async def run(self) -> None:
        """Carry out what was started, until cancelled."""
        await self._tasks.run()

    # -- instances

    async def create_instance(
        self,
        name: str,
        instance_type: str,
        vswitch_id: str,
        security_group_ids: Iterable[str],
        *,
        http_tokens: str = "optional",
        ram_role: str | None = None,
    ) -> Instance:
        """A running instance with its primary ENI, plugged. Raises KeyError for an unknown instance type."""
        vswitch = self.vswitch(vswitch_id)
        groups = tuple(security_group_ids)
        self.check_security_groups(groups, vswitch.vpc_id)
        instance = Instance(
            id=ids.resource("i", self.rng),
            name=name,
            type=self.instance_types[instance_type],
            vpc_id=vswitch.vpc_id,
            vswitch_id=vswitch_id,
            zone=vswitch.zone,
            status=InstanceStatus.RUNNING,
            security_group_ids=groups,
            created=self.clock.now(),
            http_tokens=http_tokens,
            ram_role=ram_role,
        )
        eni_id = ids.resource("eni", self.rng)
        (address,) = self.claim(vswitch_id, eni_id, count=1)
        self.instances[instance.id] = instance
        eni = self.put(
            Eni(
                id=eni_id,
                name="",
                description="",
                mac=self.new_mac(),
                vpc_id=vswitch.vpc_id,
                vswitch_id=vswitch_id,
                zone=vswitch.zone,
                type=EniType.PRIMARY,
                status=EniStatus.IN_USE,
                primary_address=address,
                secondary_addresses=(),
                security_group_ids=groups,
                source_dest_check=True,
                delete_on_release=True,
                created=self.clock.now(),
                instance_id=instance.id,
                slot=0,
            )
        )
        async with self._tasks.turn(eni.id):
            await self._plugs.plug(eni.id)
        return instance

    # -- ENIs

    async def create_eni(
        self,
        vswitch_id: str,
        security_group_ids: Iterable[str],
        *,
        name: str = "",
        description: str = "",
        primary_address: IPv4Address | None = None,
        secondary_addresses: Iterable[IPv4Address] = (),
        secondary_count: int = 0,
        source_dest_check: bool = True,
        delete_on_release: bool = True,
        tags: Mapping[str, str] | None = None,
    ) -> Eni:
        """An ENI that is Available when this returns."""
        vswitch = self.vswitch(vswitch_id)
        groups = tuple(security_group_ids)
        self.check_security_groups(groups, vswitch.vpc_id)
        secondary = tuple(secondary_addresses)
        if primary_address in secondary or len(set(secondary)) < len(secondary):
            raise Refused("InvalidIp.IpRepeated", "The specified IP is repeated.")
        if 1 + len(secondary) + secondary_count > MOST_ADDRESSES_UNATTACHED:
            raise _too_many_addresses(MOST_ADDRESSES_UNATTACHED)
        eni_id = ids.resource("eni", self.rng)
        wanted = (*((primary_address,) if primary_address else ()), *secondary)
        claimed = self.claim(vswitch_id, eni_id, wanted=wanted, count=secondary_count + (primary_address is None))
        primary = primary_address or claimed[len(wanted)]
        try:
            await self.clock.sleep(self.latency.create)
        except asyncio.CancelledError:
            self.release(vswitch_id, claimed)
            raise
        return self.put(
            Eni(
                id=eni_id,
                name=name,
                description=description,
                mac=self.new_mac(),
                vpc_id=vswitch.vpc_id,
                vswitch_id=vswitch_id,
                zone=vswitch.zone,
                type=EniType.SECONDARY,
                status=EniStatus.AVAILABLE,
                primary_address=primary,
                secondary_addresses=tuple(a for a in claimed if a != primary),
                security_group_ids=groups,
                source_dest_check=source_dest_check,
                delete_on_release=delete_on_release,
                created=self.clock.now(),
                tags=dict(tags or {}),
            )
        )

    def attach_eni(self, eni_id: str, instance_id: str) -> None:
        """Attaching now, InUse and a link in the instance some seconds later."""
        eni = self._idle(eni_id)
        instance = self.instance(instance_id)
        status = following(eni.status, Event.ATTACH)
        if eni.vpc_id != instance.vpc_id:
            raise Refused("InvalidOperation.VpcMismatch", "The ENI and the instance are not in the same VPC.")
        if eni.zone != instance.zone:
            raise Refused(
                "InvalidOperation.AvailabilityZoneMismatch", "The ENI and the instance are not in the same zone."
            )
        slots = {other.slot for other in self.attached(instance_id)}
        if len(slots) >= instance.type.enis:
            raise Refused(
                "EniPerInstanceLimitExceeded",
                f"The maximum number of ENIs of an instance of type {instance.type.id} is {instance.type.enis}.",
            )
        if len(eni.addresses) > instance.type.addresses_per_eni:
            raise _ipv4_count_exceeded(instance.type)
        slot = next(n for n in range(1, instance.type.enis) if n not in slots)
        self.put(replace(eni, status=status, instance_id=instance_id, slot=slot))
        self._tasks.start(eni_id, self.enis[eni_id].status, self._attaching(eni_id))

    async def _attaching(self, eni_id: str) -> None:
        spread = self.latency.attach_spread
        usual = max(0.0, self.latency.attach + self.rng.uniform(-spread, spread))
        await self.clock.sleep(usual + self.faults.longer("AttachNetworkInterface"))
        if rule := self.faults.strike(Kind.LOST_ATTACH, "AttachNetworkInterface"):
            await self.clock.sleep(rule.seconds)
            self._unattached(eni_id, Event.ATTACH_FAILED)
            return
        try:
            async with self._tasks.turn(eni_id):
                if self.rng.random() < 0.5:  # a fair coin: either may be seen first
                    await self._plugs.plug(eni_id)
                    await self.clock.sleep(self.latency.link)
                    self._move(eni_id, Event.ATTACHED)
                else:
                    self._move(eni_id, Event.ATTACHED)
                    await self.clock.sleep(self.latency.link)
                    await self._plugs.plug(eni_id)
        except Exception:  # noqa: BLE001 - whatever the wire broke on, the cloud's side of it is the same
            _log.exception("the wire did not take %s", eni_id)
            if self.enis[eni_id].status is not EniStatus.DETACHING:
                self._unattached(eni_id, Event.ATTACH_FAILED)

    def detach_eni(self, eni_id: str, instance_id: str) -> None:
        """Detaching now, out of the instance and Available some seconds later; asked again, a stuck one goes on."""
        eni = self._idle(eni_id)
        self.instance(instance_id)
        if eni.type is EniType.PRIMARY:
            raise Refused("InvalidOperation.DetachPrimaryEniNotAllowed", "The primary ENI can not be detached.")
        following(eni.status, Event.DETACH)
        if eni.instance_id != instance_id:
            raise Refused(
                "InvalidParameter.EniNotBelongEcs",
                f'The specified ENI "{eni_id}" is not attached to the instance "{instance_id}".',
            )
        self._move(eni_id, Event.DETACH)
        self._tasks.start(eni_id, self.enis[eni_id].status, self._detaching(eni_id))

    async def _detaching(self, eni_id: str) -> None:
        await self.clock.sleep(self.latency.detach + self.faults.longer("DetachNetworkInterface"))
        if self.faults.strike(Kind.STUCK, "DetachNetworkInterface"):
            return
        await self._plugs.pull(eni_id)
        self._unattached(eni_id, Event.DETACHED)

    def delete_eni(self, eni_id: str) -> None:
        """Deleting now, gone with all its addresses a moment later."""
        if self._tasks.busy(eni_id):
            raise Refused("InvalidOperation.Conflict", "Request was denied due to conflict with a previous request.")
        self.eni(eni_id)
        self._move(eni_id, Event.DELETE)
        self._tasks.start(eni_id, self.enis[eni_id].status, self._deleting(eni_id))

    async def _deleting(self, eni_id: str) -> None:
        await self.clock.sleep(self.latency.delete + self.faults.longer("DeleteNetworkInterface"))
        if self.faults.strike(Kind.STUCK, "DeleteNetworkInterface"):
            return
        eni = self.enis.pop(eni_id)
        self.release(eni.vswitch_id, eni.addresses)
        self._tasks.forget(eni_id)

    async def modify_eni(
        self,
        eni_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        security_group_ids: Iterable[str] = (),
        source_dest_check: bool | None = None,
        delete_on_release: bool | None = None,
    ) -> None:
        """Change what is given; a list of security groups takes the place of the old one."""
        groups = tuple(security_group_ids)
        eni = self.eni(eni_id)
        with self._tasks.alone(eni_id):
            self._check_settled(eni)
            self.check_security_groups(groups, eni.vpc_id)
            if groups and eni.type is EniType.PRIMARY:
                raise Refused(
                    "InvalidOperation.InvalidEniType", "The security groups of a primary ENI are the instance's."
                )
            given = {
                "name": name,
                "description": description,
                "security_group_ids": groups or None,
                "source_dest_check": source_dest_check,
                "delete_on_release": delete_on_release,
            }
            await self._change(eni_id, {field: value for field, value in given.items() if value is not None})

    # -- addresses

    def stock(self, vswitch_id: str) -> int:
        """AvailableIpAddressCount, as it was a moment ago."""
        if self.faults.standing(Kind.VSWITCH_EMPTY, vswitch_id):
            return 0
        rule = self.faults.standing(Kind.STOCK_LAG, vswitch_id)
        return self._books[vswitch_id].available_at(self.clock.now() - (rule.seconds if rule else self.latency.stock))

    async def assign_addresses(
        self, eni_id: str, *, addresses: Iterable[IPv4Address] = (), count: int = 0
    ) -> tuple[IPv4Address, ...]:
        """Give an ENI certain addresses or ``count`` any; packets to them arrive when this returns."""
        wanted = tuple(addresses)
        eni = self.eni(eni_id)
        with self._tasks.alone(eni_id):
            self._check_settled(eni)
            if len(set(wanted)) < len(wanted):
                raise Refused("InvalidIp.IpRepeated", "The specified IP is repeated.")
            total = len(eni.addresses) + len(wanted) + count
            if eni.instance_id is None:
                if total > MOST_ADDRESSES_UNATTACHED:
                    raise _too_many_addresses(MOST_ADDRESSES_UNATTACHED)
            elif total > self.instance(eni.instance_id).type.addresses_per_eni:
                raise _ipv4_count_exceeded(self.instances[eni.instance_id].type)
            taken = self.claim(eni.vswitch_id, eni_id, wanted=wanted, count=count)
            try:
                await self.clock.sleep(self.latency.assign)
                await self._change(eni_id, {"secondary_addresses": (*eni.secondary_addresses, *taken)})
            except BaseException:
                self.release(eni.vswitch_id, taken)
                raise
        return taken

    async def unassign_addresses(self, eni_id: str, addresses: Iterable[IPv4Address]) -> None:
        """Take secondary addresses away, in use by somebody or not: all of them or, refused, none."""
        unwanted = tuple(dict.fromkeys(addresses))
        eni = self.eni(eni_id)
        with self._tasks.alone(eni_id):
            self._check_settled(eni)
            for address in unwanted:
                if address not in eni.secondary_addresses:
                    raise Refused(
                        "InvalidIp.IpUnassigned", f'The specified IP "{address}" is not assigned on this ENI.'
                    )
            await self.clock.sleep(self.latency.assign)
            rest = tuple(a for a in eni.secondary_addresses if a not in unwanted)
            await self._change(eni_id, {"secondary_addresses": rest})
            self.release(eni.vswitch_id, unwanted)

    # -- steps

    def _idle(self, eni_id: str) -> Eni:
        """The ENI, unless it is at something."""
        eni = self.eni(eni_id)
        self._tasks.check_idle(eni_id)
        return eni

    async def _change(self, eni_id: str, fields: Mapping[str, Any]) -> None:
        """Change an ENI on the wire, if it is there and is told of such things, and then in the books."""
        async with self._tasks.turn(eni_id):
            eni = replace(self.eni(eni_id), **fields)  # which may have gone with its instance meanwhile
            if fields.keys() & {"secondary_addresses", "source_dest_check"}:
                await self._plugs.update(eni)
            self.put(replace(self.enis[eni_id], **fields))

    def _move(self, eni_id: str, event: Event) -> None:
        eni = self.enis[eni_id]
        self.put(replace(eni, status=following(eni.status, event)))

    def _unattached(self, eni_id: str, event: Event) -> None:
        eni = self.enis[eni_id]
        self.put(replace(eni, status=following(eni.status, event), instance_id=None, slot=None))

    def _check_settled(self, eni: Eni) -> None:
        if eni.status not in {EniStatus.AVAILABLE, EniStatus.IN_USE}:
            raise wrong_state(eni.status, EniStatus.AVAILABLE, EniStatus.IN_USE)


def _too_many_addresses(most: int) -> Refused:
    return Refused("MaxEniPrivateIpsCountExceeded", f"The maximum number of private IPs of an ENI is {most}.")


def _ipv4_count_exceeded(instance_type: InstanceType) -> Refused:
    return Refused(
        "InvalidOperation.Ipv4CountExceeded",
        f"The maximum number of IPv4 addresses per ENI of {instance_type.id} is {instance_type.addresses_per_eni}.",
    )
