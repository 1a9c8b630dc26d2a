"""The node's nftables table: what has to be done to every packet of a pod, so natively and in constant time.

Rules of iptables that match connections and sets cost five times as much (ARCHITECTURE.md, «What a packet costs»), so
only what few packets meet is left to them (firewall.py).

1. A shared pod's packet gets the mark of its card, by its source address. Not so the reply of a translated connection:
   it goes back by the card that the connection came in by.
2. kube-proxy's masquerade mark is taken off what pods send off the node: they keep their address.
3. With ``snat: outside-vpc``, what a shared pod sends in a connection that it began gets a mark of its own, by which
   routing looks, after translation, whether it leaves the VPC; if so, it leaves by the primary card (plan/node.py).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from datapath import observe
from datapath.borders import Borders
from datapath.command import run
from datapath.kernel import Kernel
from datapath.state import Mark
from eniway import names
from eniway.errors import KernelError

_SLOTS: Final = 1 << 12
"""Elements that the map has room for; of a fixed number, it is the kernel's fastest."""
_TABLE: Final = f"ip {names.NFT_TABLE}"
_KEPT: Final = ~names.KUBE_PROXY_MASQUERADE & 0xFFFFFFFF


def script(borders: Borders) -> str:
    """For ``nft -f``: the table as it ought to be, in one transaction; elements of the map stay.

    The rule that marks sets the whole mark: no other program has a word on a pod's packet before.
    """
    begun = names.MARK_BEGUN
    prerouting = (
        f"meta iifgroup != {names.LINK_GROUP} return",
        "ct direction reply ct status dnat return",
        f"meta mark set ip saddr map @{names.NFT_SOURCES}",
        *((f"meta mark != 0 ct direction original meta mark set meta mark | {begun:#x}",) if borders.inside else ()),
    )
    # By which link a packet came in is known here from Linux 5.7 on.
    postrouting = (
        f"meta mark & {names.KUBE_PROXY_MASQUERADE:#x} == 0 return",
        f"meta iifgroup {names.LINK_GROUP} meta oifgroup != {names.LINK_GROUP} meta mark set meta mark & {_KEPT:#x}",
    )
    lines = [
        f"add table {_TABLE}",
        f"add map {_TABLE} {names.NFT_SOURCES} {{ type ipv4_addr : mark; size {_SLOTS}; }}",
    ]
    for hook, rules in (("prerouting", prerouting), ("postrouting", postrouting)):
        lines.append(f"add chain {_TABLE} {hook} {{ type filter hook {hook} priority mangle; policy accept; }}")
        lines.append(f"flush chain {_TABLE} {hook}")
        lines += (f"add rule {_TABLE} {hook} {rule}" for rule in rules)
    return "".join(f"{line}\n" for line in lines)


class Marking:
    """The table in the namespace of the thread that calls, and what it looked like when it was last written."""

    def __init__(self) -> None:
        self._written = ""

    def ensure(self, kernel: Kernel, borders: Borders) -> bool:
        """Write the table unless it is as it was written; whether it was another. For one thread at a time.

        How nft prints what it was given is nft's own affair: compared is what it printed before and after. What the
        script would not touch, a foreign chain or a map of another make, goes with the table, and the marks stay.
        """
        before = _listed()
        if before and before == self._written:
            return False
        anew = f"delete table {_TABLE}\n{script(borders)}{_elements(observe.marks(kernel))}"
        if before and self._written:
            run("nft", "-f", "-", given=anew)
        else:
            try:
                run("nft", "-f", "-", given=script(borders))
            except KernelError:
                if not before:
                    raise
                run("nft", "-f", "-", given=anew)
        self._written = _listed()
        return before != self._written

    def wanting(self) -> tuple[str, ...]:
        """What ``ensure`` would write anew."""
        there = _listed()
        if not there:
            return (f"nftables table {_TABLE} is missing",)
        return (f"nftables table {_TABLE} is not as planned",) if there != self._written else ()


def _elements(marks: Collection[Mark]) -> str:
    listed = ", ".join(f"{item.address} : {item.mark:#x}" for item in marks)
    return f"add element {_TABLE} {names.NFT_SOURCES} {{ {listed} }}\n" if listed else ""


def remove() -> None:
    """Take the table away, in the calling thread's namespace."""
    if _listed():
        run("nft", "delete", "table", *_TABLE.split())


def _listed() -> str:
    """The table without its map's elements; empty where there is none."""
    try:
        return run("nft", "--stateless", "--terse", "list", "table", *_TABLE.split())
    except KernelError as error:
        if "No such file or directory" not in str(error):
            raise
        return ""
