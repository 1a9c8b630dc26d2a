"""The part of the lock that nodes need: eniway's requirements without those of its command line outside a cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from importlib import metadata
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOT_ON_NODES: Final = frozenset({"kubernetes"})
"""Reads kubeconfigs, of which a pod has none; with its own requirements it would be two thirds of the image."""


def requirements_of(name: str) -> list[str]:
    """What the installed distribution ``name`` requires."""
    return metadata.requires(name) or []


def needed(name: str, *, without: AbstractSet[str], requires: Callable[[str], Iterable[str]]) -> frozenset[str]:
    """Names of the distributions that ``name`` needs here, itself not included, those of ``without`` left out."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for text in requires(waiting.pop()):
            requirement = Requirement(text)
            other = str(canonicalize_name(requirement.name))
            here = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if here and other not in found and other not in without:
                found.add(other)
                waiting.append(other)
    return frozenset(found)


def part(lock: str, names: AbstractSet[str]) -> str:
    """The entries of ``names`` in a requirements file with hashes; ValueError names those it does not have."""
    entries = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)
    by_name = {str(canonicalize_name(entry.partition("==")[0])): entry for entry in entries if "==" in entry}
    if missing := names - by_name.keys():
        raise ValueError(f"not in the lock: {', '.join(sorted(missing))}")
    return "".join(entry for name, entry in by_name.items() if name in names)
