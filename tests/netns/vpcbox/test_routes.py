import asyncio
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from vpcbox.fabric import netns
from vpcbox.fabric.netlink import Namespace
from vpcbox.fabric.router import Router
from vpcbox.world.wire import Card, Route

MakeCard = Callable[..., Card]
MakeUdp = Callable[..., Any]

POD = "172.20.1.5"
LOCAL = Route(IPv4Network("10.0.0.0/20"), None)
SERVICES = Route(IPv4Network("100.64.0.0/10"), None)


def _to(card: Card, destination: str = "172.20.1.0/24") -> Route:
    return Route(IPv4Network(destination), card.eni_id)


async def _holds(path: Path, *addresses: str) -> None:
    """The guest answers to addresses that no card of it has: pods live behind it."""
    guest = await Namespace.open(path)
    for address in addresses:
        await guest.request("addr", "add", index=1, address=address, prefixlen=32)
    guest.close()


@pytest.fixture
async def node(router: Router, card: MakeCard) -> Callable[[bool], Card]:
    """Instances `a` and `c`, and `b` with a pod behind it; gives b's card with the check on or off."""
    for name, address in (("a", "10.0.0.1"), ("c", "10.0.0.3")):
        await router.plug(card(name, address))
    await _holds(await router.instance("b"), POD)

    def of_b(check: bool) -> Card:
        return card("b", "10.0.0.2", source_dest_check=check)

    await router.plug(of_b(True))
    return of_b


async def test_an_entry_leads_to_a_card_whose_check_is_off_both_ways(
    router: Router, node: Callable[[bool], Card], udp: MakeUdp
) -> None:
    """A pod behind an instance is reached from the others, which see its own address."""
    await router.update(node(False))
    await router.route((SERVICES, LOCAL, _to(node(False))))
    pod = udp(await router.instance("b"), POD, 7)
    for name, address in (("a", "10.0.0.1"), ("c", "10.0.0.3")):
        other = udp(await router.instance(name))
        await other.send("there", POD)
        assert await pod.receive() == ("there", address)
        await pod.send("back", address, other.socket.getsockname()[1])
        assert await other.receive() == ("back", POD)


async def test_with_the_check_on_nothing_foreign_comes_or_goes(
    router: Router, node: Callable[[bool], Card], udp: MakeUdp
) -> None:
    """The entry alone is not enough, in either direction; the card's own address works; off and on again is obeyed."""
    await router.route((LOCAL, _to(node(True))))
    b, a = await router.instance("b"), await router.instance("a")
    everywhere, pod, own = udp(b, port=7), udp(b, POD, 9), udp(b, "10.0.0.2", 9)
    there, here = udp(a), udp(a, port=7)

    async def dropped() -> bool:
        await there.send("1", POD)
        await there.send("2", "10.0.0.2")  # behind the other on one wire
        incoming = await everywhere.receive()
        await pod.send("3", "10.0.0.1")
        await own.send("4", "10.0.0.1")
        outgoing = await here.receive()
        if incoming[0] == "1":
            await everywhere.receive()
            await here.receive()
        assert (incoming[0] == "2") == (outgoing[0] == "4")
        return bool(incoming[0] == "2")

    assert await dropped()
    await router.update(node(False))
    assert not await dropped()
    await router.update(node(True))
    assert await dropped()


async def test_an_entry_that_is_gone_leads_nowhere(router: Router, node: Callable[[bool], Card], udp: MakeUdp) -> None:
    """Deleted, a packet on the same path vanishes while the card's own address still answers; made again, it works."""
    card = node(False)
    await router.update(card)
    a, b = udp(await router.instance("a")), udp(await router.instance("b"), port=7)
    for table, arrives in (((_to(card),), True), ((), False), ((_to(card),), True)):
        await router.route((LOCAL, *table))
        await a.send("pod", POD)
        await a.send("own", "10.0.0.2")
        assert [(await b.receive())[0] for _ in range(1 + arrives)] == ["pod", "own"][not arrives :]


