"""Why a pod is Pending, node by node, with the numbers that the scheduler's event leaves out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from scheduler_extender.filter import Chooser
from scheduler_extender.index import CapacityIndex, NodeView
from scheduler_extender.pods import Need, Pod, need_of
from scheduler_extender.room import Words


@dataclass(frozen=True, slots=True)
class Line:
    """One node: how many more pods like this one, why not more, and the numbers behind it."""

    node: str
    places: int
    why: str
    numbers: str


def explain(index: CapacityIndex, pod: Pod, nodes: Collection[str]) -> tuple[str, Sequence[Line]]:
    """What the pod needs, and a line for each node, those with most room first."""
    need = need_of(pod)
    if need is None:
        return "nothing of eniway: it is in the host's network", ()
    chooser = Chooser(index)
    lines = [_line(index, chooser, name, need) for name in nodes]
    return _WORDS[need], sorted(lines, key=lambda line: (-line.places, line.node))


def table(lines: Sequence[Line]) -> Iterator[str]:
    """As text, in columns."""
    rows = [("NODE", "ROOM", "WHY NOT MORE", "NUMBERS")]
    rows += [(line.node, str(line.places), line.why or "-", line.numbers) for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]])


def _line(index: CapacityIndex, chooser: Chooser, name: str, need: Need) -> Line:
    places = index.places(name, need)
    node = index.nodes.get(name)
    stocked = places.warm > 0 or (node is not None and index.stocked(node.group))
    room = places.total if stocked else 0
    return Line(name, room, "" if room else chooser.why(name, need)[0], _numbers(index, node) if node else "")


def _numbers(index: CapacityIndex, node: NodeView) -> str:
    if node.status is None:
        return ""
    capacity = node.status.capacity
    said = [
        f"{what} {_words(words)}"
        for what, words in (
            ("slots", capacity.slots),
            ("addresses", capacity.addresses),
            ("services", capacity.services),
            ("routed", capacity.routed),
        )
        if words is not None and (words.in_service or words.growable)
    ]
    holders = node.status.holders
    leased = holders.slots | holders.addresses | holders.routed
    said.append(f"pods {len(leased | node.bound.keys())} bound or with a lease")
    left = index.stock.left(node.group)
    if left is not None:
        said.append(f"vSwitches {left} left")
    return "; ".join(said)


def _words(words: Words) -> str:
    counts = (
        (words.in_service, "in service"),
        (words.growable, "growable"),
        (-words.cooling, "cooling"),
        (-words.orphaned, "orphaned"),
    )
    return " ".join(f"{count:+d} {word}" for count, word in counts if count).removeprefix("+")


_WORDS = {
    Need.DEFAULT: "an address, as the node's default network has it",
    Need.SHARED: "an address of a shared ENI",
    Need.ROUTED: "an address of the node's podCIDR",
    Need.EXCLUSIVE: "an ENI slot, and an address of the primary ENI for its way to Services",
}
