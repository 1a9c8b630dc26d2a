import asyncio
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from vpcbox.fabric import netns
from vpcbox.fabric.netlink import Namespace
from vpcbox.fabric.router import ROUTER_MAC, Router
from vpcbox.world.wire import Card

MakeCard = Callable[..., Card]
MakeUdp = Callable[..., Any]


async def _links(path: Path) -> dict[str, dict[str, object]]:
    namespace = await Namespace.open(path)
    try:
        return {link["name"]: link for link in (await namespace.links()).values()}
    finally:
        namespace.close()


async def _link_appears(path: Path, mac: str) -> dict[str, object]:
    async with asyncio.timeout(5):
        while True:
            for link in (await _links(path)).values():
                if link["address"] == mac:
                    return link
            await asyncio.sleep(0.01)


async def _delivers(router: Router, card: Card) -> None:
    """The newest port, the one of ``card``, is whole and its carrier on: before that, what it is sent is lost."""
    await router.update(card)  # one change at a time: that of handing back is over
    namespace = await Namespace.open(router.path)
    try:
        await namespace.carries(max(await namespace.links()))
    finally:
        namespace.close()


async def test_the_primary_card_is_configured_as_by_dhcp_and_others_come_down_and_bare(
    router: Router, card: MakeCard
) -> None:
    """eth0 has its address and is up; eth1 and eth2 are down, in the order they came, each with its MAC."""
    cards = [card("a", "10.0.0.1"), card("a", "10.0.0.2", primary=False), card("a", "10.0.0.3", primary=False)]
    for each in cards:
        await router.plug(each)
    links = await _links(await router.instance("a"))
    assert [(links[f"eth{n}"]["address"], links[f"eth{n}"]["up"]) for n in range(3)] == [
        (cards[0].mac, True),
        (cards[1].mac, False),
        (cards[2].mac, False),
    ]


async def test_delivery_is_by_address_and_each_side_sees_the_others_own(
    router: Router, card: MakeCard, udp: MakeUdp
) -> None:
    """A datagram and its answer cross the router with the addresses they were sent from."""
    await router.plug(card("a", "10.0.0.1"))
    await router.plug(card("b", "10.0.0.2"))
    a, b = udp(await router.instance("a")), udp(await router.instance("b"), port=7)
    await a.send("there", "10.0.0.2")
    assert await b.receive() == ("there", "10.0.0.1")
    await b.send("back", "10.0.0.1", a.socket.getsockname()[1])
    assert await a.receive() == ("back", "10.0.0.2")


async def test_services_of_the_router_see_who_asks(router: Router, card: MakeCard) -> None:
    """A TCP server at a service address is reached by an instance and sees the instance's address."""
    await router.plug(card("a", "10.0.0.1"))
    with netns.listener(router.path, "100.100.100.200", 80) as serving:
        client = netns.made_inside(
            await router.instance("a"), lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        )
        with client:
            client.setblocking(False)
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_connect(client, ("100.100.100.200", 80))
                accepted, peer = await asyncio.get_running_loop().sock_accept(serving)
            accepted.close()
    assert peer[0] == "10.0.0.1"


async def test_a_foreign_source_is_dropped_unless_the_check_is_off(
    router: Router, card: MakeCard, udp: MakeUdp
) -> None:
    """Neither a free address nor another card's is let through as a source; with the check off both are."""
    await router.plug(card("a", "10.0.0.1"))
    await router.plug(card("b", "10.0.0.2"))
    await router.plug(card("c", "10.0.0.3"))
    namespace = await router.instance("a")
    own = udp(namespace)
    forged = [udp(namespace, "10.0.0.9"), udp(namespace, "10.0.0.3"), udp(namespace, "172.20.1.5")]
    b = udp(await router.instance("b"), port=7)
    for each in forged:
        await each.send("forged", "10.0.0.2")
    await own.send("own", "10.0.0.2")  # behind the others on one wire: what arrives first was not overtaken
    assert await b.receive() == ("own", "10.0.0.1")
    await router.update(card("a", "10.0.0.1", source_dest_check=False))
    for each in forged:
        await each.send("forged", "10.0.0.2")
    assert [(await b.receive())[1] for _ in forged] == ["10.0.0.9", "10.0.0.3", "172.20.1.5"]
    await router.update(card("a", "10.0.0.1"))
    await forged[0].send("forged", "10.0.0.2")
    await own.send("own", "10.0.0.2")
    assert await b.receive() == ("own", "10.0.0.1")


@pytest.mark.parametrize("asked", ["10.0.15.253", "10.0.0.2", "10.0.0.77", "10.0.0.4", "10.0.16.9"])
async def test_every_arp_request_is_answered_by_the_same_mac(router: Router, card: MakeCard, asked: str) -> None:
    """Gateway, another card, a free address, one of the asking card itself, another vSwitch: ee:ff:ff:ff:ff:ff."""
    own = card("a", "10.0.0.1", "10.0.0.4")
    await router.plug(own)
    await router.plug(card("b", "10.0.0.2"))

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(0x0806))
        made.bind(("eth0", 0x0806))
        return made

    mac = bytes.fromhex(own.mac.replace(":", ""))
    router_mac = bytes.fromhex(ROUTER_MAC.replace(":", ""))
    sender, target = own.addresses[0].packed, IPv4Address(asked).packed
    head = b"\x08\x06" + bytes.fromhex("0001080006040001")
    loop = asyncio.get_running_loop()
    with netns.made_inside(await router.instance("a"), make) as raw:
        await loop.sock_sendall(raw, b"\xff" * 6 + mac + head + mac + sender + bytes(6) + target)
        async with asyncio.timeout(5):
            while (frame := await loop.sock_recv(raw, 100))[20:22] != b"\0\x02":
                pass
    assert frame[6:12] == router_mac
    assert (frame[22:28], frame[28:32]) == (router_mac, target)