async def test_the_longest_prefix_decides_even_when_it_leads_nowhere(
    router: Router, card: MakeCard, node: Callable[[bool], Card], udp: MakeUdp
) -> None:
    """An entry whose card is not there, or checks, does not fall through to a wider one; nor does a vSwitch's own."""
    wide = card("c", "10.0.0.3", source_dest_check=False)
    await router.update(wide)
    await router.update(node(False))
    await _holds(await router.instance("c"), POD, "10.0.0.77", "100.64.3.3", "192.0.2.1")
    a, b, c = [udp(await router.instance(name), port=7) for name in "abc"]
    everything = _to(wide, "0.0.0.0/0")
    await router.route((SERVICES, LOCAL, everything, _to(node(False))))
    for nobodys in ("10.0.0.77", "100.64.3.3"):
        await a.send("the VPC's own", nobodys)
    await a.send("wide", "192.0.2.1")
    assert (await c.receive())[0] == "wide"
    await a.send("long", POD)
    assert (await b.receive())[0] == "long"
    for lost in (partial(router.update, node(True)), partial(router.unplug, node(True).eni_id)):
        await lost()
        await a.send("lost", POD)
        await a.send("wide", "192.0.2.1")
        assert (await c.receive())[0] == "wide"
    await router.plug(node(False))
    await a.send("long", POD)
    assert (await b.receive())[0] == "long"
    await router.route((SERVICES, LOCAL, everything))
    await a.send("now wide", POD)
    assert (await c.receive())[0] == "now wide"
    await router.route((SERVICES, LOCAL))
    await a.send("nowhere", "192.0.2.1")
    await a.send("own", "10.0.0.3")
    assert (await c.receive())[0] == "own"


async def test_an_entry_may_change_hands(
    router: Router, card: MakeCard, node: Callable[[bool], Card], udp: MakeUdp
) -> None:
    """The same destination by another card from one moment to the next."""
    other = card("c", "10.0.0.3", source_dest_check=False)
    await router.update(other)
    await router.update(node(False))
    await _holds(await router.instance("c"), POD)
    a, b, c = [udp(await router.instance(name), port=7) for name in "abc"]
    await router.route((_to(node(False)),))
    await a.send("1", POD)
    assert (await b.receive())[0] == "1"
    await router.route((_to(other),))
    await a.send("2", POD)
    assert (await c.receive())[0] == "2"


async def test_a_secondary_card_takes_an_entry_too_and_keeps_it_when_it_is_handed_back(
    router: Router, card: MakeCard, udp: MakeUdp, tmp_path: Path
) -> None:
    """Next hop NetworkInterface: into the namespace the card is in, and after that one died into the instance."""
    await router.plug(card("a", "10.0.0.1"))
    await router.plug(card("b", "10.0.0.2"))
    lent = card("b", "10.0.0.7", primary=False, source_dest_check=False)
    await router.plug(lent)
    await router.route((_to(lent),))
    a = udp(await router.instance("a"))
    home = await Namespace.open(await router.instance("b"))
    (index,) = await _indexes(home, lent)
    netns.create(tmp_path / "pod")
    with (tmp_path / "pod").open("rb") as there:
        await home.request("link", "set", index=index, net_ns_fd=there.fileno())
    await _up(tmp_path / "pod", lent, router)
    await _holds(tmp_path / "pod", POD)
    pod = udp(tmp_path / "pod", port=7)
    await a.send("to the pod", POD)
    assert (await pod.receive())[0] == "to the pod"
    pod.socket.close()
    netns.destroy(tmp_path / "pod")
    async with asyncio.timeout(5):
        while True:
            if await _indexes(home, lent):
                break
            await asyncio.sleep(0.01)
    home.close()
    await router.update(lent)  # changes wait for each other: the handing back is complete
    await _up(await router.instance("b"), lent, router)
    await _holds(await router.instance("b"), POD)
    b = udp(await router.instance("b"), port=7)
    await a.send("home", POD)
    assert (await b.receive())[0] == "home"


async def _indexes(namespace: Namespace, card: Card) -> list[int]:
    return [index for index, link in (await namespace.links()).items() if link["address"] == card.mac]


async def _up(path: Path, card: Card, router: Router) -> None:
    """Both ends of a card carry packets; the far one is the port made last."""
    guest, fabric = await Namespace.open(path), await Namespace.open(router.path)
    for index in (1, *await _indexes(guest, card)):
        await guest.request("link", "set", index=index, state="up")
    await guest.carries(index)
    await fabric.carries(max(await fabric.links()))
    guest.close()
    fabric.close()
