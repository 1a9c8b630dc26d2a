"""Leaving a node: all that ``Network`` ever put into its namespace is taken away, in the calling thread.

Pods' links first: with them go their routes, neighbours and limits. Then rules and routes, which carry our protocol
number whatever they are for; cards come to rest, down and clean; chains, and at last the sets that these looked into.
Sysctls stay as they are: what they were before nobody knows, and others may rely on them by now.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator
from functools import partial
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


def leave(cards: Collection[Card]) -> tuple[str, ...]:
    """Take everything away; ``cards`` are ours and may be here or not. What remains and why, a line each.

    What one step cannot do, the others are done all the same. KernelError where the kernel cannot be asked at all.
    """
    try:
        with kernel.opened() as opened:
            return tuple(_leave(opened, cards))
    except OSError as error:
        raise KernelError(str(error)) from error


def _leave(opened: Kernel, cards: Collection[Card]) -> Iterator[str]:
    steps: list[tuple[str, Callable[[], None]]] = [
        ("links of pods", lambda: _remove_links(opened)),
        ("routing rules", lambda: apply(opened, [Remove(rule) for rule in _rules(opened)])),
        ("routes", lambda: apply(opened, [Remove(route) for route in _routes(opened)])),
        *((f"the card {card.eni_id}", partial(_rest, opened, card)) for card in cards),
        ("chains of iptables", firewall.remove),
        (f"the nftables table {names.NFT_TABLE}", marking.remove),
    ]
    for what, step in steps:
        try:
            step()
        except (OSError, KernelError) as error:
            yield f"{what}: {error}"
    yield from destroy_patiently(opened.sets, [made.name for made in firewall.SETS])


def _remove_links(opened: Kernel) -> None:
    for key in observe.leases(opened):
        _remove_link(opened, names.host_link(key))
        _remove_link(opened, names.ifb(key))


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
