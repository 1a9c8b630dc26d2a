"""Compare books and kernel, repair what differs, count it.

Three differences and what is done about each:

1. a lease whose sandbox is gone (its netns path is no namespace any more): a DEL that never came, or that came while
   the daemon was away. Released.
2. a host link that carries a lease key nobody holds: an ADD that was undone half-way, or books that were rebuilt.
   Removed.
3. a confirmed lease whose links, routes or set members are not as planned: somebody else's hand, a unit that flushed
   rules. Brought back.

The comparison is pure; the sweeper acts through the doors' own per-lease order, so that it never works on a lease that
an ADD or DEL is working on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from eniway.model import Lease, LeaseKey


@dataclass(frozen=True, slots=True)
class Findings:
    """What a sweep has to do."""

    released: tuple[LeaseKey, ...]
    orphaned: tuple[LeaseKey, ...]
    checked: tuple[Lease, ...]
    """Leases in good standing: their kernel state is to be compared with the plan."""


def compare(*, leases: Collection[Lease], alive: Collection[str], links: Mapping[LeaseKey, str]) -> Findings:
    """What differs between books (``leases``), sandboxes (``alive``: netns paths) and kernel (``links``)."""
    living = set(alive)
    held = {lease.key for lease in leases}
    return Findings(
        released=tuple(lease.key for lease in leases if lease.netns not in living),
        orphaned=tuple(key for key in links if key not in held),
        checked=tuple(lease for lease in leases if lease.netns in living),
    )


def is_namespace(path: str, *, nsfs: int | None = None) -> bool:
    """Whether ``path`` is a network namespace held open by its mount: a file of the nsfs device.

    A path whose mount went away but whose file stayed is an ordinary file, as a half-finished teardown leaves it.
    """
    device = Path("/proc/self/ns/net").stat().st_dev if nsfs is None else nsfs
    try:
        return Path(path).stat().st_dev == device
    except OSError:
        return False
