"""What happens in a soak, by its seed alone: the same seed is the same churn. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

KINDS: Final = ("shared", "routed", "exclusive")
MOST_EXCLUSIVE: Final = 6
"""Fewer than there are slots: a pod that is deleted by force keeps its slot for a while."""
KILLED: Final = ("eniway", "eniway", "eniway", "kubelet", "containerd")
"""What is ended, and how often each."""


@dataclass(frozen=True, slots=True)
class Create:
    """A pod of a kind begins."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Delete:
    """A pod ends, in whatever state it is."""

    name: str
    force: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """A program of a node ends: eniway by SIGKILL, kubelet and containerd as a service manager ends them."""

    node: str
    program: str


Event = Create | Delete | Kill


def churn(seed: int, *, pods: int, seconds: float, nodes: Sequence[str]) -> Iterator[tuple[float, Event]]:
    """Events with their times, in seconds from the beginning: ``pods`` pods, then comings, goings and ends of programs.

    The number of pods stays at ``pods`` or a few below.
    """
    random = Random(seed)
    alive: dict[str, str] = {}
    number = 0
    at = 0.0

    def create() -> Create:
        nonlocal number
        number += 1
        room = sum(kind == "exclusive" for kind in alive.values()) < MOST_EXCLUSIVE
        kind = random.choice(KINDS if room else KINDS[:2])
        alive[f"churn-{number}"] = kind
        return Create(f"churn-{number}", kind)

    while len(alive) < pods:
        yield at, create()
        at += random.uniform(0.1, 0.4)
    end = at + seconds
    while (at := at + random.uniform(0.2, 1.5)) < end:
        if random.random() < 0.25:
            yield at, Kill(random.choice(nodes), random.choice(KILLED))
        elif len(alive) < pods - 5 or (len(alive) < pods and random.random() < 0.6):
            yield at, create()
        else:
            name = random.choice(sorted(alive))
            del alive[name]
            yield at, Delete(name, force=random.random() < 0.4)
