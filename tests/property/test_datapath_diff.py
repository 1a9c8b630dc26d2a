"""The laws of diff, against a model of the kernel that is as strict as the real one and forgets as much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapath.diff import Add, Change, Op, Remove, diff, mend
from datapath.plan.bandwidth import bandwidth
from datapath.plan.exclusive import exclusive, home
from datapath.plan.node import node, shared_card
from datapath.plan.routed import ranges, routed
from datapath.plan.shared import shared
from datapath.plan.veth import GATEWAY, mac
from datapath.state import (
    NOTHING,
    TABLE_MAIN,
    Addr,
    Eni,
    Ifb,
    Item,
    Neigh,
    Netns,
    NetState,
    Redirect,
    Route,
    Sysctl,
    Tbf,
    Veth,
    key,
)
from eniway import names
from eniway.model import (
    UNLIMITED,
    Bandwidth,
    Card,
    ContainerId,
    EniId,
    Kind,
    Lease,
    LeaseKey,
    Mac,
    PodRef,
    PodUid,
    Slot,
)

SERVICES = IPv4Network("172.21.0.0/20")


class Kernel:
    """What a kernel does with an operation: it refuses what lacks its ground, and drops what loses it."""

    def __init__(self, state: NetState) -> None:
        self.items = {key(item): item for item in state}

    @property
    def state(self) -> NetState:
        return frozenset(self.items.values())

    def apply(self, op: Op) -> None:
        """Carry out an operation; AssertionError where the kernel would refuse."""
        match op:
            case Add(item):
                self._add(item)
            case Change(item, was):
                assert self.items[key(was)] == was
                self._change(item, was)
            case Remove(item):
                assert not isinstance(item, Eni | Sysctl)
                assert self.items.pop(key(item)) == item
                self._lose(item)

    def devices(self) -> dict[tuple[Netns, str], bool]:
        """Whether each device is up."""
        found: dict[tuple[Netns, str], bool] = {}
        for item in self.items.values():
            if isinstance(item, Veth):
                found[Netns.NODE, item.name] = item.up
                if item.peer is not None:
                    found[Netns.POD, item.peer] = item.up
            elif isinstance(item, Eni | Ifb):
                found[item.netns, item.name] = item.up
        return found

    def _add(self, item: Item) -> None:
        devices = self.devices()
        match item:
            case Eni():
                raise AssertionError("cards are not made")
            case Veth():
                assert key(item) not in self.items
                assert item.peer is not None
                assert (Netns.POD, item.peer) not in devices, "the name is taken"
            case Ifb():
                assert (item.netns, item.name) not in devices, "the name is taken"
            case Addr() | Tbf():
                assert (item.netns, item.dev) in devices
            case Redirect():
                assert (item.netns, item.dev) in devices
                assert (Ifb, item.netns, item.to) in self.items, "leads nowhere"
                assert (Tbf, item.netns, item.to) in self.items, "leads to where nothing limits"
            case Neigh():
                assert devices[item.netns, item.dev], "the link is down"
            case Route(dev=str(dev)):
                assert devices[item.netns, dev], "the link is down"
                assert item.source is None or any(
                    isinstance(other, Addr) and other.netns == item.netns and other.address.ip == item.source
                    for other in self.items.values()
                ), "the source is no address of ours"
                assert item.gateway is None or item.onlink or self._on_link(item.netns, dev, item.gateway)
            case _:
                pass
        self.items[key(item)] = item

    def _on_link(self, netns: Netns, dev: str, gateway: IPv4Address) -> bool:
        return any(
            isinstance(route, Route)
            and (route.netns, route.dev, route.gateway) == (netns, dev, None)
            and gateway in route.destination
            for route in self.items.values()
        )

    def _change(self, item: Item, was: Item) -> None:
        assert key(item) == key(was)
        if isinstance(item, Eni) and isinstance(was, Eni):
            open_ = {
                name: getattr(was, name) for name in ("rp_filter", "altnames", "xdp") if getattr(item, name) is None
            }
            item = replace(item, **open_)
            if (item.netns, item.name) != (was.netns, was.name):
                assert (item.netns, item.name) not in self.devices(), "the name is taken"
                if item.netns != was.netns:
                    self._strip(was.netns, was.name)
                else:
                    self._rename(was.netns, was.name, item.name)
            elif was.up and not item.up:
                self._forget(was.netns, was.name, Route, Neigh)
            if item.mac != was.mac:
                self._forget(was.netns, was.name, Neigh)
        if isinstance(item, Veth) and isinstance(was, Veth):
            assert item.peer == was.peer, "the far end cannot be changed"
            if item.mac != was.mac:
                self._forget(Netns.NODE, was.name, Neigh)
            if item.peer_mac != was.peer_mac and was.peer is not None:
                self._forget(Netns.POD, was.peer, Neigh)
        if isinstance(item, Route | Neigh | Redirect):
            self._add(item)
        self.items[key(item)] = item

    def _lose(self, item: Item) -> None:
        match item:
            case Veth():
                self._strip(Netns.NODE, item.name)
                if item.peer is not None:
                    self._strip(Netns.POD, item.peer)
            case Ifb():
                self._strip(item.netns, item.name)
                for lead in [other for other in self.items.values() if isinstance(other, Redirect)]:
                    if (lead.netns, lead.to) == (item.netns, item.name):
                        self.items[key(lead)] = replace(lead, to=None)
            case Addr():
                for route in [other for other in self.items.values() if isinstance(other, Route)]:
                    if route.netns == item.netns and route.source == item.address.ip:
                        del self.items[key(route)]
                if not any(
                    isinstance(other, Addr) and (other.netns, other.dev) == (item.netns, item.dev)
                    for other in self.items.values()
                ):
                    self._forget(item.netns, item.dev, Route, Neigh)
            case _:
                pass

    def _rename(self, netns: Netns, old: str, new: str) -> None:
        """A link is down while it is renamed: only its addresses, buckets and filters outlast that."""
        for item in list(self.items.values()):
            if isinstance(item, Addr | Tbf | Redirect) and (item.netns, item.dev) == (netns, old):
                del self.items[key(item)]
                moved = replace(item, dev=new)
                self.items[key(moved)] = moved
        self._forget(netns, old, Route, Neigh)

    def lose_far_end(self, veth: Veth) -> None:
        """Somebody moved the pod's end of a veth to a namespace of his own."""
        assert veth.peer is not None
        self._strip(Netns.POD, veth.peer)
        self.items[key(veth)] = replace(veth, peer=None, peer_mac=Mac(""), peer_mtu=0)

    def _strip(self, netns: Netns, dev: str) -> None:
        self._forget(netns, dev, Route, Neigh, Addr, Tbf, Redirect)

    def _forget(self, netns: Netns, dev: str, *kinds: type[Item]) -> None:
        for name, item in list(self.items.items()):
            if isinstance(item, kinds) and (getattr(item, "netns", None), getattr(item, "dev", None)) == (netns, dev):
                del self.items[name]


