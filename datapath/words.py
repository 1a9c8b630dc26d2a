"""Operations in the words of whoever looks at a node with ip(8), ipset(8) and tc(8). Pure."""

from __future__ import annotations

from datapath.diff import Add, Change, Op
from datapath.state import (
    TABLE_MAIN,
    Addr,
    Eni,
    Ifb,
    Item,
    Mark,
    Member,
    Neigh,
    Netns,
    Redirect,
    Route,
    Rule,
    Sysctl,
    Tbf,
    Veth,
)
from eniway import names


def told(op: Op) -> str:
    """What is wrong where ``op`` is to be done."""
    match op:
        case Add():
            return f"{_named(op.item)} is missing"
        case Change():
            return f"{_named(op.item)} is not as planned"
        case _:
            return f"{_named(op.item)} is too many"


def _named(item: Item) -> str:  # noqa: C901, PLR0911 -- one line a kind
    match item:
        case Veth(name=name) | Ifb(name=name):
            return f"link {name}"
        case Eni():
            return f"card {item.eni_id} ({item.name}){_inside(item.netns)}"
        case Addr():
            return f"address {item.address} of {item.dev}{_inside(item.netns)}"
        case Route():
            table = "" if item.table == TABLE_MAIN else f" of table {item.table}"
            kind = "route" if item.dev is not None else "throw route" if item.throws else "unreachable route"
            return f"{kind} to {item.destination}{table}{_inside(item.netns)}"
        case Neigh():
            return f"neighbour {item.address} of {item.dev}{_inside(item.netns)}"
        case Rule():
            return f"rule {item.priority} to table {item.table}"
        case Tbf():
            return f"token bucket of {item.dev}{_inside(item.netns)}"
        case Redirect():
            return f"{item.direction} filter of {item.dev}{_inside(item.netns)}"
        case Sysctl():
            return f"sysctl {item.path.replace('/', '.')}"
        case Member():
            return f"member {item.address} of ipset {item.set}"
        case Mark():
            return f"mark of {item.address} in the nftables map {names.NFT_SOURCES}"


def _inside(where: Netns) -> str:
    return " in the pod" if where is Netns.POD else ""
