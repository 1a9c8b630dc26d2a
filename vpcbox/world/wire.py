"""What the world asks of whoever carries the packets."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Card:
    """An attached ENI as the wire needs it."""

    eni_id: str
    instance_id: str
    mac: str  # lower case, colons: 00:16:3e:xx:xx:xx
    addresses: tuple[IPv4Address, ...]  # the primary address first
    gateway: IPv4Address
    prefix: IPv4Network  # the vSwitch's
    primary: bool  # slot 0 of its instance
    source_dest_check: bool
    mtu: int


@dataclass(frozen=True, slots=True)
class Route:
    """An entry of the VPC's route table."""

    destination: IPv4Network
    eni_id: str | None  # the card it leads to, plugged or not; None: whichever card holds the address


class Wire(Protocol):
    """Carries packets between cards. The world calls it when an asynchronous change of state completes.

    Calls for one card never overlap, nor do those for the routes. Each returns when its effect holds. One that raises
    has had no effect: the world logs it and takes a plug back; an unplug, and the routes, it tries again.
    """

    async def plug(self, card: Card) -> None:
        """Make the card appear as a link in its instance."""

    async def unplug(self, eni_id: str) -> None:
        """Take the card away, wherever its link is by now; an unknown card is no error."""

    async def update(self, card: Card) -> None:
        """Obey the changed addresses or source/destination check of a plugged card."""

    async def route(self, table: tuple[Route, ...]) -> None:
        """Obey this route table from now on: the longest prefix decides.

        Where it leads to a card that is not plugged, or that checks destinations, packets vanish.
        """


class NoWire:
    """A world without packets: states change, nothing moves."""

    async def plug(self, card: Card) -> None:
        """Nothing to do."""

    async def unplug(self, eni_id: str) -> None:
        """Nothing to do."""

    async def update(self, card: Card) -> None:
        """Nothing to do."""

    async def route(self, table: tuple[Route, ...]) -> None:
        """Nothing to do."""