# --- states: plans of leases, reached in part and then meddled with


def card(slot: int) -> Card:
    return Card(
        eni_id=EniId(f"eni-{slot}"),
        mac=Mac(f"00:16:3e:00:00:0{slot}"),
        slot=Slot(slot),
        address=IPv4Address(f"10.0.0.{slot}"),
        prefix=IPv4Network("10.0.0.0/20"),
        gateway=IPv4Address("10.0.15.253"),
    )


def lease(kind: Kind, *, host: int = 10, slot: int = 1, service: int = 20, limits: Bandwidth = UNLIMITED) -> Lease:
    return Lease(
        key=LeaseKey("eniway", ContainerId("c0ffee"), "eth0"),
        pod=PodRef("default", "pod", PodUid("uid")),
        kind=kind,
        netns="/run/netns/pod",
        card=card(slot),
        address=IPv4Address(f"10.0.1.{host}"),
        service_address=IPv4Address(f"10.0.1.{service}") if kind is Kind.EXCLUSIVE else None,
        bandwidth=limits,
    )


def at_home(slot: int, *, mtu: int = 1500) -> Eni:
    (item,) = home(card(slot), name=f"eth{slot}", mtu=mtu)
    assert isinstance(item, Eni)
    return replace(item, rp_filter=0, altnames=())


hosts = st.integers(10, 12)
mtus = st.sampled_from([1400, 1500])
rates = st.sampled_from([None, None, 10**6, 10**9])
limits_ = st.builds(Bandwidth, rates, rates)


