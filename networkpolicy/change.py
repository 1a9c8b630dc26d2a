"""From what a namespace holds to what it should: one change, in the order in which it is carried out. Pure.

1. sets are made and filled, members added;
2. rules: one commit for all chains and jumps;
3. members are removed, and sets that nothing refers to any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from datapath.ipset import Element
from eniway import names
from networkpolicy.index import Change as Members
from networkpolicy.render import Chains, Jump, Layout
from networkpolicy.terms import SetRef

TABLE: Final = "mangle"


@dataclass(frozen=True, slots=True)
class Held:
    """Rules that a namespace holds of ours."""

    jumps: tuple[Jump, ...] = ()
    chains: Chains = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done; ``text`` is input for ``iptables-restore --noflush``, empty if no rule changes."""

    make: tuple[tuple[str, SetRef, tuple[Element, ...]], ...] = ()
    add: tuple[tuple[str, tuple[Element, ...]], ...] = ()
    text: str = ""
    remove: tuple[tuple[str, tuple[Element, ...]], ...] = ()
    destroy: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.make or self.add or self.text or self.remove or self.destroy)

    def __str__(self) -> str:
        """Briefly, for a log line."""
        rules = sum(line.startswith("-") for line in self.text.splitlines())
        members = sum(len(elements) for _, elements in (*self.add, *self.remove))
        return f"{rules} rules, {len(self.make)} sets made, {len(self.destroy)} taken away, {members} members"


def follow(
    held: Layout,
    wanted: Layout,
    news: Mapping[str, Members],
    members: Callable[[SetRef], Iterable[Element]],
) -> Change:
    """From ``held``, which is in the kernel with the members of before ``news``, to ``wanted``."""
    kept = held.sets.keys() & wanted.sets.keys()
    return Change(
        make=tuple((name, ref, tuple(members(ref))) for name, ref in wanted.sets.items() if name not in held.sets),
        add=tuple((name, tuple(news[name].added)) for name in kept & news.keys() if news[name].added),
        text=rules(Held(held.jumps, held.chains), wanted),
        remove=tuple((name, tuple(news[name].removed)) for name in kept & news.keys() if news[name].removed),
        destroy=tuple(held.sets.keys() - wanted.sets.keys()),
    )


def repair(
    held: Held,
    sets: Mapping[str, Collection[Element]],
    wanted: Layout,
    members: Mapping[str, Collection[Element]],
) -> Change:
    """From what was read of the kernel, rules and ``sets``, to ``wanted`` with ``members`` of each set."""
    due = {name: frozenset(members[name]) for name in wanted.sets}
    there = {name: frozenset(elements) for name, elements in sets.items()}
    return Change(
        make=tuple((name, ref, tuple(due[name])) for name, ref in wanted.sets.items() if name not in there),
        add=tuple((name, tuple(missing)) for name in due.keys() & there.keys() if (missing := due[name] - there[name])),
        text=rules(held, wanted),
        remove=tuple((name, tuple(extra)) for name in due.keys() & there.keys() if (extra := there[name] - due[name])),
        destroy=tuple(there.keys() - due.keys()),
    )


def rules(held: Held, wanted: Layout) -> str:
    """Input for iptables-restore: what differs; jumps that are missing, first in their chain.

    A chain that only grows is inserted into, any other is written anew: iptables-nft does not end before the kernel has
    freed a deleted rule, 10 to 20 ms after the commit, and the start of a pod deletes none.
    """
    grown = {
        chain: more
        for chain, lines in wanted.chains.items()
        if chain in held.chains and (more := _inserted(held.chains[chain], lines)) is not None
    }
    anew = {chain: lines for chain, lines in wanted.chains.items() if chain not in grown}
    gone = held.chains.keys() - wanted.chains.keys()
    lines = [f":{chain} - [0:0]" for chain in (*anew, *sorted(gone))]
    lines += (f"-A {chain} {rule}" for chain, filled in anew.items() for rule in filled)
    lines += (f"-I {chain} {number} {rule}" for chain, more in grown.items() for number, rule in more)
    extra = list(held.jumps)
    for jump in wanted.jumps:
        if jump in extra:
            extra.remove(jump)
        else:
            lines.append(f"-I {jump.chain} {jump.rule}")
    lines += (f"-D {jump.chain} {jump.rule}" for jump in extra)
    lines += (f"-X {chain}" for chain in sorted(gone))
    return "".join(f"{line}\n" for line in (f"*{TABLE}", *lines, "COMMIT")) if lines else ""


def _inserted(held: tuple[str, ...], wanted: tuple[str, ...]) -> list[tuple[int, str]] | None:
    """Rules to insert, in this order, with their numbers from 1 on; None: ``held`` has others, or in another order."""
    more: list[tuple[int, str]] = []
    kept = iter(held)
    awaited = next(kept, None)
    for number, rule in enumerate(wanted, 1):
        if rule == awaited:
            awaited = next(kept, None)
        else:
            more.append((number, rule))
    return more if awaited is None else None


def read(saved: str) -> Held:
    """Our rules in what ``iptables-save`` prints of the table."""
    chains: dict[str, tuple[str, ...]] = {}
    jumps: list[Jump] = []
    for chain, rule in _each_rule(saved, chains):
        if chain.startswith(names.POLICY_CHAIN_PREFIX):
            chains[chain] = (*chains.get(chain, ()), rule)
        elif f"-j {names.POLICY_CHAIN_PREFIX}" in rule:
            jumps.append(Jump(chain, rule))
    return Held(tuple(jumps), chains)


def _each_rule(saved: str, chains: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """(chain, rule); chains of ours are entered on the way, those without rules too."""
    for line in saved.splitlines():
        if line.startswith(f":{names.POLICY_CHAIN_PREFIX}"):
            chains[line[1:].split(" ", 1)[0]] = ()
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            yield chain, rule