async def test_what_nobody_holds_is_silence_and_broadcast_goes_nowhere(
    router: Router, card: MakeCard, udp: MakeUdp
) -> None:
    """No error comes back for a free address, no neighbour is looked for, and no broadcast reaches another card."""
    await router.plug(card("a", "10.0.0.1"))
    await router.plug(card("b", "10.0.0.2"))
    a, b = udp(await router.instance("a")), udp(await router.instance("b"), port=7)
    a.socket.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR: errors show, even late ones, on the socket
    for address in ("10.0.0.77", "10.0.40.1", "8.8.8.8", "10.0.15.255", "255.255.255.255"):
        await a.send("nobody", address)
    await a.send("somebody", "10.0.0.2")
    assert await b.receive() == ("somebody", "10.0.0.1")
    counters, neighbours = _of_kernel(router.path, "snmp"), _of_kernel(router.path, "arp")[1:]
    pending = [line for line in neighbours if line.split()[2] != "0x6"]  # 0x6: permanent and complete
    names, values = (line.split()[1:] for line in counters if line.startswith("Icmp:"))
    assert dict(zip(names, values, strict=True))["OutDestUnreachs"] == "0"
    assert not pending, "the router asked for a neighbour"
    assert a.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


async def test_addresses_follow_the_card_that_holds_them(router: Router, card: MakeCard, udp: MakeUdp) -> None:
    """An address that moves to another card is delivered there; the one it left loses it as a source, too."""
    await router.plug(card("a", "10.0.0.1", "10.0.0.5"))
    await router.plug(card("b", "10.0.0.2"))
    await router.plug(card("c", "10.0.0.3"))
    was, now = udp(await router.instance("a"), "10.0.0.5"), udp(await router.instance("b"), "10.0.0.5")
    receiver = udp(await router.instance("c"), port=7)
    await was.send("1", "10.0.0.3")
    assert await receiver.receive() == ("1", "10.0.0.5")
    await router.update(card("a", "10.0.0.1"))
    await router.update(card("b", "10.0.0.2", "10.0.0.5"))
    await was.send("2", "10.0.0.3")
    await now.send("3", "10.0.0.3")
    assert await receiver.receive() == ("3", "10.0.0.5")


async def test_a_card_whose_namespace_dies_returns_to_its_instance(
    router: Router, card: MakeCard, udp: MakeUdp, tmp_path: Path
) -> None:
    """The link is back in the instance, down, with the same MAC, and still delivers its addresses."""
    await router.plug(card("a", "10.0.0.1"))
    await router.plug(card("b", "10.0.0.2"))
    lent = card("b", "10.0.0.7", primary=False)
    await router.plug(lent)
    await _move(await router.instance("b"), lent.mac, tmp_path / "pod")
    assert "eth1" not in await _links(await router.instance("b"))
    netns.destroy(tmp_path / "pod")
    link = await _link_appears(await router.instance("b"), lent.mac)
    assert (link["name"], link["up"]) == ("eth1", False)
    namespace = await Namespace.open(await router.instance("b"))
    (index,) = [i for i, each in (await namespace.links()).items() if each["address"] == lent.mac]
    await namespace.request("link", "set", index=index, state="up")
    await namespace.request("addr", "add", index=index, address="10.0.0.7", prefixlen=32)
    namespace.close()
    await _delivers(router, lent)
    b = udp(await router.instance("b"), port=7)
    await udp(await router.instance("a")).send("home", "10.0.0.7")
    assert await b.receive() == ("home", "10.0.0.1")


async def test_a_card_is_unplugged_wherever_it_is(router: Router, card: MakeCard, tmp_path: Path) -> None:
    """A card that lives in a pod's namespace is gone from it, and does not come back."""
    lent = card("a", "10.0.0.7", primary=False)
    await router.plug(lent)
    await _move(await router.instance("a"), lent.mac, tmp_path / "pod")
    await router.unplug(lent.eni_id)
    assert set(await _links(tmp_path / "pod")) == {"lo"}
    assert set(await _links(await router.instance("a"))) == {"lo"}
    netns.destroy(tmp_path / "pod")
    await router.unplug(lent.eni_id)  # an unknown one is no error


def _of_kernel(namespace: Path, name: str) -> list[str]:
    with netns.entered(namespace):
        return Path("/proc/thread-self/net", name).read_text().splitlines()


async def _move(instance: Path, mac: str, pod: Path) -> None:
    """Put the card with this MAC into a new namespace, up, as a network plugin does."""
    netns.create(pod)
    source = await Namespace.open(instance)
    (index,) = [i for i, link in (await source.links()).items() if link["address"] == mac]
    with pod.open("rb") as there:
        await source.request("link", "set", index=index, net_ns_fd=there.fileno())
    source.close()
