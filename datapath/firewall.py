"""The node's iptables chains and the sets they look into. Pods come and go as members of sets; the chains stay.

Of what is done to packets of pods, this is the part that only the first packet of a connection meets, or none:

1. An exclusive pod that calls a Service which leads back to itself appears with the node's address, or it would see its
   own address come in from outside.
2. A foreign client whose connection the node translated to an exclusive pod (NodePort with externalTrafficPolicy Local,
   hostPort) appears with the node's address, or the VPC would drop its packet as forged and the pod would answer past
   the node.
3. Where the host forwards nothing by itself (policy DROP, as container engines set it), what comes from pods or goes to
   them is accepted, after every other rule.
4. With ``snat: outside-vpc``, a connection of a shared or routed pod that leaves by a card of the node to somewhere
   outside appears there with the node's address.

Only chains whose name starts with ENIWAY- are filled; of others' chains, our one jump is looked for and added if
missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from datapath import ipset
from datapath.borders import USUAL, Borders
from datapath.command import run
from datapath.ipset import Set
from datapath.kernel import Kernel
from eniway import names
from eniway.errors import KernelError

SETS: Final = (
    Set(names.IPSET_PODS, "hash:ip", revision=0),
    Set(names.IPSET_EXCLUSIVE, "hash:ip", revision=0),
    Set(names.IPSET_HAIRPIN, "hash:net,iface", revision=0),
)

_WAIT: Final = "5"
_PODS: Final = f"{names.LINK_PREFIX}+"
_SNAT: Final = f"{names.CHAIN_PREFIX}SNAT"
_OUTSIDE: Final = f"{names.CHAIN_PREFIX}OUTSIDE"
_FORWARD: Final = f"{names.CHAIN_PREFIX}FORWARD"


@dataclass(frozen=True, slots=True)
class Jump:
    """Our rule in a chain of the kernel's."""

    table: str
    chain: str
    match: str
    target: str
    overrules: bool = False
    """Not the first rule of the chain but the last, and only where the policy is to drop."""


JUMPS: Final = (
    Jump("nat", "POSTROUTING", "-m conntrack --ctstate DNAT", _SNAT),
    Jump("nat", "POSTROUTING", f"! -o {_PODS}", _OUTSIDE),
    Jump("filter", "FORWARD", "", _FORWARD, overrules=True),
)


