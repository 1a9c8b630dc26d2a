"""The conditions of a NodeNetwork: what they say, and since when."""

from __future__ import annotations

from dataclasses import dataclass

from eniallocator.cloud.api import Trouble
from eniallocator.routed import Standing


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition as Kubernetes knows them; ``since`` is wall time."""

    type: str
    status: bool | None
    """None: unknown."""
    reason: str
    message: str
    since: float


class Conditions:
    """Remembers since when each has been as it is."""

    def __init__(self) -> None:
        self._known: dict[str, Condition] = {}

    def judge(
        self,
        *,
        started: bool,
        addresses: int,
        shortage: str,
        obstacle: str,
        routed: Standing,
        trouble: Trouble | None,
        wall: float,
    ) -> list[Condition]:
        """All of them now.

        ``started``: limits, vSwitches and cards of the cloud have been seen; ``addresses``: how many more pods can
        have that ask for nothing, ``shortage``: why there are no more; ``obstacle``: why no card can be made, "" where
        one could.
        """
        if started:
            self._set("Ready", True, "Serving", "", wall)
        else:
            self._set("Ready", None, "Starting", "the cloud has not been asked for limits and cards yet", wall)
        if addresses > 0:
            self._set("SufficientIP", True, "Free", "", wall)
        elif started:
            self._set("SufficientIP", False, "NoneLeft", f"no more pod can have an address: {shortage}", wall)
        else:
            self._set("SufficientIP", None, "Starting", "not known yet", wall)
        self._set("RoutedPods", routed.possible, routed.reason, routed.message, wall)
        if obstacle:
            self._set("CanGrow", False, "Refused", f"no card can be made: {obstacle}", wall)
        elif started:
            self._set("CanGrow", True, "Allowed", "", wall)
        else:
            self._set("CanGrow", None, "Starting", "not known yet", wall)
        if trouble is None:
            self._set("CloudReachable", True, "Answering", "", wall)
        else:
            self._set("CloudReachable", False, trouble.reason, trouble.message, wall)
        return list(self._known.values())

    def _set(self, kind: str, status: bool | None, reason: str, message: str, wall: float) -> None:
        before = self._known.get(kind)
        since = before.since if before is not None and before.status == status else wall
        self._known[kind] = Condition(kind, status, reason, message, since)
