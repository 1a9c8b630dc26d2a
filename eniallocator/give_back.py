"""Giving back to the cloud all that an instance was given, when eniway leaves it.

Decided anew in each round from what the cloud shows, so it may be broken off and begun again at any time. Nothing goes
that does not carry this cluster's and this instance's tag, but for addresses that our own books have for ours. An
answer without the instance's own primary ENI is not believed: it would say that nothing is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, Literal

from eniallocator.clock import Clock
from eniallocator.cloud.api import CloudApi, Eni, EniStatus
from eniallocator.cloud.errors import (
    ApiError,
    Busy,
    LimitsDiffer,
    NotFound,
    Throttled,
    Transient,
    VSwitchFull,
    WrongState,
)
from eniallocator.records import Identity
from eniway import log
from eniway.model import EniId

ROUND_SECONDS: Final = 2.0
"""Attach, detach and delete take the cloud some seconds each."""
AGAIN_SECONDS: Final = 30.0
"""One that is Detaching or Deleting for so long is asked for once more."""
UNSURE_SECONDS: Final = 10.0
"""How long after nothing is left a call under way may still show, and how long answers may be beyond belief."""
_MOST_ADDRESSES: Final = 32
"""UnassignPrivateIpAddresses takes no more at once."""
_LATER: Final = (Busy, NotFound, Throttled, Transient, WrongState)

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Possessions:
    """What is this instance's."""

    identity: Identity
    tags: Mapping[str, str]
    """Of its ENIs: both, the cluster's and the instance's."""
    addresses: frozenset[IPv4Address]
    """Secondary addresses of the primary ENI that are ours."""
    enis: frozenset[EniId]
    """Of the books, but for the primary one: without the tags they stay, and are told of."""
    assigns: Mapping[str, int]
    """AssignPrivateIpAddresses on the primary ENI whose answer was never written down: count by ClientToken."""
    creating: bool
    """A call that creates an ENI may be on its way."""


async def give_back(
    cloud: CloudApi, owned: Possessions, *, clock: Clock, seconds: float, told: Callable[[str], None]
) -> tuple[str, ...]:
    """Detach and delete ENIs, unassign addresses; a line on each thing that is still there after ``seconds``.

    Empty: nothing is. ``told`` hears of each ENI once it has been asked to go.
    """
    leaving = _Leaving(cloud, owned, clock=clock, told=told)
    try:
        async with clock.timeout_at(clock.monotonic() + seconds):
            await leaving.run()
    except TimeoutError:
        pass
    except ApiError as error:
        return (f"ENIs tagged {_said(owned.tags)}, if any, were not looked for: {error}",)
    return leaving.remains()


def _said(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(tags.items()))


