"""Which vSwitches the cluster's pods draw on, and what is to be told of them. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from eniallocator.cloud.api import VSwitch


@dataclass(frozen=True, slots=True)
class Telling:
    """What the API server is to know."""

    write: tuple[VSwitch, ...]
    delete: frozenset[str]
    """Told of before, and nobody draws on them any more."""
    unknown: frozenset[str]
    """Drawn on, and the cloud does not list them: what was told of them stands, as old as it is."""


def telling(read: Collection[VSwitch], *, wanted: Collection[str], told: Collection[str]) -> Telling:
    """``read``: those of the VPC; ``wanted``: ids that configuration or nodes name; ``told``: ids told of before."""
    return Telling(
        write=tuple(vswitch for vswitch in read if vswitch.vswitch_id in wanted),
        delete=frozenset(told) - frozenset(wanted),
        unknown=frozenset(wanted) - {vswitch.vswitch_id for vswitch in read},
    )