def chains(node: IPv4Address, borders: Borders = USUAL) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Rules by table and chain, in the words of iptables-save; ``node`` is the primary address of the node.

    A chain without rules is empty, and nothing needs to jump there.
    """
    snat = f"-j SNAT --to-source {node} --random-fully"
    translated = borders.inside is not None
    outside = (
        *(f"-d {network} -j RETURN" for network in sorted(borders.known)),
        f"-m set --match-set {names.IPSET_PODS} src {snat}",
    )
    return {
        "nat": {
            _SNAT: (
                # Where to, and by which link it came in: only its own pod's. Seen after routing from Linux 5.7 on.
                f"-m set --match-set {names.IPSET_HAIRPIN} dst,src {snat}",
                (
                    f"-m set --match-set {names.IPSET_EXCLUSIVE} dst -m set ! --match-set {names.IPSET_PODS} src"
                    f" -m addrtype ! --src-type LOCAL {snat}"
                ),
            ),
            _OUTSIDE: outside if translated else (),
        },
        "filter": {
            _FORWARD: (
                f"-i {_PODS} -j ACCEPT",
                f"-o {_PODS} -j ACCEPT",
                # Case 2: such a connection passes the node by cards alone, both ways.
                f"-m conntrack --ctstate DNAT -m set --match-set {names.IPSET_EXCLUSIVE} dst -j ACCEPT",
                f"-m conntrack --ctstate DNAT -m set --match-set {names.IPSET_EXCLUSIVE} src -j ACCEPT",
            ),
        },
    }


def render(node: IPv4Address, present: str, borders: Borders = USUAL) -> str:
    """Input for ``iptables-restore --noflush``: our chains filled anew, in one commit a table, and the jumps to them.

    ``present``: what ``iptables-save`` prints. What stands there as it should is not written again; nothing to write is
    the empty text.
    """
    found = _tables(present)
    lines: list[str] = []
    for table, filled in chains(node, borders).items():
        there = found.get(table, [])
        anew = {chain: rules for chain, rules in filled.items() if not _is_filled(chain, rules, there)}
        written = [f":{chain} - [0:0]" for chain in anew]
        written += (f"-A {chain} {rule}" for chain, rules in anew.items() for rule in rules)
        written += (
            _jump(jump) for jump in JUMPS if jump.table == table and filled[jump.target] and _is_wanting(jump, there)
        )
        if written:
            lines += (f"*{table}", *written, "COMMIT")
    return "".join(f"{line}\n" for line in lines)


def _tables(present: str) -> Mapping[str, list[str]]:
    """Lines by table."""
    found: dict[str, list[str]] = {}
    table = ""
    for line in present.splitlines():
        if line.startswith("*"):
            table = line[1:]
        found.setdefault(table, []).append(line)
    return found


def _is_filled(chain: str, rules: tuple[str, ...], there: list[str]) -> bool:
    return [line for line in there if line.startswith(f"-A {chain} ")] == [f"-A {chain} {rule}" for rule in rules]


def _is_wanting(jump: Jump, there: list[str]) -> bool:
    if jump.overrules and not any(line.startswith(f":{jump.chain} DROP ") for line in there):
        return False
    return not any(line.startswith(f"-A {jump.chain} ") and line.endswith(f"-j {jump.target}") for line in there)


def _jump(jump: Jump) -> str:
    return " ".join(filter(None, ("-A" if jump.overrules else "-I", jump.chain, jump.match, "-j", jump.target)))


def ensure(kernel: Kernel, node: IPv4Address, borders: Borders) -> bool:
    """Make the sets and write what is missing of the chains, in the calling thread's namespace; whether any was."""
    for made in SETS:
        try:
            kernel.sets.call(ipset.create(made))
        except OSError as error:
            raise KernelError(f"ipset {made.name} ({made.type}): {error.strerror}") from error
    text = render(node, run("iptables-save"), borders)
    if text:
        run("iptables-restore", "--noflush", "--wait", _WAIT, given=text)
    return bool(text)


def wanting(kernel: Kernel, node: IPv4Address, borders: Borders) -> tuple[str, ...]:
    """What ``ensure`` would write: the sets that are not there, and the chains that are not as they should be."""
    there = {ipset.set_name(payload) for payload in kernel.sets.dump(ipset.list_sets())}
    text = render(node, run("iptables-save"), borders)
    targets = re.findall(r"^:(\S+)|^-[AI] .*-j (ENIWAY-\S+)$", text, re.MULTILINE)
    chains = dict.fromkeys(filled or jumped for filled, jumped in targets)
    return (
        *(f"ipset {made.name} is missing" for made in SETS if made.name not in there),
        *(f"iptables chain {chain}, or the jump to it, is not as planned" for chain in chains),
    )


def remove() -> None:
    """Take our chains away, and every jump to them, in the calling thread's namespace.

    Each table by itself, so that one that fails keeps no other. KernelError: of those that did.
    """
    failed: list[str] = []
    for table in unrender(run("iptables-save")).split("COMMIT\n")[:-1]:
        try:
            run("iptables-restore", "--noflush", "--wait", _WAIT, given=f"{table}COMMIT\n")
        except KernelError as error:
            failed.append(str(error))
    if failed:
        raise KernelError("; ".join(failed))


def unrender(present: str) -> str:
    """Input for ``iptables-restore --noflush`` that takes our chains and what jumps to them away; "": none is there."""
    lines: list[str] = []
    for table, there in _tables(present).items():
        ours = [chain for chain in (_SNAT, _OUTSIDE, _FORWARD) if any(_is_of(chain, at) for at in there)]
        if ours:
            lines += (f"*{table}", *(f":{chain} - [0:0]" for chain in ours))  # empties it
            lines += (f"-D{rule[2:]}" for rule in there if any(_leads_to(chain, rule) for chain in ours))
            lines += (*(f"-X {chain}" for chain in ours), "COMMIT")
    return "".join(f"{line}\n" for line in lines)


def _is_of(chain: str, line: str) -> bool:
    return line.startswith(f":{chain} ")


def _leads_to(chain: str, line: str) -> bool:
    return line.startswith("-A ") and line.endswith((f" -j {chain}", f" -g {chain}"))
