"""From what a namespace holds to what it should: one change, in the order in which it is carried out. Pure.

1. sets are made and filled, members added;
2. rules: one commit for all chains and jumps;
3. members are removed, and sets that nothing refers to any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import dropwhile, islice
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
    left: Held = field(default_factory=Held)
    """The rules that are there afterwards."""

    def __bool__(self) -> bool:
        return bool(self.make or self.add or self.text or self.remove or self.destroy)

    def __str__(self) -> str:
        """Briefly, for a log line."""
        rules = sum(line.startswith("-") for line in self.text.splitlines())
        members = sum(len(elements) for _, elements in (*self.add, *self.remove))
        return f"{rules} rules, {len(self.make)} sets made, {len(self.destroy)} taken away, {members} members"


def follow(
    held: Layout,
    stands: Held,
    wanted: Layout,
    news: Mapping[str, Members],
    members: Callable[[SetRef], Iterable[Element]],
) -> Change:
    """To ``wanted``, from ``held``, whose sets have the members of before ``news``.

    ``stands``: the rules that are there, those left over behind newer ones included. If it can be, no rule is deleted.
    """
    kept = held.sets.keys() & wanted.sets.keys()
    text, left = lead(stands, wanted) or (rules(stands, wanted), plain(wanted))
    return Change(
        make=tuple((name, ref, tuple(members(ref))) for name, ref in wanted.sets.items() if name not in held.sets),
        add=tuple((name, tuple(news[name].added)) for name in kept & news.keys() if news[name].added),
        text=text,
        remove=tuple((name, tuple(news[name].removed)) for name in kept & news.keys() if news[name].removed),
        destroy=tuple(held.sets.keys() - wanted.sets.keys()),
        left=left,
    )


def tidy(change: Change, stands: Held, wanted: Layout) -> Change:
    """The same change, by which nothing is left over."""
    return replace(change, text=rules(stands, wanted), left=plain(wanted))


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
        left=plain(wanted),
    )


def plain(layout: Layout) -> Held:
    """The rules of a layout."""
    return Held(layout.jumps, layout.chains)


def rules(held: Held, wanted: Layout) -> str:
    """Input for iptables-restore: chains that differ are written anew; jumps that are missing come first in theirs."""
    anew = {chain: lines for chain, lines in wanted.chains.items() if held.chains.get(chain) != lines}
    gone = held.chains.keys() - wanted.chains.keys()
    lines = [f":{chain} - [0:0]" for chain in (*anew, *sorted(gone))]
    lines += (f"-A {chain} {rule}" for chain, filled in anew.items() for rule in filled)
    missing, extra = _jumps(held, wanted)
    lines += (f"-D {jump.chain} {jump.rule}" for jump in extra)
    lines += missing
    lines += (f"-X {chain}" for chain in sorted(gone))
    return _commit(lines)


def lead(stands: Held, wanted: Layout) -> tuple[str, Held] | None:
    """The same without deleting a rule, and what stands then; None: some rule has to be deleted.

    A rule that goes (-g) to a program ends its chain, so one put before it, with the same match, takes its place at
    once and leaves it dead. iptables-nft does not end before the kernel has freed deleted rules, 10 to 20 ms after the
    commit (a grace period of RCU), and the next commit waits for that too.
    """
    anew = {chain: lines for chain, lines in wanted.chains.items() if chain not in stands.chains}
    lines = [f":{chain} - [0:0]" for chain in anew]
    lines += (f"-A {chain} {rule}" for chain, filled in anew.items() for rule in filled)
    chains = {**stands.chains, **anew}
    for chain in wanted.chains.keys() - anew.keys():
        if stands.chains[chain] == wanted.chains[chain]:
            continue
        grown = _grown(stands.chains[chain], wanted.chains[chain])
        if grown is None:
            return None
        chains[chain], more = grown
        lines += (f"-I {chain} {number} {rule}" for number, rule in more)
    missing, extra = _jumps(stands, wanted)
    return None if extra else (_commit([*lines, *missing]), Held(wanted.jumps, chains))


def _grown(stands: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], list[tuple[int, str]]] | None:
    """A chain after rules were inserted, and these with their numbers from 1 on; None: a rule would be left alive.

    Rules that go somewhere exclude each other in what they match, so their order says nothing.
    """
    before, more = _replaced(stands, wanted)
    ends = _ends(before)
    decided: set[str] = set()
    then: list[str] = []
    pending = deque(wanted)

    def insert(rule: str) -> None:
        more.append((len(then) + 1, rule))
        then.append(rule)

    for rule in before:
        match = ends.get(rule)
        if match is None or (match not in decided and rule != _passed(match)):
            if rule not in pending:
                return None
            while any(match is None or _went(other) is None for other in islice(pending, pending.index(rule))):
                insert(pending.popleft())
            pending.remove(rule)
        if match is not None:
            decided.add(match)
        then.append(rule)
    while pending:
        insert(pending.popleft())
    ends = _ends(then)
    passed = dropwhile(lambda rule: rule not in ends or _went(rule) is not None, then)
    # What passes there would not meet a rule that comes behind.
    return None if any(rule not in ends for rule in passed) else (tuple(then), more)


def _replaced(stands: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[list[str], list[tuple[int, str]]]:
    """A chain after each rule that goes somewhere, and is not wanted, has one that is before it, or one that passes."""
    due = {match: rule for rule in wanted if (match := _went(rule)) is not None}
    ends = _ends(stands)
    decided: set[str] = set()
    then: list[str] = []
    more: list[tuple[int, str]] = []
    for rule in stands:
        if (match := ends.get(rule)) is not None and match not in decided:
            decided.add(match)
            if rule != (instead := due.get(match, _passed(match))):
                more.append((len(then) + 1, instead))
                then.append(instead)
        then.append(rule)
    return then, more


def _ends(chain: Iterable[str]) -> dict[str, str]:
    """Rules that end the chain for what they match, with that: those that go somewhere, and those put before such."""
    gone = {rule: match for rule in chain if (match := _went(rule)) is not None}
    return gone | {_passed(match): match for match in gone.values()}


def _went(rule: str) -> str | None:
    """The match of a rule that goes to another chain; None: it does something else."""
    match, goes, _ = f" {rule}".rpartition(" -g ")
    return match.lstrip() if goes else None


def _passed(match: str) -> str:
    """A rule that lets what a match is about go back to where it came from."""
    return f"{match} -j RETURN".lstrip()


def _jumps(held: Held, wanted: Layout) -> tuple[list[str], list[Jump]]:
    """Commands for those that are missing, and those that go before: too many, or with a rule of others before them.

    Deleting takes the first that is alike, so of several all go.
    """
    missing = [jump for jump in wanted.jumps if _alike(jump, held) != [jump]]
    extra = [jump for jump in held.jumps if (due := replace(jump, late=False)) in missing or due not in wanted.jumps]
    return [f"-I {jump.chain} {jump.rule}" for jump in missing], extra


def _alike(jump: Jump, held: Held) -> list[Jump]:
    return [other for other in held.jumps if replace(other, late=False) == jump]


def _commit(lines: Collection[str]) -> str:
    return "".join(f"{line}\n" for line in (f"*{TABLE}", *lines, "COMMIT")) if lines else ""


def read(saved: str) -> Held:
    """Our rules in what ``iptables-save`` prints of the table, with counters or without."""
    chains: dict[str, tuple[str, ...]] = {}
    jumps: list[Jump] = []
    behind: set[str] = set()
    """Chains in which a rule that is not ours has come already."""
    for chain, rule in _each_rule(saved, chains):
        if chain.startswith(names.POLICY_CHAIN_PREFIX):
            chains[chain] = (*chains.get(chain, ()), rule)
        elif f"-j {names.POLICY_CHAIN_PREFIX}" in rule:
            jumps.append(Jump(chain, rule, late=chain in behind))
        else:
            behind.add(chain)
    return Held(tuple(jumps), chains)


def _each_rule(saved: str, chains: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """(chain, rule); chains of ours are entered on the way, those without rules too.

    Comments of others have what they like in them, line ends of Unicode included; a rule of theirs may be empty.
    """
    for counted in saved.split("\n"):
        line = counted.partition(" ")[2] if counted.startswith("[") else counted
        if line.startswith(f":{names.POLICY_CHAIN_PREFIX}"):
            chains[line[1:].split(" ", 1)[0]] = ()
        elif line.startswith("-A "):
            chain, _, rule = line.removeprefix("-A ").partition(" ")
            yield chain, rule
