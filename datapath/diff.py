"""From what is to what should be: the operations in between, in an order that the kernel accepts. Pure.

Laws (tests/property/test_datapath_diff.py holds them against a model of the kernel):

1. ``diff(x, x)`` is empty.
2. After the operations, ``diff`` is empty.
3. The same holds when only a prefix of the operations was applied, and what the kernel then holds is diffed again: a
   crash between any two costs nothing but the work left.
4. Each operation finds what it needs: links before addresses before routes; and no packet is led to a link that has
   no limit yet, nor to one that is gone.

Some things go without an operation of their own: a veth takes along whatever refers to it, a card that moves loses its
addresses, routes, qdiscs and filters, an ifb its qdisc, a device's last address takes the device's routes and
neighbours along, and a new MAC its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Final, TypeAlias

from datapath.state import (
    Addr,
    Eni,
    Ifb,
    Item,
    Mark,
    Member,
    Neigh,
    Netns,
    NetState,
    Redirect,
    Route,
    Rule,
    Sysctl,
    Tbf,
    Veth,
    key,
)


@dataclass(frozen=True, slots=True)
class Add:
    """Make ``item``. For an Eni: nobody can; the card is missing."""

    item: Item

    def __str__(self) -> str:
        return f"add {self.item}"


@dataclass(frozen=True, slots=True)
class Change:
    """Turn ``was`` into ``item``, which has the same key."""

    item: Item
    was: Item

    def __str__(self) -> str:
        return f"change {self.was} to {self.item}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove ``item``. Never an Eni or a Sysctl."""

    item: Item

    def __str__(self) -> str:
        return f"remove {self.item}"


Op: TypeAlias = Add | Change | Remove


def diff(observed: NetState, desired: NetState) -> tuple[Op, ...]:
    """The operations that lead from ``observed`` to ``desired``, in order; of a key each state holds one item."""
    wanted = {key(item): item for item in desired}
    pairs = [(item, wanted.get(key(item))) for item in observed]
    uprooted = {device for item, want in pairs for device in _uprooted(item, want)}
    ended = {item for item, want in pairs if isinstance(item, Veth) and _ends(item, want)}
    staying = {key(item): item for item in observed if item not in ended and _device(item) not in uprooted}

    removals = [
        Remove(item)
        for name, item in staying.items()
        if name not in wanted and isinstance(item, Addr | Neigh | Route | Rule | Member | Mark | Ifb | Tbf | Redirect)
    ]
    bared = {_device(op.item) for op in removals if isinstance(op.item, Addr)} | {
        (item.netns, item.name)
        for item, want in pairs
        if isinstance(item, Eni) and isinstance(want, Eni) and item.name != want.name
    }
    readdressed = {device for item, want in pairs for device in _readdressed(item, want)}
    cards: list[Op] = []
    additions: list[Op] = []
    for name, item in wanted.items():
        ops = cards if isinstance(item, Eni) else additions
        match staying.get(name):
            case None:
                ops.append(Add(item))
            case Neigh() | Route() as was if _device(was) in bared:
                ops.append(Add(item))
            case Neigh() as was if _device(was) in readdressed:
                ops.append(Add(item))
            case was if not _fits(was, item):
                ops.append(Change(item, was))
    return (
        *sorted(removals, key=_order, reverse=True),
        *sorted(cards, key=_order),
        *sorted(map(Remove, ended), key=_order),
        *sorted(additions, key=_order),
    )


def mend(observed: NetState, desired: NetState) -> tuple[Op, ...]:
    """As ``diff``, but only for what is missing or wrong of the plan: what a pod did in its own namespace stays.

    Its own are the addresses, neighbours and routes there beyond the plan, and of the links there MAC, group, queue and
    a smaller MTU.
    """
    wanted = {key(item) for item in desired}
    found = {key(item): item for item in observed}
    strays = {item for name, item in found.items() if name not in wanted and _is_pods(item)}
    return diff(observed - strays, frozenset(_as_the_pod_has_it(item, found.get(key(item))) for item in desired))


def _is_pods(item: Item) -> bool:
    return isinstance(item, Addr | Neigh | Route) and item.netns is Netns.POD


def _as_the_pod_has_it(want: Item, was: Item | None) -> Item:
    """What is wanted of a link, but for what its pod may set."""
    match want, was:
        case Eni(netns=Netns.POD), Eni(netns=Netns.POD):
            return replace(want, mac=was.mac, mtu=min(was.mtu, want.mtu), group=was.group, txqlen=was.txqlen)
        case Veth(), Veth() if was.peer is not None:
            return replace(want, peer_mac=was.peer_mac, peer_mtu=min(was.peer_mtu, want.peer_mtu))
        case _:
            return want


Device: TypeAlias = tuple[Netns, str]


def _device(item: Item) -> Device | None:
    """The device that an item hangs on."""
    match item:
        case Addr() | Neigh() | Tbf() | Redirect():
            return item.netns, item.dev
        case Route(dev=str(dev)):
            return item.netns, dev
        case _:
            return None


def _ends(veth: Veth, want: Item | None) -> bool:
    """Whether the pair has to go: nobody wants it, or its far end is elsewhere and it has to be made anew."""
    return not isinstance(want, Veth) or want.peer != veth.peer


def _uprooted(item: Item, want: Item | None) -> Iterator[Device]:
    """Devices that lose all that hangs on them between ``item`` and ``want``: ended links, moved cards."""
    match item, want:
        case Veth(), _ if _ends(item, want):
            yield Netns.NODE, item.name
            if item.peer is not None:
                yield Netns.POD, item.peer
        case Eni(), Eni() if want.netns != item.netns:
            yield item.netns, item.name
        case Ifb(), None:
            yield item.netns, item.name


def _readdressed(item: Item, want: Item | None) -> Iterator[Device]:
    """Devices that get another MAC on the way from ``item`` to ``want``."""
    match item, want:
        case Veth(), Veth():
            if want.mac != item.mac:
                yield Netns.NODE, item.name
            if item.peer is not None and want.peer_mac != item.peer_mac:
                yield Netns.POD, item.peer
        case Eni(), Eni() if want.mac != item.mac:
            yield item.netns, item.name


def _fits(was: Item, want: Item) -> bool:
    """Whether they are equal but for what a planned card leaves as it is, and for how the kernel rounds a burst."""
    if isinstance(was, Tbf) and isinstance(want, Tbf) and abs(was.burst - want.burst) <= 2 * _TICK * want.rate + 1:
        return replace(was, burst=want.burst) == want
    if not isinstance(want, Eni):
        return was == want
    said = {field.name: value for field in fields(want) if (value := getattr(want, field.name)) is not None}
    return all(getattr(was, name) == value for name, value in said.items())


_TICK: Final = 64e-9
"""Seconds: PSCHED_SHIFT in include/net/pkt_sched.h."""
_RANK: Final = {
    Sysctl: 0,
    Eni: 1,
    Veth: 2,
    Ifb: 3,
    Tbf: 4,
    Redirect: 5,
    Addr: 6,
    Neigh: 7,
    Route: 8,
    Rule: 10,
    Member: 11,
    Mark: 12,
}


def _order(op: Op) -> tuple[int, str]:
    item = op.item
    rank = _RANK[type(item)]
    if isinstance(item, Route) and item.gateway is not None:
        rank += 1  # a gateway has to be reachable: after the routes to links
    # Within a rank only determinism matters, but for one: conf/all is lowered after each conf/<link> it stood in for.
    return rank, str(item).replace("conf/all/", "conf/~all/")
