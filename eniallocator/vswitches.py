"""Where new cards and addresses come from: the configured vSwitches of the node's zone in order, each with a breaker.

A vSwitch that has too few addresses for a batch is scarce (one at a time); one that has none is benched for ten
minutes, or until a fresh reading shows addresses again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eniallocator.cloud.api import VSwitch
from eniway.model import VSwitchId

BENCH_SECONDS: Final = 600.0


class VSwitches:
    """Mutable, no clock of its own: ``now`` is monotonic."""

    def __init__(self, configured: Sequence[VSwitchId], *, zone: str) -> None:
        self._configured = tuple(configured)
        self._zone = zone
        self._known: dict[VSwitchId, VSwitch] = {}
        self._benched: dict[VSwitchId, float] = {}
        self._scarce: set[VSwitchId] = set()

    def learn(self, read: Sequence[VSwitch], *, now: float) -> tuple[VSwitchId, ...]:
        """Take a fresh reading; the configured ones that the cloud does not know."""
        self._known = {vswitch.vswitch_id: vswitch for vswitch in read}
        usable = self.usable()
        for vswitch in read:
            if vswitch.available > 0:
                self._benched.pop(vswitch.vswitch_id, None)
            elif vswitch in usable and not self._is_benched(vswitch.vswitch_id, now):
                self._benched[vswitch.vswitch_id] = now + BENCH_SECONDS
            if vswitch.available > 1:
                self._scarce.discard(vswitch.vswitch_id)
        return tuple(vswitch_id for vswitch_id in self._configured if vswitch_id not in self._known)

    def too_few(self, vswitch_id: VSwitchId, *, asked: int, now: float) -> None:
        """The cloud refused ``asked`` addresses at once (those of a new card, or more for one)."""
        if asked > 1 and vswitch_id not in self._scarce:
            self._scarce.add(vswitch_id)
        else:
            self._benched[vswitch_id] = now + BENCH_SECONDS

    def usable(self) -> tuple[VSwitch, ...]:
        """Configured, known and in the node's zone: in order of preference."""
        known = (self._known.get(vswitch_id) for vswitch_id in self._configured)
        return tuple(vswitch for vswitch in known if vswitch is not None and vswitch.zone == self._zone)

    def ordinary(self, vswitch_id: VSwitchId) -> bool:
        """Whether cards are made there that nobody chose anything for."""
        return vswitch_id in self._configured

    def elsewhere(self, vswitch_id: VSwitchId) -> str:
        """Why no card of this node can be there; empty: one can, or nothing has been read yet."""
        vswitch = self._known.get(vswitch_id)
        if vswitch is None:
            return "is not in this node's VPC" if self._known else ""
        return "" if vswitch.zone == self._zone else f"is in zone {vswitch.zone}, this node in {self._zone}"

    def known(self, vswitch_id: VSwitchId) -> VSwitch | None:
        """The vSwitch as last read, configured or not."""
        return self._known.get(vswitch_id)

    def all_known(self) -> tuple[VSwitch, ...]:
        """Everything as last read."""
        return tuple(self._known.values())

    def choose(self, now: float) -> VSwitchId | None:
        """The first that is not benched."""
        return next(
            (vswitch.vswitch_id for vswitch in self.usable() if not self._is_benched(vswitch.vswitch_id, now)), None
        )

    def empty(self, now: float) -> frozenset[VSwitchId]:
        """The benched ones."""
        return frozenset(vswitch_id for vswitch_id in self._benched if self._is_benched(vswitch_id, now))

    def scarce(self) -> frozenset[VSwitchId]:
        """One address at a time, there."""
        return frozenset(self._scarce)

    def stock(self, now: float) -> int:
        """Free addresses of the usable ones, as far as known."""
        return sum(vswitch.available for vswitch in self.usable() if not self._is_benched(vswitch.vswitch_id, now))

    def _is_benched(self, vswitch_id: VSwitchId, now: float) -> bool:
        return self._benched.get(vswitch_id, 0.0) > now
