"""Leaving a node: all that ``Network`` ever put into its namespace is taken away, in the calling thread.

Pods' links first: with them go their routes, neighbours and limits. Then rules and routes, which carry our protocol
number whatever they are for; cards come to rest, down and clean; chains, and at last the sets that these looked into.
Sysctls stay as they are: what they were before nobody knows, and others may rely on them by now.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from typing import Final

from datapath import firewall, kernel, marking, observe, rtnetlink
from datapath.apply import apply
from datapath.destroy import destroy_patiently
from datapath.diff import Remove, diff
from datapath.kernel import Kernel
from datapath.netlink import NetlinkError
from datapath.plan import exclusive
from datapath.state import NOTHING, Eni, Netns, Route, Rule
from eniway import names
from eniway.errors import KernelError
from eniway.model import Card

_EVERY_TABLE: Final = 0


def leave(cards: Collection[Card]) -> None:
    """Take everything away; ``cards`` are ours and may be here or not. Nothing left to do is no error. KernelError."""
    try:
        with kernel.opened() as opened:
            for key in observe.leases(opened):
                _remove_link(opened, names.host_link(key))
                _remove_link(opened, names.ifb(key))
            apply(opened, [Remove(rule) for rule in _rules(opened)])
            apply(opened, [Remove(route) for route in _routes(opened)])
            for card in cards:
                _rest(opened, card)
            firewall.remove()
            marking.remove()
            for made in firewall.SETS:
                destroy_patiently(opened.sets, made.name)
    except OSError as error:
        raise KernelError(str(error)) from error


def _remove_link(opened: Kernel, name: str) -> None:
    try:
        opened.routes[Netns.NODE].call(rtnetlink.remove_link(opened.index(Netns.NODE, name)))
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise


def _rules(opened: Kernel) -> Iterator[Rule]:
    found = map(rtnetlink.rule, opened.routes[Netns.NODE].dump(rtnetlink.get_rules()))
    return (rule for rule in found if rule is not None)


def _routes(opened: Kernel) -> Iterator[Route]:
    wire = opened.routes[Netns.NODE]
    links = {link.index: link.name for link in map(rtnetlink.link, wire.dump(rtnetlink.get_links()))}
    found = (
        rtnetlink.route(payload, netns=Netns.NODE, devices=links)
        for payload in wire.dump(rtnetlink.get_routes(_EVERY_TABLE))
    )
    return (route for route in found if route is not None)


def _rest(opened: Kernel, card: Card) -> None:
    observed = observe.shared_card(opened, card)
    for link in (item for item in observed if isinstance(item, Eni)):
        apply(opened, diff(observed, exclusive.home(card, name=link.name, mtu=link.mtu)))
        return
    apply(opened, diff(observed, NOTHING))
