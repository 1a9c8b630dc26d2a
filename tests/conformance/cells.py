"""The matrix: who calls whom, by which path, and the source address that the one who is called must see (pure).

``RULES`` is all there is to know: the first that fits a cell names the source. Everything else here makes cells of the
places there are, and a table of what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final


class Kind(StrEnum):
    """What a place is."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"
    ROUTED = "routed"
    NODE = "node"
    OUTSIDE = "outside"
    """An instance of the VPC that is no node."""


PODS: Final = (Kind.SHARED, Kind.EXCLUSIVE, Kind.ROUTED)
ON_VETH: Final = (Kind.SHARED, Kind.ROUTED)


@dataclass(frozen=True, slots=True)
class Place:
    """Someone who can call and be called."""

    name: str
    kind: Kind
    node: str
    """Where a pod runs; of others the own name."""
    address: IPv4Address
    leg: IPv4Address | None = None
    """The second address of an exclusive pod, by which it goes to Services."""


class Path(StrEnum):
    """How a place is called."""

    DIRECT = "direct"
    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    """externalTrafficPolicy: Cluster."""
    NODE_PORT_LOCAL = "NodePort Local"
    HOST_PORT = "hostPort"


@dataclass(frozen=True, slots=True)
class Cell:
    """One call. ``node``: the one that translates it; of direct calls, None."""

    client: Place
    path: Path
    server: Place
    node: Place | None = None

    @property
    def stays(self) -> bool:
        """Whether the client's packet comes to the translating node by a veth."""
        return self.node is not None and self.client.kind in ON_VETH and self.client.node == self.node.name

    @property
    def leaves(self) -> bool:
        """Whether the translated packet leaves the translating node by a card."""
        return self.node is not None and (self.server.kind is Kind.EXCLUSIVE or self.server.node != self.node.name)

    def __str__(self) -> str:
        by = "" if self.path is Path.DIRECT else f" by {self.path}"
        return f"{self.client.name} → {self.server.name}{by}{f' of {self.node.name}' if self.node else ''}"


class Seen(StrEnum):
    """Whose address the server sees."""

    OWN = "own"
    """The client's; of exclusive pods that of the card."""
    LEG = "leg"
    """The exclusive client's second address."""
    NODE = "node"
    """The translating node's."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is seen where ``holds``, and why."""

    holds: Callable[[Cell], bool]
    seen: Seen
    why: str


RULES: Final = (
    Rule(lambda c: c.path is Path.DIRECT, Seen.OWN, "nothing is translated between pods, nodes and the VPC"),
    Rule(lambda c: c.client == c.server, Seen.NODE, "who calls itself by a Service must not see its own address"),
    Rule(
        lambda c: c.path is Path.CLUSTER_IP and c.client.leg is not None,
        Seen.LEG,
        "an exclusive pod goes to Services by its second link",
    ),
    Rule(lambda c: c.path is Path.CLUSTER_IP, Seen.OWN, "nothing is masqueraded on the way to a Service"),
    Rule(
        lambda c: c.path is Path.NODE_PORT and c.stays and c.leaves,
        Seen.OWN,
        "kube-proxy's masquerade mark is taken off pods whose packet leaves the node",
    ),
    Rule(lambda c: c.path is Path.NODE_PORT, Seen.NODE, "kube-proxy masquerades: the reply has to come back"),
    Rule(
        lambda c: c.server.kind is Kind.EXCLUSIVE and not c.stays,
        Seen.NODE,
        "the VPC would drop a foreign client's address on its way from the node to the pod's card",
    ),
    Rule(lambda _: True, Seen.OWN, "NodePort Local and hostPort show the client"),
)


def seen(cell: Cell) -> Seen:
    """Whose address must be seen in a cell."""
    return next(rule.seen for rule in RULES if rule.holds(cell))


def source(cell: Cell) -> IPv4Address:
    """The address that must be seen in a cell."""
    match seen(cell):
        case Seen.OWN:
            return cell.client.address
        case Seen.LEG:
            assert cell.client.leg is not None
            return cell.client.leg
        case Seen.NODE:
            assert cell.node is not None
            return cell.node.address


def cells(places: Sequence[Place]) -> list[Cell]:
    """Every call there can be between places: nobody outside knows ClusterIPs, and ports are those of nodes."""
    nodes = {place.name: place for place in places if place.kind is Kind.NODE}
    found = [
        Cell(client, Path.DIRECT, server) for client in places for server in places if client.address != server.address
    ]
    for client in places:
        for server in places:
            if server.kind not in PODS:
                continue
            home = nodes[server.node]
            if client.kind is not Kind.OUTSIDE:
                found.append(Cell(client, Path.CLUSTER_IP, server, nodes[client.node]))
            found += (Cell(client, Path.NODE_PORT, server, node) for node in nodes.values())
            found += (Cell(client, path, server, home) for path in (Path.NODE_PORT_LOCAL, Path.HOST_PORT))
    return found


def table(results: Iterable[tuple[Cell, str | None]]) -> str:
    """What was found, by kinds: whose address was seen, and ✗ with the number of complaints where it was another."""
    found: dict[tuple[str, str], dict[str, list[tuple[Cell, str | None]]]] = {}
    columns: dict[str, None] = {}
    for cell, complaint in results:
        row, column = _row(cell), _column(cell)
        columns[column] = None
        found.setdefault(row, {}).setdefault(column, []).append((cell, complaint))
    order = sorted(columns, key=_column_order)
    lines = [("CLIENT", "PATH", *order)]
    for row, by_column in sorted(found.items(), key=lambda item: _row_order(item[0])):
        lines.append((*row, *(_said(by_column.get(column, [])) for column in order)))
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _row(cell: Cell) -> tuple[str, str]:
    where = ""
    if cell.path in {Path.NODE_PORT, Path.NODE_PORT_LOCAL, Path.HOST_PORT} and cell.client.kind is not Kind.OUTSIDE:
        where = ", own node's" if cell.node is not None and cell.client.node == cell.node.name else ", other node's"
    return str(cell.client.kind), f"{cell.path}{where}"


def _column(cell: Cell) -> str:
    if cell.client == cell.server:
        return "itself"
    if cell.server.kind is Kind.OUTSIDE:
        return str(cell.server.kind)
    return f"{cell.server.kind} {'here' if cell.client.node == cell.server.node else 'there'}"


def _row_order(row: tuple[str, str]) -> tuple[int, int, str]:
    kinds, paths = [str(kind) for kind in Kind], [str(path) for path in Path]
    path = row[1].partition(",")[0]
    return kinds.index(row[0]), paths.index(path), row[1]


def _column_order(column: str) -> tuple[int, str]:
    kind, _, where = column.partition(" ")
    return (-1, "") if column == "itself" else ([str(kind) for kind in Kind].index(kind), where)


def _said(results: Sequence[tuple[Cell, str | None]]) -> str:
    if not results:
        return "-"
    words = "/".join(sorted({str(seen(cell)) for cell, _ in results}))
    wrong = sum(complaint is not None for _, complaint in results)
    return f"{words} ✗{wrong}" if wrong else words
