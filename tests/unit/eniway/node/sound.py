"""A node on which all agree, and harms to it: each with what a doctor has to call it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final

from eniallocator.cloud.api import Eni, EniStatus
from eniallocator.lifecycle import State
from eniallocator.reading import Answer, Reading
from eniallocator.records import EniRecord, LeaseRecord, Use
from eniway import names
from eniway.model import EniId, Kind, LeaseKey, Slot
from eniway.node.diagnosis import Difference, Host, Kernel, Kubelet, KubeProxy, Name, diagnose
from tests.unit.eniallocator.made import POD_CIDR, eni, key, lease, primary_of, routed, secondary
from tests.unit.eniallocator.test_reclaim import IDENTITY, seen

Named = tuple[Name, str]
KINDS: Final = tuple(Kind)
FREE: Final = 3
"""Addresses without a lease on each card."""


@dataclass(frozen=True)
class World:
    """What each of them says."""

    ledger: Reading
    kernel: Kernel
    kubelet: Kubelet
    cloud: Answer
    host: Host
    trusted: bool = True

    def diagnosis(self) -> tuple[Difference, ...]:
        return diagnose(self.ledger, self.kernel, self.kubelet, self.cloud, self.host, trusted=self.trusted)

    def named(self) -> list[Named]:
        """In order, so that what is named twice is seen twice."""
        return sorted((one.name, one.of) for one in self.diagnosis())


def sound(kinds: Collection[Kind]) -> World:
    """A pod of each of ``kinds``: shared ones on the card in slot 1, each exclusive one on a card of its own."""
    own, shared = eni(0), eni(1)
    cards: list[EniRecord] = [own, shared]
    held: list[LeaseRecord] = []
    pods: dict[tuple[str, str], tuple[Slot, ...]] = {("kube-system", "kube-proxy"): ()}
    for number, kind in enumerate(kinds, start=1):
        name = f"pod-{number}"
        if kind is Kind.EXCLUSIVE:
            card = eni(number + 1, Use.EXCLUSIVE)
            cards.append(card)
            made = lease(name, card, primary_of(card), service=secondary(own, number))
        elif kind is Kind.ROUTED:
            _, made = routed(name, own, POD_CIDR[number])
        else:
            made = lease(name, shared, secondary(shared, number))
        held.append(replace(made, confirmed=True))
        pods["default", name] = (Slot(number + 1),) if kind is Kind.EXCLUSIVE else ()
    idle = eni(len(kinds) + 2, Use.EXCLUSIVE)
    cards.append(idle)
    most = len(kinds) + FREE
    addresses = {
        card.token: tuple(secondary(card, number).address for number in range(1, most + 1))
        for card in cards
        if card.use is not Use.EXCLUSIVE
    } | {card.token: () for card in cards if card.use is Use.EXCLUSIVE}
    exclusive = frozenset(card.slot for card in cards if card.use is Use.EXCLUSIVE and card.slot is not None)
    by_token = {card.token: card for card in cards}
    ledger = Reading(IDENTITY, by_token, addresses, tuple(held), offered=exclusive)
    there = tuple(seen(card, *addresses[card.token]) for card in cards)
    leg = {one.key: frozenset({one.service_address or one.address}) for one in held}
    return World(
        ledger,
        Kernel(
            alive=frozenset(one.netns for one in held),
            links={one.key: names.host_link(one.key) for one in held},
            routed=frozenset(address for routed_to in leg.values() for address in routed_to),
            routed_to=leg,
            members={},
            cards={card.known_id: () for card in (shared, idle)},
            leases={one.key: () for one in held},
        ),
        Kubelet(pods, exclusive),
        Answer(there, tuple(card for card in there if card.secondary_type), by_token, frozenset()),
        Host(first=names.CNI_CONFLIST, kube_proxy=KubeProxy(f"InterfaceNamePrefix {names.LINK_PREFIX}", 14)),
    )


# --- harms: the world after, and what is to be named


Harm = Callable[[World], tuple[World, set[Named]]]


def _kernel(world: World, **fields: object) -> World:
    return replace(world, kernel=replace(world.kernel, **fields))  # type: ignore[arg-type]  # fields of Kernel


def _cloud(world: World, attached: Collection[Eni], tagged: Collection[Eni] | None = None) -> World:
    tags = tuple(one for one in attached if one.secondary_type) if tagged is None else tuple(tagged)
    return replace(world, cloud=replace(world.cloud, attached=tuple(attached), tagged=tags))


def _first(world: World, kind: Kind) -> LeaseRecord | None:
    return next((one for one in world.ledger.leases if one.kind is kind), None)


def chains_gone(world: World) -> tuple[World, set[Named]]:
    return _kernel(world, node=("iptables chain ENIWAY-SNAT is not as planned",)), {(Name.NODE_NETWORK, "node")}


def card_rule_gone(world: World) -> tuple[World, set[Named]]:
    wrong = {**world.kernel.cards, EniId("eni-1"): ("rule 2048 to table 1001 is missing",)}
    return _kernel(world, cards=wrong), {(Name.CARD_NETWORK, "eni-1")}


def card_moved(world: World) -> tuple[World, set[Named]]:
    return _kernel(world, absent=frozenset({EniId("eni-1")})), {(Name.CARD_ELSEWHERE, "eni-1")}


def pod_route_gone(world: World) -> tuple[World, set[Named]]:
    held = world.ledger.leases[0]
    wrong = {**world.kernel.leases, held.key: ("route to 10.0.0.1/32 of table 999 is missing",)}
    return _kernel(world, leases=wrong), {(Name.POD_NETWORK, str(held.pod))}


def sandbox_died(world: World) -> tuple[World, set[Named]]:
    held = world.ledger.leases[-1]
    gone = world.kernel.alive - {held.netns}
    return _kernel(world, alive=gone), {(Name.SANDBOX_GONE, str(held.pod))}


def _stray(world: World) -> tuple[World, LeaseKey]:
    stray = key("nobody")
    address = IPv4Address("10.9.9.9")
    return (
        _kernel(
            world,
            links={**world.kernel.links, stray: names.host_link(stray)},
            routed=world.kernel.routed | {address},
            routed_to={**world.kernel.routed_to, stray: frozenset({address})},
        ),
        stray,
    )


def link_left(world: World) -> tuple[World, set[Named]]:
    after, stray = _stray(world)
    return after, {(Name.STRAY_LINK if world.trusted else Name.LEASE_LOST, names.host_link(stray))}


def member_left(world: World) -> tuple[World, set[Named]]:
    members: Mapping[IPv4Address, frozenset[str]] = {IPv4Address("10.8.8.8"): frozenset({names.IPSET_PODS})}
    return _kernel(world, members=members), {(Name.STRAY_MEMBER, "10.8.8.8")} if world.trusted else set()


def route_left(world: World) -> tuple[World, set[Named]]:
    address = IPv4Address("10.7.7.7")
    return _kernel(world, routed=world.kernel.routed | {address}), {(Name.STRAY_ROUTE, str(address))}


def free_address_removed(world: World) -> tuple[World, set[Named]]:
    """The last one of the shared card: no pod has it."""
    gone = world.ledger.addresses["card-1"][-1]
    cards = [
        replace(one, secondary=tuple(address for address in one.secondary if address != gone))
        for one in world.cloud.attached
    ]
    return _cloud(world, cards), {(Name.ADDRESS_GONE, str(gone))}


def pods_address_removed(world: World) -> tuple[World, set[Named]]:
    held = _first(world, Kind.SHARED)
    if held is None:
        return world, set()
    cards = [
        replace(one, secondary=tuple(address for address in one.secondary if address != held.address))
        for one in world.cloud.attached
    ]
    return _cloud(world, cards), {(Name.POD_CUT_OFF, str(held.pod))}


def address_added(world: World) -> tuple[World, set[Named]]:
    address = IPv4Address("10.0.17.250")
    cards = [
        replace(one, secondary=(*one.secondary, address)) if one.eni_id == "eni-1" else one
        for one in world.cloud.attached
    ]
    return _cloud(world, cards), {(Name.ADDRESS_UNKNOWN, str(address))}


def card_added(world: World) -> tuple[World, set[Named]]:
    stray = seen(eni(14))
    return _cloud(world, [*world.cloud.attached, stray]), {(Name.CARD_UNKNOWN, stray.eni_id)}


def foreign_card_added(world: World) -> tuple[World, set[Named]]:
    """Without our tags, it is nobody's business."""
    foreign = seen(eni(15))
    ours = [one for one in world.cloud.attached if one.secondary_type]
    return _cloud(world, [*world.cloud.attached, foreign], ours), set()


