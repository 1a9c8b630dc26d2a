"""What there is in the VPC, and whose address is whose. Synchronous: each change is whole or not at all."""

import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from vpcbox.faults import Faults, Kind
from vpcbox.world import ids
from vpcbox.world.addresses import AddressBook, gateway
from vpcbox.world.clock import Clock
from vpcbox.world.errors import Refused
from vpcbox.world.model import ZONE, Eni, EniStatus, EniType, Instance, InstanceType, SecurityGroup, Vpc, VSwitch
from vpcbox.world.route_table import RouteTable
from vpcbox.world.wire import Card

MTU, JUMBO_MTU = 1500, 8500
MOST_TAGS = 20


class Estate:
    """The resources by id, in the order they were made; readers may look, only the world changes."""

    def __init__(
        self, clock: Clock, rng: random.Random, instance_types: Mapping[str, InstanceType], faults: Faults
    ) -> None:
        self.clock = clock
        self.rng = rng
        self.instance_types = instance_types
        self.jumbo_frames = False  # EnableJumboFrame of all instances whose type has them
        self.faults = faults
        self.vpcs: dict[str, Vpc] = {}
        self.vswitches: dict[str, VSwitch] = {}
        self.route_tables: dict[str, RouteTable] = {}
        self.security_groups: dict[str, SecurityGroup] = {}
        self.instances: dict[str, Instance] = {}
        self.enis: dict[str, Eni] = {}
        self._books: dict[str, AddressBook] = {}
        self._seen: dict[str, deque[tuple[float, tuple[Eni, ...]]]] = {}

    # -- the ground: made at once, before anybody asks

    def create_vpc(self, name: str, cidr: IPv4Network) -> Vpc:
        """A VPC with its router and its system route table."""
        vpc = Vpc(
            id=ids.resource("vpc", self.rng),
            name=name,
            cidr=cidr,
            router_id=ids.resource("vrt", self.rng),
            route_table_id=ids.resource("vtb", self.rng),
            created=self.clock.now(),
        )
        self.vpcs[vpc.id] = vpc
        self.route_tables[vpc.route_table_id] = RouteTable(vpc, self.rng)
        return vpc

    def create_vswitch(self, name: str, vpc_id: str, cidr: IPv4Network, zone: str = ZONE) -> VSwitch:
        """A subnet; raises ValueError where it does not fit into the VPC beside the others."""
        vpc = self.vpcs[vpc_id]
        if not cidr.subnet_of(vpc.cidr) or not 16 <= cidr.prefixlen <= 29:
            raise ValueError(f"cidr: expected a /16 to /29 inside {vpc.cidr}, got {cidr}")
        for other in self.vswitches.values():
            if other.vpc_id == vpc_id and other.cidr.overlaps(cidr):
                raise ValueError(f"cidr: {cidr} overlaps {other.cidr} of {other.name}")
        vswitch = VSwitch(ids.resource("vsw", self.rng), name, vpc_id, zone, cidr, self.clock.now())
        self.vswitches[vswitch.id] = vswitch
        self._books[vswitch.id] = AddressBook(cidr)
        self.route_tables[vpc.route_table_id].add_local(cidr, self.clock.now())
        return vswitch

    def create_security_group(self, name: str, vpc_id: str) -> SecurityGroup:
        """A security group: an id that ENIs must name."""
        group = SecurityGroup(ids.resource("sg", self.rng), name, vpc_id, self.clock.now())
        self.security_groups[group.id] = group
        return group

    # -- looking up, in the cloud's words when there is nothing

    def vswitch(self, vswitch_id: str) -> VSwitch:
        """The vSwitch, or ``InvalidVSwitchId.NotFound``."""
        if vswitch_id not in self.vswitches:
            raise Refused("InvalidVSwitchId.NotFound", f'The specified VSwitchId "{vswitch_id}" is not found.')
        return self.vswitches[vswitch_id]

    def route_table(self, table_id: str) -> RouteTable:
        """The route table, or ``InvalidRouteTableId.NotFound``."""
        if table_id not in self.route_tables:
            raise Refused("InvalidRouteTableId.NotFound", "Specified route table does not exist.")
        return self.route_tables[table_id]

    def instance(self, instance_id: str) -> Instance:
        """The instance, or ``InvalidEcsId.NotFound``."""
        if instance_id not in self.instances:
            raise Refused("InvalidEcsId.NotFound", f'The specified EcsId "{instance_id}" is not found.')
        return self.instances[instance_id]

    def eni(self, eni_id: str) -> Eni:
        """The ENI, or ``InvalidEniId.NotFound``."""
        if eni_id not in self.enis:
            raise Refused("InvalidEniId.NotFound", f'The specified EniId "{eni_id}" is not found.')
        return self.enis[eni_id]

    def check_security_groups(self, group_ids: Iterable[str], vpc_id: str) -> None:
        """All exist and are of the VPC."""
        for group_id in group_ids:
            if group_id not in self.security_groups:
                raise Refused(
                    "InvalidSecurityGroupId.NotFound", f'The specified SecurityGroupId "{group_id}" is not found.'
                )
            if self.security_groups[group_id].vpc_id != vpc_id:
                raise Refused("InvalidOperation.VpcMismatch", f'SecurityGroup "{group_id}" is of another VPC.')

    def attached(self, instance_id: str) -> list[Eni]:
        """The ENIs that take a slot of the instance, coming and going ones too, by slot."""
        own = [eni for eni in self.enis.values() if eni.instance_id == instance_id]
        return sorted(own, key=lambda eni: -1 if eni.slot is None else eni.slot)

    def primary(self, instance_id: str) -> Eni:
        """The instance's first card."""
        return next(eni for eni in self.attached(instance_id) if eni.type is EniType.PRIMARY)

    def holder(self, address: IPv4Address) -> Eni | None:
        """The ENI that holds an address."""
        for book in self._books.values():
            if address in book.cidr:
                return self.enis.get(book.holder(address) or "")
        return None

    def instance_of(self, address: IPv4Address) -> str | None:
        """The instance whose cards hold an address: who asks, to the metadata service."""
        eni = self.holder(address)
        return None if eni is None else eni.instance_id

    def card(self, eni: Eni) -> Card:
        """What the wire needs to know of an attached ENI."""
        assert eni.instance_id is not None
        cidr = self.vswitches[eni.vswitch_id].cidr
        return Card(
            eni_id=eni.id,
            instance_id=eni.instance_id,
            mac=eni.mac,
            addresses=eni.addresses,
            gateway=gateway(cidr),
            prefix=cidr,
            primary=eni.type is EniType.PRIMARY,
            source_dest_check=eni.source_dest_check,
            mtu=JUMBO_MTU if self.jumbo_frames and self.instances[eni.instance_id].type.jumbo else MTU,
        )

    # -- addresses

    def available(self, vswitch_id: str) -> int:
        """Free addresses of a vSwitch."""
        if self.faults.standing(Kind.VSWITCH_EMPTY, vswitch_id):
            return 0
        return self._books[vswitch_id].available

    def claim(
        self, vswitch_id: str, eni_id: str, *, wanted: Iterable[IPv4Address] = (), count: int = 0
    ) -> tuple[IPv4Address, ...]:
        """Take the wanted addresses and ``count`` more for an ENI: all of them or, refused, none."""
        book = self._books[vswitch_id]
        wanted = tuple(wanted)
        if self.available(vswitch_id) < len(wanted) + count:
            raise Refused(
                "InvalidVSwitchId.IpNotEnough", f'The specified VSwitch "{vswitch_id}" has not enough IpAddress.'
            )
        taken: list[IPv4Address] = []
        try:
            for address in wanted:
                book.claim(address, eni_id)
                taken.append(address)
        except Refused:
            self.release(vswitch_id, taken)
            raise
        claimed = (*taken, *book.claim_any(count, eni_id, self.rng))
        book.note(self.clock.now())
        return claimed

    def release(self, vswitch_id: str, addresses: Iterable[IPv4Address]) -> None:
        """The addresses are nobody's again."""
        for address in addresses:
            self._books[vswitch_id].release(address)
        self._books[vswitch_id].note(self.clock.now())

    # -- changes, and what a guest sees of them

    def put(self, eni: Eni) -> Eni:
        """The ENI is now as given."""
        before = self.enis.get(eni.id)
        self.enis[eni.id] = eni
        for instance_id in {held.instance_id for held in (before, eni) if held is not None}:
            if instance_id is not None:
                self.publish(instance_id)
        return eni

    def publish(self, instance_id: str) -> None:
        """Note what the instance's metadata says from now on (which is seen a moment later)."""
        enis = tuple(e for e in self.attached(instance_id) if e.status in {EniStatus.IN_USE, EniStatus.DETACHING})
        history = self._seen.setdefault(instance_id, deque())
        history.append((self.clock.now() if history else 0.0, enis))

    def seen(self, instance_id: str, lag: float) -> tuple[Eni, ...]:
        """The attached ENIs as the instance's metadata shows them: as they were ``lag`` seconds ago."""
        history = self._seen[instance_id]
        shown = self.clock.now() - lag
        while len(history) > 1 and history[1][0] <= shown:
            history.popleft()
        return history[0][1]

    def forget(self, instance_id: str) -> None:
        """Nobody asks for the metadata of an instance that is gone."""
        assert not self.attached(instance_id)
        del self._seen[instance_id]

    def new_mac(self) -> str:
        """A MAC address nobody has."""
        taken = {eni.mac for eni in self.enis.values()}
        return next(mac for mac in self._macs() if mac not in taken)

    def _macs(self) -> Iterator[str]:
        while True:
            yield ids.mac(self.rng)

    def check_tags(self, resource_id: str, tags: Mapping[str, str | None]) -> Mapping[str, str]:
        """The tags an ENI or an instance would have, or ``QuotaExceed.Tags``; None takes a tag away."""
        held = self.enis.get(resource_id) or self.instances[resource_id]
        after = {key: value for key, value in {**held.tags, **tags}.items() if value is not None}
        if len(after) > MOST_TAGS:
            raise Refused("QuotaExceed.Tags", f"The maximum number of tags of a resource is {MOST_TAGS}.")
        return after

    def tag(self, resource_id: str, tags: Mapping[str, str | None]) -> None:
        """Set tags of an ENI or an instance, as ``check_tags`` says."""
        after = self.check_tags(resource_id, tags)
        if resource_id in self.enis:
            self.put(replace(self.enis[resource_id], tags=after))
        else:
            self.instances[resource_id] = replace(self.instances[resource_id], tags=after)

    def describe(self) -> dict[str, Any]:
        """The VPC and its instances in plain words, for ``vpcbox status``; one VPC and one security group to a box."""
        vpc = next(iter(self.vpcs.values()))
        return {
            "vpc": {
                "id": vpc.id,
                "cidr": str(vpc.cidr),
                "route_table_id": vpc.route_table_id,
                "security_group_id": next(iter(self.security_groups)),
                "vswitches": [
                    {"id": v.id, "name": v.name, "zone": v.zone, "cidr": str(v.cidr)} for v in self.vswitches.values()
                ],
            },
            "instances": [
                {
                    "name": i.name,
                    "instance_id": i.id,
                    "instance_type": i.type.id,
                    "status": i.status.value,
                    "address": str(self.primary(i.id).primary_address),
                }
                for i in self.instances.values()
            ],
        }
