"""Who is in which set: members by set, and for an event of one pod only the sets that it may enter or leave.

A set is filed under one label that each of its pods must have (``Selector.anchors``), so a pod meets the sets filed
under its own labels and no others, however many there are. What a pod brings into a set is noted, and taken out as it
was noted; an address that two pods have at once, as when one follows the other, leaves with the last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from datapath.ipset import Element
from networkpolicy.selectors import EVERYTHING, Selector
from networkpolicy.terms import PodSet, PortSet
from networkpolicy.views import Pod

Tracked: TypeAlias = PodSet | PortSet
_Anchor: TypeAlias = tuple[str | None, str | None, str | None]
"""Namespace (None: any), key, value."""


@dataclass(slots=True)
class Change:
    """What happened to a set's members, as far as it did not cancel out."""

    added: set[Element] = field(default_factory=set)
    removed: set[Element] = field(default_factory=set)

    def then(self, later: Change) -> Change:
        """Both, one after the other."""
        both = Change(set(self.added), set(self.removed))
        for element in later.added:
            _cancel(both.removed, both.added, element)
        for element in later.removed:
            _cancel(both.added, both.removed, element)
        return both


@dataclass(slots=True)
class _Members:
    selector: PodSet
    uses: int = 1
    by_pod: dict[tuple[str, str], tuple[Element, ...]] = field(default_factory=dict)
    count: dict[Element, int] = field(default_factory=dict)


class Index:
    """Pods are told with their addresses of now and their namespace's labels, None where these are unknown."""

    def __init__(self) -> None:
        self._sets: dict[Tracked, _Members] = {}
        self._filed: defaultdict[_Anchor, dict[Tracked, None]] = defaultdict(dict)
        self._changes: dict[Tracked, Change] = {}
        self._idle: set[Tracked] = set()

    def members(self, ref: Tracked) -> Iterable[Element]:
        """Elements of a set."""
        return self._sets[ref].count

    @property
    def idle(self) -> Collection[Tracked]:
        """Sets that ``take`` will drop."""
        return self._idle

    def take(self) -> Mapping[Tracked, Change]:
        """What changed since the last call. Sets that nobody uses are dropped only here.

        One that is given up and taken up again in between stays as it is, and so does the kernel's.
        """
        for ref in self._idle:
            for anchor in _anchors(self._sets.pop(ref).selector):
                del self._filed[anchor][ref]
                if not self._filed[anchor]:
                    del self._filed[anchor]
            self._changes.pop(ref, None)
        self._idle.clear()
        changes, self._changes = self._changes, {}
        return changes

    def track(self, ref: Tracked) -> bool:
        """Count one more user of a set; True: it is new, and every pod of ``selector_of`` has to be told."""
        if (known := self._sets.get(ref)) is not None:
            known.uses += 1
            self._idle.discard(ref)
            return False
        selector = selector_of(ref)
        self._sets[ref] = _Members(selector)
        for anchor in _anchors(selector):
            self._filed[anchor][ref] = None
        return True

    def untrack(self, ref: Tracked) -> None:
        """Count one user less."""
        known = self._sets[ref]
        known.uses -= 1
        if not known.uses:
            self._idle.add(ref)

    def place(self, pod: Pod, addresses: tuple[bytes, ...], space: Mapping[str, str] | None, ref: Tracked) -> None:
        """Put a pod into a set, take it out, or bring what it has there up to date."""
        known = self._sets[ref]
        self._note(ref, known, (pod.namespace, pod.name), tuple(elements(ref, pod, addresses, space)))

    def update(
        self, old: Pod | None, new: Pod | None, addresses: tuple[bytes, ...], space: Mapping[str, str] | None
    ) -> None:
        """A pod came, changed (``old`` to ``new``, both of one namespace and name) or went."""
        refs: dict[Tracked, None] = {}
        for pod in (old, new):
            if pod is not None:
                for anchor in _anchors_of(pod):
                    if (filed := self._filed.get(anchor)) is not None:
                        refs.update(filed)
        for ref in refs:
            if new is not None:
                self.place(new, addresses, space, ref)
            elif old is not None:
                self._note(ref, self._sets[ref], (old.namespace, old.name), ())

    def by_namespaces(self) -> list[Tracked]:
        """Sets that depend on labels of namespaces."""
        return [ref for ref, known in self._sets.items() if known.selector.namespaces is not None]

    def _note(self, ref: Tracked, known: _Members, who: tuple[str, str], brought: tuple[Element, ...]) -> None:
        before = known.by_pod.get(who, ())
        if before == brought:
            return
        if brought:
            known.by_pod[who] = brought
        else:
            del known.by_pod[who]
        change = self._changes.setdefault(ref, Change())
        for element in brought:
            count = known.count.get(element, 0)
            known.count[element] = count + 1
            if not count:
                _cancel(change.removed, change.added, element)
        for element in before:
            count = known.count[element] - 1
            if count:
                known.count[element] = count
            else:
                del known.count[element]
                _cancel(change.added, change.removed, element)


def _cancel(opposite: set[Element], into: set[Element], element: Element) -> None:
    if element in opposite:
        opposite.discard(element)
    else:
        into.add(element)


def selector_of(ref: Tracked) -> PodSet:
    """Which pods a set is about."""
    if isinstance(ref, PodSet):
        return ref
    return ref.scope or PodSet(None, EVERYTHING, EVERYTHING)


def _selects(selector: PodSet, pod: Pod, space: Mapping[str, str] | None) -> bool:
    if selector.namespace is not None:
        return selector.namespace == pod.namespace and selector.pods.matches(pod.labels)
    wanted: Selector = selector.namespaces or EVERYTHING
    return space is not None and selector.pods.matches(pod.labels) and wanted.matches(space)


def elements(
    ref: Tracked, pod: Pod, addresses: tuple[bytes, ...], space: Mapping[str, str] | None
) -> Iterator[Element]:
    """What a pod with ``addresses`` brings into a set; ``space``: its namespace's labels."""
    if not addresses or not _selects(selector_of(ref), pod, space):
        return
    if isinstance(ref, PodSet):
        yield from map(Element, addresses)
        return
    for port in pod.ports:
        if port.name == ref.name and port.protocol == ref.protocol:
            for address in addresses:
                yield Element(address, port.protocol, port.number)


def _anchors(selector: PodSet) -> Iterator[_Anchor]:
    for key, value in selector.pods.anchors():
        yield selector.namespace, key, value


def _anchors_of(pod: Pod) -> Iterator[_Anchor]:
    for space in (pod.namespace, None):
        yield space, None, None
        for key, value in pod.labels.items():
            yield space, key, None
            yield space, key, value