def planned(of: Lease, mtu: int, *, metadata: bool = False) -> NetState:
    """All that a lease means."""
    match of.kind:
        case Kind.SHARED:
            connection = shared(of, mtu=mtu)
        case Kind.ROUTED:
            connection = routed(of, mtu=mtu)
        case Kind.EXCLUSIVE:
            connection = exclusive(of, mtu=mtu, service_cidr=SERVICES, metadata=metadata)
    return connection | bandwidth(of, mtu=mtu)


shared_plans = st.builds(
    lambda host, slot, mtu, limits: planned(lease(Kind.SHARED, host=host, slot=slot, limits=limits), mtu),
    hosts,
    st.integers(1, 2),
    mtus,
    limits_,
)
exclusive_plans = st.builds(
    lambda host, service, mtu, limits, metadata: planned(
        lease(Kind.EXCLUSIVE, host=host, service=service, slot=3, limits=limits), mtu, metadata=metadata
    ),
    hosts,
    st.integers(20, 22),
    mtus,
    limits_,
    st.booleans(),
)
routed_plans = st.builds(
    lambda host, mtu, limits: planned(lease(Kind.ROUTED, host=host, slot=0, limits=limits), mtu), hosts, mtus, limits_
)
# Another podCIDR is wanted when the Node was made anew.
range_plans = st.builds(
    lambda numbers: ranges([IPv4Network(f"172.20.{number}.0/24") for number in numbers]),
    st.frozensets(st.integers(1, 3), max_size=2),
)
card_plans = st.builds(lambda mtu: shared_card(card(3), name="eth3", mtu=mtu), mtus)
home_plans = st.builds(lambda mtu: home(card(3), name="eth3", mtu=mtu), mtus)
# Whatever may be wanted of one lease and its card. A lease never changes its kind.
of_shared = st.one_of(shared_plans, st.just(NOTHING))
of_routed = st.one_of(routed_plans, st.just(NOTHING))
of_exclusive = st.one_of(exclusive_plans, card_plans, home_plans, st.just(NOTHING))


@st.composite
def situations(draw: st.DrawFn) -> tuple[NetState, NetState]:
    """(observed, desired): what some history of attaching, crashing and meddling left, and what is wanted now."""
    plans = draw(st.sampled_from([of_shared, of_routed, of_exclusive, range_plans]))
    kernel = Kernel(frozenset({at_home(3)}))
    history = draw(st.lists(plans, min_size=1, max_size=3))
    for plan in history:
        ops = diff(kernel.state, plan)
        # Mostly to the end, or nothing is ever there to be meddled with.
        for op in ops[: draw(st.one_of(st.just(len(ops)), st.integers(0, len(ops))))]:
            kernel.apply(op)
    for _ in range(draw(st.integers(0, 3))):
        meddle(draw, kernel)
    return kernel.state, draw(st.one_of(st.just(history[-1]), plans))


def meddle(draw: st.DrawFn, kernel: Kernel) -> None:
    """Somebody removes or changes something by hand."""
    item = draw(st.sampled_from(sorted(kernel.state, key=str)))
    if draw(st.booleans()):
        netns, dev = draw(st.sampled_from(sorted(kernel.devices())))
        table = TABLE_MAIN if netns is Netns.POD else names.eni_table(3)
        strays: list[Item] = [
            Addr(netns=netns, dev=dev, address=IPv4Interface("192.0.2.7/24")),
            Neigh(netns=netns, dev=dev, address=GATEWAY, mac=mac(lease(Kind.SHARED).key, Netns.NODE)),
            Route(netns=netns, table=table, destination=IPv4Network("0.0.0.0/0"), dev=dev),
        ]
        stray: Item = draw(st.sampled_from(strays if kernel.devices()[netns, dev] else strays[:1]))
        kernel.apply(Add(stray))
        return
    match item:
        case Veth(peer=None):
            return
        case Veth() if draw(st.booleans()):
            kernel.lose_far_end(item)
        case Veth():
            changed = draw(
                st.sampled_from(
                    [
                        replace(item, mtu=1300),
                        replace(item, peer_mtu=1300),
                        replace(item, alias="somebody"),
                        replace(item, mac=Mac("02:00:00:00:00:01")),
                        replace(item, peer_mac=Mac("02:00:00:00:00:02")),
                        replace(item, group=0, rp_filter=0),
                    ]
                )
            )
            kernel.apply(Change(changed, item))
        case Eni():
            free = f"free{len(kernel.items)}"
            other = draw(
                st.sampled_from(
                    [
                        replace(item, mac=Mac("02:00:00:00:00:03")),
                        replace(item, mtu=1300, alias="somebody", group=9, txqlen=1, altnames=("other",), xdp=(2,)),
                        replace(item, name=free),
                        replace(item, netns=Netns.NODE, name=free, up=False),
                        replace(item, up=False),
                    ]
                )
            )
            kernel.apply(Change(other, item))
        case Sysctl():
            kernel.apply(Change(replace(item, value="7"), item))
        case Tbf() if draw(st.booleans()):
            kernel.apply(Change(replace(item, rate=2 * item.rate), item))
        case Ifb() if draw(st.booleans()):
            kernel.apply(Change(replace(item, alias="somebody", up=False), item))
        case _:
            kernel.apply(Remove(item))


