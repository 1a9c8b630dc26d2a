"""A router with instances on it, in real namespaces."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from vpcbox.fabric import netns
from vpcbox.fabric.router import Router
from vpcbox.world.wire import Card

SERVICE = IPv4Address("100.100.100.200")
PATIENCE = 5.0


@pytest.fixture(autouse=True, scope="session")
def _rights() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root (CAP_SYS_ADMIN, CAP_NET_ADMIN)")


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    """A running router."""
    made = Router(tmp_path)
    await made.open((SERVICE,))
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])
        await made.close()


@pytest.fixture
def card() -> Callable[..., Card]:
    """A card of an instance, in 10.0.0.0/20."""

    def make(instance: str, *addresses: str, primary: bool = True, source_dest_check: bool = True) -> Card:
        first = IPv4Address(addresses[0])
        return Card(
            eni_id=f"eni-{first}",
            instance_id=instance,
            mac="00:16:3e:" + ":".join(f"{b:02x}" for b in first.packed[1:]),
            addresses=tuple(map(IPv4Address, addresses)),
            gateway=IPv4Address("10.0.15.253"),
            prefix=IPv4Network("10.0.0.0/20"),
            primary=primary,
            source_dest_check=source_dest_check,
            mtu=1500,
        )

    return make


class Udp:
    """A UDP socket inside an instance."""

    def __init__(self, namespace: Path, address: str, port: int) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT: any source, as a guest with rights can
            made.bind((address, port))
            return made

        self.socket = netns.made_inside(namespace, make)

    async def send(self, text: str, address: str, port: int = 7) -> None:
        """Send one datagram."""
        await asyncio.get_running_loop().sock_sendto(self.socket, text.encode(), (address, port))

    async def receive(self) -> tuple[str, str]:
        """Wait for one; its text, and where it says it is from."""
        async with asyncio.timeout(PATIENCE):
            data, (source, _) = await asyncio.get_running_loop().sock_recvfrom(self.socket, 2000)
        return data.decode(), source


@pytest.fixture
def udp() -> Iterator[Callable[..., Udp]]:
    """Sockets inside instances."""
    made: list[Udp] = []

    def make(namespace: Path, address: str = "0.0.0.0", port: int = 0) -> Udp:
        made.append(Udp(namespace, address, port))
        return made[-1]

    yield make
    for each in made:
        each.socket.close()