def pod_forgotten(world: World) -> tuple[World, set[Named]]:
    held = next((one for one in world.ledger.leases if one.kind is not Kind.EXCLUSIVE), None)
    if held is None or held.netns not in world.kernel.alive:
        return world, set()
    pods = {name: slots for name, slots in world.kubelet.pods.items() if name[1] != held.pod.name}
    return replace(world, kubelet=replace(world.kubelet, pods=pods)), {(Name.POD_UNKNOWN, str(held.pod))}


def slot_given(world: World) -> tuple[World, set[Named]]:
    slot = max(world.ledger.offered)
    pods = {**world.kubelet.pods, ("default", "waits"): (slot,)}
    return replace(world, kubelet=replace(world.kubelet, pods=pods)), {(Name.SLOT_UNUSED, names.device_id(slot))}


def slot_exchanged(world: World) -> tuple[World, set[Named]]:
    held = _first(world, Kind.EXCLUSIVE)
    if held is None or held.netns not in world.kernel.alive:
        return world, set()
    pods = {**world.kubelet.pods, (held.pod.namespace, held.pod.name): ()}
    return replace(world, kubelet=replace(world.kubelet, pods=pods)), {(Name.SLOT_DIFFERS, str(held.pod))}


def slot_withdrawn(world: World) -> tuple[World, set[Named]]:
    slot = max(world.ledger.offered)
    fewer = world.kubelet.allocatable - {slot}
    kubelet = replace(world.kubelet, allocatable=fewer)
    return replace(world, kubelet=kubelet), {(Name.SLOT_NOT_OFFERED, names.device_id(slot))}