@given(situations())
def test_a_state_differs_not_from_itself(situation: tuple[NetState, NetState]) -> None:
    """diff(x, x) is empty."""
    for state in situation:
        assert diff(state, state) == ()


@given(situations(), st.data())
def test_any_crash_costs_nothing_but_the_work_left(situation: tuple[NetState, NetState], data: st.DataObject) -> None:
    """After any prefix of the operations, those that are then needed reach the plan, each finding its ground."""
    observed, desired = situation
    kernel = Kernel(observed)
    ops = diff(observed, desired)
    for op in ops[: data.draw(st.integers(0, len(ops)), label="done before the crash")]:
        kernel.apply(op)
    for op in diff(kernel.state, desired):
        kernel.apply(op)
    assert diff(kernel.state, desired) == ()
    for item in desired:
        assert isinstance(item, Eni) or item in kernel.state


@given(situations())
def test_the_operations_lead_to_the_plan_and_nothing_else(situation: tuple[NetState, NetState]) -> None:
    """One pass is enough; beyond the plan only cards and sysctls are left: they are set, not made."""
    observed, desired = situation
    kernel = Kernel(observed)
    for op in diff(observed, desired):
        kernel.apply(op)
    assert diff(kernel.state, desired) == ()
    planned = {key(item) for item in desired}
    assert all(key(item) in planned or isinstance(item, Eni | Sysctl) for item in kernel.state)


@given(situations())
def test_operations_come_in_one_order_however_the_sets_are_built(situation: tuple[NetState, NetState]) -> None:
    """The same states give the same operations: a log can be compared, a crash repeated."""
    observed, desired = situation
    again = diff(frozenset(reversed(list(observed))), frozenset(reversed(list(desired))))
    assert again == diff(observed, desired)


@given(situations())
def test_mending_leads_to_the_plan_and_spares_what_is_the_pods(situation: tuple[NetState, NetState]) -> None:
    """One pass is enough; nothing beyond the plan is taken from a pod whose links stay."""
    observed, desired = situation
    kernel = Kernel(observed)
    for op in mend(observed, desired):
        assert not (isinstance(op, Remove) and isinstance(op.item, Addr | Neigh | Route) and op.item.netns is Netns.POD)
        kernel.apply(op)
    assert mend(kernel.state, desired) == ()
    assert all(item in kernel.state for item in desired if not isinstance(item, Eni | Veth))


@given(situations())
def test_mending_minds_the_node_as_strictly_as_attaching(situation: tuple[NetState, NetState]) -> None:
    """What is left for a full diff after it is in the pod's namespace alone."""
    observed, desired = situation
    kernel = Kernel(observed)
    for op in mend(observed, desired):
        kernel.apply(op)
    for op in diff(kernel.state, desired):
        assert isinstance(op.item, Veth) or getattr(op.item, "netns", None) is Netns.POD


def other_mac(kernel: Kernel) -> None:
    """The pod's end got another MAC, and its gateway was put back."""
    (veth,) = (item for item in kernel.state if isinstance(item, Veth))
    (gateway,) = (item for item in kernel.state if isinstance(item, Neigh))
    kernel.apply(Change(replace(veth, peer_mac=Mac("02:00:00:00:00:02")), veth))
    kernel.apply(Add(gateway))


