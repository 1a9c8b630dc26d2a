"""A network namespace in which packets are filtered: the kernel's edge. Synchronous; one call at a time for each place.

Rules go by iptables-restore of whichever back end is this node's, for rules only; members go by netlink. The child
process is born in the calling thread's namespace, so nobody enters one for it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from datapath import ipset, netns
from datapath.command import Refused, run
from datapath.destroy import destroy, destroy_patiently
from datapath.ipset import Element, Set
from datapath.netlink import NETLINK_NETFILTER, Message, Netlink, NetlinkError
from eniway import names
from eniway.errors import KernelError
from networkpolicy import counters
from networkpolicy.change import TABLE, Change, Held, read, rules
from networkpolicy.render import EMPTY, Chains, Layout
from networkpolicy.terms import Family, NetSet, PodSet, SetRef

_WAIT: Final = "5"
_MOST: Final = 1 << 20
_FAMILIES: Final[Mapping[Family, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}
_PLAIN, _PROBE = f"{names.POLICY_CHAIN_PREFIX}PLAIN", f"{names.POLICY_CHAIN_PREFIX}PROBE"
_GONE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EINVAL}
"""What opening and entering a namespace says when its last user has left it."""
_PASSING: Final = {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOBUFS, errno.ENOMEM}
"""Not a word on what was asked for."""
_PASSING_WORDS: Final = ("xtables lock", *(os.strerror(number) for number in _PASSING))
"""The same in what iptables prints: its exit codes do not tell."""


class PlaceGone(KernelError):
    """The namespace is no more."""


class Place:
    """For packets of ``family``. ``path``: of the namespace; None: the calling thread's.

    ``iptables``: the programs, such as iptables-legacy.
    """

    def __init__(self, path: str | None, *, family: Family, iptables: str = "iptables") -> None:
        self._path = path
        self.family: Final = family
        self._iptables = iptables if family == 4 else iptables.replace("ip", "ip6", 1)
        self._doomed: set[str] = set()
        """Sets that nothing refers to and that the kernel has not let go of yet."""
        self.counts: counters.Counts = {}
        """As last observed."""

    def apply(self, change: Change, *, bury: bool = True) -> None:
        """Carry out a change, in its order. Refused by the kernel, or KernelError; what is left a repair finds.

        ``bury``: sets are taken away; else later, as rules left over still look into them.
        """
        with self._entered(), self._sets() as sets:
            for name, ref, elements in change.make:
                self._make(sets, name, ref, elements)
            for name, elements in change.add:
                _call(sets, *ipset.add_elements(name, elements))
            if change.text:
                self._restore(change.text)
            for name, elements in change.remove:
                _call(sets, *ipset.remove_elements(name, elements))
            self._doomed |= set(change.destroy)
            if bury:
                self._bury(sets)

    def refused_sets(self, change: Change) -> frozenset[str]:
        """Which sets of a change the kernel does not make or fill, each tried alone. KernelError: it does not say."""
        found: set[str] = set()
        with self._entered(), self._sets() as sets:
            for name, ref, elements in change.make:
                with _noted(found, name):
                    self._make(sets, name, ref, elements)
            for name, elements in change.add:
                with _noted(found, name):
                    _call(sets, *ipset.add_elements(name, elements))
        return frozenset(found)

    def refused(self, chains: Chains) -> frozenset[str]:
        """Which of ``chains`` the kernel does not take, each tried alone. KernelError: it does not say."""
        found: set[str] = set()
        with self._entered():
            for chain, lines in chains.items():
                with _noted(found, chain):
                    self._restore(rules(Held(), Layout((), {chain: lines}, {})))
        return frozenset(found)

    def refuses(self, rule: str) -> bool:
        """Whether the kernel takes a chain, but not with this rule in it. Of both nothing is left.

        KernelError: it does not say.
        """
        tried = {_PLAIN: (), _PROBE: (rule,)}
        refused = self.refused(tried)
        taken = Held((), {chain: lines for chain, lines in tried.items() if chain not in refused})
        with self._entered(), suppress(KernelError):  # a repair finds it
            self._restore(rules(taken, EMPTY))
        return refused == {_PROBE}

    def refuses_all(self) -> bool:
        """Whether the kernel takes no chain at all. Nothing is left of it. KernelError: it does not say."""
        if self.refused({_PLAIN: ()}):
            return True
        with self._entered(), suppress(KernelError):  # a repair finds it
            self._restore(rules(Held((), {_PLAIN: ()}), EMPTY))
        return False

    @property
    def is_clean(self) -> bool:
        """Whether nothing waits to be taken away."""
        return not self._doomed

    def bury_patiently(self) -> tuple[str, ...]:
        """Take away sets that the kernel has not let go of yet. What remains and why, a line each."""
        with self._entered(), self._sets() as sets:
            doomed, self._doomed = self._doomed, set()
            return destroy_patiently(sets, sorted(doomed))

    def observe(self) -> tuple[Held, Mapping[str, set[Element]]]:
        """Our rules and our sets, as they are."""
        with self._entered(), self._sets() as sets:
            saved = run(f"{self._iptables}-save", "--counters", "-t", TABLE)
            held, self.counts = read(saved), counters.read(saved)
            found: dict[str, set[Element]] = {}
            for payload in sets.dump(ipset.list_sets()):
                name = ipset.set_name(payload)
                is_of_ours = name in found or ipset.set_family(payload) == _FAMILIES[self.family]
                if is_of_ours and name.startswith(names.POLICY_SET_PREFIX) and name not in self._doomed:
                    found.setdefault(name, set()).update(ipset.each_element(payload))
        return held, found

    def _make(self, sets: Netlink, name: str, ref: SetRef, elements: Iterable[Element]) -> None:
        self._doomed.discard(name)
        # One of that name may be there yet, with members of another day.
        messages = (ipset.create(_made(name, ref, self.family)), ipset.flush(name))
        _call(sets, *messages, *ipset.add_elements(name, elements))

    def _bury(self, sets: Netlink) -> None:
        for name in tuple(self._doomed):
            if destroy(sets, name):
                self._doomed.discard(name)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self._path is not None:
                try:
                    stack.enter_context(netns.entered(stack.enter_context(netns.opened(self._path))))
                except OSError as error:
                    kind = PlaceGone if error.errno in _GONE else KernelError
                    raise kind(f"the network namespace {self._path}: {error.strerror}") from error
            yield

    @contextmanager
    def _sets(self) -> Iterator[Netlink]:
        with Netlink(netns.netlink_socket(NETLINK_NETFILTER)) as opened:
            yield opened

    def _restore(self, text: str) -> None:
        try:
            run(f"{self._iptables}-restore", "--noflush", "--wait", _WAIT, given=text)
        except Refused as error:
            if any(words in str(error) for words in _PASSING_WORDS):
                raise KernelError(str(error)) from error
            raise


@contextmanager
def _noted(refused: set[str], name: str) -> Iterator[None]:
    try:
        yield
    except Refused:
        refused.add(name)


def _made(name: str, ref: SetRef, family: Family) -> Set:
    if isinstance(ref, PodSet):
        return Set(name, "hash:ip", revision=0, family=_FAMILIES[family], most=_MOST)
    if isinstance(ref, NetSet):
        return Set(name, "hash:net", revision=2, family=_FAMILIES[family], most=_MOST)
    return Set(name, "hash:ip,port", revision=1, family=_FAMILIES[family], most=_MOST)


def _call(sets: Netlink, *messages: Message) -> None:
    for message in messages:
        try:
            sets.call(message)
        except NetlinkError as error:
            kind = KernelError if error.errno in _PASSING else Refused
            raise kind(f"ipset: {error.strerror}") from error
