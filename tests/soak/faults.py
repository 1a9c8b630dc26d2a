"""What happens in a soak of the cloud's faults, by its seed alone: the same seed is the same steps. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.soak.churn import KINDS, MOST_EXCLUSIVE, Create, Delete, Kill

PODS: Final = 24
_WRITES: Final = (
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
)
_READS: Final = ("DescribeNetworkInterfaces", "DescribeVSwitches")


@dataclass(frozen=True, slots=True)
class Fault:
    """The cloud misbehaves: a rule in the words of `vpcbox fault add`."""

    kind: str
    settings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Calm:
    """All faults end."""


Step = Create | Delete | Kill | Fault | Calm
_WEIGHTS: Final = {Create: 32, Delete: 26, Fault: 26, Calm: 6, Kill: 10}


def faults(seed: int, *, steps: int, nodes: Sequence[str], vswitches: Sequence[str]) -> Iterator[tuple[float, Step]]:
    """``steps`` steps with their times in seconds: at most PODS pods, daemons that are killed, faults and their end.

    ``vswitches``: those that the pods' addresses are of; another box's have other ids, and the steps are the same.
    """
    random = Random(seed)
    alive: dict[str, str] = {}
    at = 0.0
    for number in range(steps):
        (what,) = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        if what is Delete and not alive:
            what = Create
        if what is Create and len(alive) >= PODS:
            what = Delete
        if what is Create:
            room = sum(kind == "exclusive" for kind in alive.values()) < MOST_EXCLUSIVE
            name, kind = f"faults-{number}", random.choice(KINDS if room else KINDS[:2])
            alive[name] = kind
            yield at, Create(name, kind)
        elif what is Delete:
            name = random.choice(sorted(alive))
            del alive[name]
            yield at, Delete(name, force=random.random() < 0.4)
        elif what is Fault:
            yield at, _fault(random, vswitches)
        elif what is Calm:
            yield at, Calm()
        else:
            yield at, Kill(random.choice(nodes), "eniway")
        at += random.uniform(0.3, 1.2)


def _fault(random: Random, vswitches: Sequence[str]) -> Fault:
    """One fault; all but an empty vSwitch and metadata that lag are used up after a few calls."""
    write, call = random.choice(_WRITES), random.choice(_WRITES + _READS)
    count = f"count={random.choice([1, 1, 2, 4])}"
    expired = ("code=InvalidSecurityToken.Expired", "status=403")
    return random.choice(
        [
            Fault("no-answer", (f"target={write}", count)),
            Fault("lost-answer", (f"target={write}", count)),
            Fault("lost-answer", (f"target={write}", "code=RequestTimeout", "status=504", "seconds=8", count)),
            Fault("stuck", ("target=DetachNetworkInterface", count)),
            Fault("lost-attach", ("target=AttachNetworkInterface", count)),
            Fault("slow", ("target=AttachNetworkInterface", "seconds=20", count)),
            Fault("empty-answer", ("target=DescribeNetworkInterfaces", count)),
            Fault("metadata-lag", ("seconds=30",)),
            Fault("throttle", (f"target={call}", "per_minute=1", "count=20")),
            Fault("vswitch-empty", (f"target={random.choice(vswitches)}",)),
            Fault("error", ("target=*", *expired, "count=4")),
            Fault("error", (f"target={call}", "code=ServiceUnavailable", "status=503", count)),
        ]
    )