def disk_full(world: World) -> tuple[World, set[Named]]:
    return replace(world, ledger=replace(world.ledger, owes=True)), {(Name.LEDGER_BEHIND, names.LEDGER_FILE)}


def conflist_removed(world: World) -> tuple[World, set[Named]]:
    host = replace(world.host, files=("/etc/cni/net.d/10-eniway.conflist",))
    return replace(world, host=host), {(Name.CNI_FILE, "/etc/cni/net.d/10-eniway.conflist")}


def portmap_removed(world: World) -> tuple[World, set[Named]]:
    return replace(world, host=replace(world.host, portmap=False)), {(Name.PORTMAP_MISSING, "portmap")}


def other_network(world: World) -> tuple[World, set[Named]]:
    host = replace(world.host, first="05-other.conflist")
    return replace(world, host=host), {(Name.OTHER_NETWORK_FIRST, "05-other.conflist")}


def by_cluster_cidr(world: World) -> tuple[World, set[Named]]:
    assert world.host.kube_proxy is not None
    proxy = replace(world.host.kube_proxy, local_pods="ClusterCIDR 172.20.0.0/16")
    return replace(world, host=replace(world.host, kube_proxy=proxy)), {(Name.LOCAL_PODS, "kube-proxy")}


def by_another_mark(world: World) -> tuple[World, set[Named]]:
    assert world.host.kube_proxy is not None
    proxy = replace(world.host.kube_proxy, masquerade_bit=13)
    return replace(world, host=replace(world.host, kube_proxy=proxy)), {(Name.MASQUERADE_MARK, "kube-proxy")}


HARMS: Final[tuple[Harm, ...]] = (
    chains_gone,
    card_rule_gone,
    card_moved,
    pod_route_gone,
    sandbox_died,
    link_left,
    member_left,
    route_left,
    free_address_removed,
    pods_address_removed,
    address_added,
    card_added,
    foreign_card_added,
    pod_forgotten,
    slot_given,
    slot_exchanged,
    slot_withdrawn,
    disk_full,
    conflist_removed,
    portmap_removed,
    other_network,
    by_cluster_cidr,
    by_another_mark,
)


def gone_card(world: World) -> World:
    """The shared card is at no instance any more."""
    return _cloud(world, [one for one in world.cloud.attached if one.eni_id != "eni-1"])


def lost_card(world: World) -> World:
    """The ledger knows that the shared card was lost, and it is there again."""
    card = replace(world.ledger.cards["card-1"], state=State.LOST)
    cards = {**world.ledger.cards, "card-1": card}
    return replace(world, ledger=replace(world.ledger, cards=cards), cloud=replace(world.cloud, before=cards))


def moved_meanwhile(world: World, token: str) -> World:
    """Addresses of a card were being changed while the cloud was asked."""
    return replace(world, cloud=replace(world.cloud, touched=frozenset({token})))


def detached(world: World) -> World:
    """The answer shows the shared card on its way out."""
    cards = [replace(one, status=EniStatus.DETACHING) if one.eni_id == "eni-1" else one for one in world.cloud.attached]
    return _cloud(world, cards)