def other_name(kernel: Kernel) -> None:
    """The card was renamed and lost its address, and a default route was put on it."""
    (card_,) = (item for item in kernel.state if isinstance(item, Eni))
    (default,) = (item for item in kernel.state if isinstance(item, Route) and item.destination.prefixlen == 0)
    (address,) = (item for item in kernel.state if isinstance(item, Addr) and item.dev == card_.name)
    kernel.apply(Remove(address))
    kernel.apply(Change(replace(card_, name="mine"), card_))
    kernel.apply(Add(replace(default, dev="mine", source=None)))


def other_namespace(kernel: Kernel) -> None:
    """The pod's end was moved away; the node's end is still there, its route too."""
    (veth,) = (item for item in kernel.state if isinstance(item, Veth))
    kernel.lose_far_end(veth)


@pytest.mark.parametrize("meddled", [other_mac, other_name, other_namespace])
def test_what_the_kernel_forgets_on_the_way_is_made_again(meddled: Callable[[Kernel], None]) -> None:
    """Setting a MAC drops neighbours, a rename routes, a veth made anew its host route: all in the same pass."""
    desired = exclusive(lease(Kind.EXCLUSIVE, slot=3), mtu=1500, service_cidr=SERVICES)
    kernel = Kernel(frozenset({at_home(3)}))
    for op in diff(kernel.state, desired):
        kernel.apply(op)
    meddled(kernel)
    ops = diff(kernel.state, desired)
    assert ops != ()
    for op in ops:
        kernel.apply(op)
    assert diff(kernel.state, desired) == ()


links = st.dictionaries(st.sampled_from(["lo", "eth0", "eth1", "default"]), st.integers(0, 2))


@given(links, st.integers(0, 2))
def test_no_link_gets_looser_but_by_its_own_value(own: dict[str, int], everywhere: int) -> None:
    """The kernel takes the larger of ``all`` and the link's: the same before and after ``all`` was handed down."""
    plan = node({"all": everywhere, **own})
    after = {
        item.path.split("/")[3]: int(item.value) for item in plan if isinstance(item, Sysctl) and "conf" in item.path
    }
    assert after.pop("all") == 0
    assert {**own, **after} == {link: max(value, everywhere) for link, value in own.items()}


@given(st.integers(1, 2))
def test_all_is_lowered_last(everywhere: int) -> None:
    """A crash on the way leaves no link without the filter it had."""
    before = {"all": everywhere, "default": 0, "eth0": 0, "zz": 0}
    observed = frozenset(
        Sysctl(path=f"net/ipv4/conf/{link}/rp_filter", value=str(value)) for link, value in before.items()
    )
    paths = [
        op.item.path for op in diff(observed, node(before)) if isinstance(op.item, Sysctl) and "conf" in op.item.path
    ]
    assert paths[-1] == "net/ipv4/conf/all/rp_filter"
    assert len(paths) == len(before)


@given(st.integers(1000, 10**15), st.integers(-2, 2))
def test_how_the_kernel_rounds_a_burst_is_no_difference(bits: int, ticks: int) -> None:
    """It keeps the burst as a time in ticks of 64 ns."""
    (want,) = bandwidth(lease(Kind.SHARED, limits=Bandwidth(ingress=bits)), mtu=1500)
    assert isinstance(want, Tbf)
    back = replace(want, burst=want.burst + ticks * 64 * want.rate // 10**9)
    assert diff(frozenset({back}), frozenset({want})) == ()
    other = replace(want, burst=want.burst + max(want.burst // 10, 64 * want.rate // 10**7))
    assert diff(frozenset({other}), frozenset({want})) == (Change(want, other),)


def test_a_card_that_is_missing_shows() -> None:
    """It cannot be made, but CHECK must not call its absence as planned."""
    plan = home(card(3), name="eth3", mtu=1500)
    assert diff(NOTHING, plan) == tuple(Add(item) for item in plan)


def test_the_model_refuses_what_the_kernel_refuses() -> None:
    """A route before its link, an address on nothing: the laws above are not held by a model that takes anything."""
    for item in planned(lease(Kind.SHARED, limits=Bandwidth(10**6, 10**6)), 1500):
        if isinstance(item, Addr | Neigh | Route | Tbf | Redirect):
            try:
                Kernel(NOTHING).apply(Add(item))
            except (AssertionError, KeyError):
                continue
            raise AssertionError(f"took {item} without its link")