class _Leaving:
    def __init__(self, cloud: CloudApi, owned: Possessions, *, clock: Clock, told: Callable[[str], None]) -> None:
        self._cloud = cloud
        self._owned = owned
        self._clock = clock
        self._told = told
        self._asked: dict[tuple[EniId, str], float] = {}
        """When an ENI was last asked for."""
        self._refused: dict[str, str] = {}
        """By ENI id, address or ClientToken: for good."""
        self._seen: dict[str, Eni] = {}
        self._addresses = owned.addresses
        self._left: frozenset[IPv4Address] = frozenset()
        """Of these, what was last shown."""
        self._assigns = dict(owned.assigns)
        self._doubt = "the cloud did not answer in time"
        """Why nothing is known of what is left."""

    def remains(self) -> tuple[str, ...]:
        if self._doubt:
            return (f"ENIs tagged {_said(self._owned.tags)}, if any: {self._doubt}",)
        lines = [
            f"{eni.eni_id} ({eni.status}): {self._refused.get(eni.eni_id, 'not gone in time')}"
            for eni in self._seen.values()
        ]
        primary = self._owned.identity.primary_eni
        lines += [
            f"{address} of {primary}: {self._refused.get(str(address), 'not unassigned in time')}"
            for address in sorted(self._left)
        ]
        lines += [
            f"{count} addresses of {primary}, if ClientToken {token} gave any:"
            f" {self._refused.get(token, 'not answered in time')}"
            for token, count in self._assigns.items()
        ]
        return tuple(lines)

    async def run(self) -> None:
        empty_since: float | None = None
        while True:
            if await self._round():
                now = self._clock.monotonic()
                empty_since = now if empty_since is None else empty_since
                unsure = self._owned.creating or self._owned.assigns or self._doubt
                if not unsure or now - empty_since >= UNSURE_SECONDS:
                    return
            else:
                empty_since = None
                if self._stuck():
                    return
            await self._clock.sleep(ROUND_SECONDS)

    def _stuck(self) -> bool:
        """Whether all that is left was refused for good."""
        left = {*self._seen, *map(str, self._left), *self._assigns}
        return not self._doubt and bool(left) and left <= self._refused.keys()

    async def _round(self) -> bool:
        """Look, and ask each thing to go on; whether there was none."""
        primary = self._owned.identity.primary_eni
        try:
            shown = await self._look()
        except (Busy, Throttled, Transient) as error:
            _log.warning("the cloud was not looked at", error=str(error))
            return False
        if primary not in shown:
            self._doubt = f"the cloud does not show {primary}, this instance's own: is the key of another account?"
            _log.warning("the cloud is not believed: it does not show the primary ENI", eni=primary)
            return True
        self._doubt = ""
        self._seen = {eni.eni_id: eni for eni in shown.values() if self._is_ours(eni)}
        self._left = self._addresses & frozenset(shown[primary].secondary)
        is_empty = not self._seen and not self._left and not self._assigns
        for eni in self._seen.values():
            if self._is_tagged(eni):
                await self._push(eni)
            else:
                self._refused[eni.eni_id] = f"not tagged {_said(self._owned.tags)}, so not touched"
        if self._left:
            await self._unassign(sorted(self._left))
        for token, count in tuple(self._assigns.items()):
            await self._repeat(token, count)
        return is_empty

    async def _look(self) -> Mapping[EniId, Eni]:
        """ENIs of our tags, ENIs of our instance; where none of these is ours, what else the books have."""
        tagged = await self._cloud.enis(tags=self._owned.tags)
        shown = {eni.eni_id: eni for eni in tagged}
        shown |= {eni.eni_id: eni for eni in await self._cloud.enis(instance_id=self._owned.identity.instance_id)}
        others = self._owned.enis - shown.keys()
        if others and not any(map(self._is_ours, shown.values())):
            shown |= {eni.eni_id: eni for eni in await self._cloud.enis(ids=sorted(others))}
        return shown

    def _is_ours(self, eni: Eni) -> bool:
        here = eni.secondary_type and eni.instance_id in {None, self._owned.identity.instance_id}
        return here and (self._is_tagged(eni) or eni.eni_id in self._owned.enis)

    def _is_tagged(self, eni: Eni) -> bool:
        return self._owned.tags.items() <= eni.tags.items()

    async def _push(self, eni: Eni) -> None:
        if eni.eni_id in self._refused:
            return
        match eni.status:
            case EniStatus.IN_USE | EniStatus.DETACHING:
                await self._ask(eni.eni_id, "detach")
            case EniStatus.AVAILABLE | EniStatus.DELETING:
                await self._ask(eni.eni_id, "delete")
            case EniStatus.ATTACHING | EniStatus.OTHER:
                pass  # it becomes one of the others by itself

    async def _ask(self, eni_id: EniId, verb: Literal["detach", "delete"]) -> None:
        now = self._clock.monotonic()
        if now - self._asked.get((eni_id, verb), -math.inf) < AGAIN_SECONDS:
            return
        try:
            if verb == "detach":
                await self._cloud.detach_eni(eni_id, self._owned.identity.instance_id)
            else:
                await self._cloud.delete_eni(eni_id)
        except _LATER as error:
            _log.info("not yet", eni=eni_id, error=str(error))
        except ApiError as error:
            self._refused[eni_id] = str(error)
        else:
            self._asked[eni_id, verb] = now
            self._told(f"{eni_id}: {verb}")

    async def _unassign(self, addresses: Collection[IPv4Address]) -> None:
        some = [address for address in addresses if str(address) not in self._refused][:_MOST_ADDRESSES]
        if not some:
            return
        primary = self._owned.identity.primary_eni
        try:
            await self._cloud.unassign(primary, some)
            self._told(f"{primary}: unassigning {', '.join(map(str, some))}")
        except _LATER as error:
            _log.info("not yet", eni=primary, error=str(error))
        except ApiError as error:
            self._refused |= dict.fromkeys(map(str, some), str(error))

    async def _repeat(self, token: str, count: int) -> None:
        """An AssignPrivateIpAddresses whose answer is not known: the same token gives the same addresses."""
        if token in self._refused:
            return
        primary = self._owned.identity.primary_eni
        try:
            given = await self._cloud.assign(primary, count, token=token)
        except (LimitsDiffer, VSwitchFull):
            given = ()  # nor did it give any before
        except _LATER as error:
            _log.info("not yet", eni=primary, error=str(error))
            return
        except ApiError as error:
            self._refused[token] = str(error)
            return
        del self._assigns[token]
        self._addresses |= frozenset(given)
