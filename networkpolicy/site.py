"""Places and what is known of each: what it holds, what it has not heard of yet, and what went wrong there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from eniway.errors import KernelError
from eniway.model import LeaseKey
from networkpolicy import counters
from networkpolicy.change import Held
from networkpolicy.index import Change
from networkpolicy.place import Place
from networkpolicy.render import Layout
from networkpolicy.terms import Family

_TIDY_SECONDS: Final = 0.1
"""Without a change of rules, after which those that newer ones stand before are deleted: the next change would wait."""
_UNTIDY_SECONDS: Final = 1.0
"""How long they stay at most."""


@dataclass(slots=True)
class Site:
    """A place and what is known of it; ``held`` None: it has to be read first. ``threads``: where it is worked on."""

    place: Place
    threads: ThreadPoolExecutor
    held: Layout | None = None
    busy: bool = False
    """It is being worked on: what comes meanwhile is noted, and done next."""
    round: int = 0
    """The last reading of the model that it has been through."""
    news: dict[str, Change] = field(default_factory=dict)
    """Of members of sets, since its work was last begun."""
    lost: set[str] = field(default_factory=set)
    """Sets that were dropped since then: if one is wanted again, nobody knows what has changed of it."""
    due: bool = False
    """It was told to have changed, or a while ago: it is read again."""
    error: KernelError | None = None
    again: float = 0.0
    """With an error: when it is tried again, and not before."""
    broken: frozenset[str] = frozenset()
    """Programs that the kernel refused; others stand in for them until all is read again."""
    stands: Held = field(default_factory=Held)
    """The rules that are there, leftovers included."""
    counts: counters.Counts = field(default_factory=dict)
    changed: float = 0.0
    """When rules were changed last; ``untidy``: since when some are left over."""
    untidy: float | None = None

    @property
    def is_clean(self) -> bool:
        """Whether nothing waits to be taken away."""
        return self.untidy is None and self.place.is_clean

    def is_tidied(self, now: float) -> bool:
        """Whether leftovers are to go now, even if a change has to wait for it."""
        return self.untidy is not None and (now - self.changed >= _TIDY_SECONDS or now - self.untidy >= _UNTIDY_SECONDS)

    def note(self, news: Mapping[str, Change], *, dropped: Collection[str]) -> None:
        """Members of sets changed; of those ``dropped`` nobody keeps the members any more."""
        if self.busy:
            self.lost.update(dropped)
        for name, change in news.items():
            self.news[name] = self.news[name].then(change) if name in self.news else change


@dataclass(slots=True)
class Half:
    """Where packets of one address family are filtered: on the node, and in exclusive pods."""

    family: Family
    node: Site
    pods: dict[LeaseKey, Site] = field(default_factory=dict)
    changed: bool = False
    """Programs changed since the node's work was last begun."""

    def note(self, news: Mapping[str, Change], *, dropped: Collection[str]) -> None:
        """As each site's."""
        for site in (self.node, *self.pods.values()):
            site.note(news, dropped=dropped)
