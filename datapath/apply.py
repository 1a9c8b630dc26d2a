"""Carry out operations in the kernel, one after the other; each is a message or two over netlink.

Whatever is already as wished is no error: a removal finds nothing, an addition finds its like. Everything else the
kernel refuses is a KernelError that names the operation.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from functools import partial
from typing import Final

from datapath import ipset, limits, nft, rtnetlink
from datapath.diff import Add, Change, Op, Remove
from datapath.kernel import Kernel
from datapath.netlink import Netlink, NetlinkError
from datapath.observe import SYSCTL
from datapath.state import (
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
from eniway.errors import KernelError

_ALREADY_GONE: Final = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)
_FREE_NAME: Final = "eth%d"
"""The kernel puts the first free number in; a card is known by its MAC, not by its name."""


def apply(kernel: Kernel, ops: Iterable[Op]) -> None:  # noqa: C901 -- one case a way of doing it
    """Carry out ``ops`` in order. KernelError at the first that fails; what is left is found by the next diff."""
    for op in ops:
        try:
            match op:
                case Add(Eni() as eni):
                    raise KernelError(f"the card {eni.eni_id} ({eni.mac}) is not on this node")
                case Add(Ifb() | Tbf() | Redirect() as item):
                    limits.add(kernel, item)
                case Change(Ifb() | Tbf() | Redirect() as item):
                    limits.change(kernel, item)
                case Remove(Ifb() | Tbf() | Redirect() as item):
                    limits.remove(kernel, item)
                case Add(item) | Change(Sysctl() | Addr() | Route() | Neigh() | Rule() | Member() as item):
                    _add(kernel, item)
                case Change(Mark() as mark, Mark() as was):
                    kernel.sets.batch(nft.NFNL_SUBSYS_NFTABLES, nft.remove(was), nft.add(mark))
                case Change(Veth() as veth, Veth() as was):
                    _change_veth(kernel, veth, was)
                case Change(Eni() as eni, Eni() as was):
                    _change_eni(kernel, eni, was)
                case Remove(item):
                    _remove(kernel, item)
        except OSError as error:
            if not (isinstance(op, Remove) and error.errno in _ALREADY_GONE):
                raise KernelError(f"cannot {op}: {error.strerror}") from error


def _add(kernel: Kernel, item: Item) -> None:  # noqa: C901 -- one case a kind
    match item:
        case Veth():
            _add_veth(kernel, item)
        case Addr():
            kernel.routes[item.netns].call(rtnetlink.add_address(item, kernel.index(item.netns, item.dev)))
        case Route():
            index = kernel.index(item.netns, item.dev) if item.dev else 0
            kernel.routes[item.netns].call(rtnetlink.set_route(item, index))
        case Neigh():
            kernel.routes[item.netns].call(rtnetlink.set_neighbour(item, kernel.index(item.netns, item.dev)))
        case Rule():
            try:
                kernel.routes[Netns.NODE].call(rtnetlink.add_rule(item))
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
        case Sysctl():
            (SYSCTL / item.path).write_text(item.value)
        case Member():
            kernel.sets.call(ipset.add(item))
        case Mark():
            kernel.sets.batch(nft.NFNL_SUBSYS_NFTABLES, nft.add(item))


def _remove(kernel: Kernel, item: Item) -> None:
    match item:
        case Veth():
            kernel.routes[Netns.NODE].call(rtnetlink.remove_link(kernel.index(Netns.NODE, item.name)))
            kernel.indexes.pop((Netns.NODE, item.name))
            if item.peer:
                kernel.indexes.pop((Netns.POD, item.peer))
        case Addr():
            kernel.routes[item.netns].call(rtnetlink.remove_address(item, kernel.index(item.netns, item.dev)))
        case Route():
            index = kernel.index(item.netns, item.dev) if item.dev else 0
            kernel.routes[item.netns].call(rtnetlink.remove_route(item, index))
        case Neigh():
            kernel.routes[item.netns].call(rtnetlink.remove_neighbour(item, kernel.index(item.netns, item.dev)))
        case Rule():
            kernel.routes[Netns.NODE].call(rtnetlink.remove_rule(item))
        case Member():
            kernel.sets.call(ipset.remove(item))
        case Mark():
            kernel.sets.batch(nft.NFNL_SUBSYS_NFTABLES, nft.remove(item))
        case Eni() | Sysctl():
            raise AssertionError(item)


def _add_veth(kernel: Kernel, veth: Veth) -> None:
    """Both ends; the ifalias in the same system call, so that no crash leaves a link that does not say whose it is."""
    assert veth.peer is not None
    kernel.routes[Netns.NODE].call(
        rtnetlink.add_veth(
            veth.name,
            veth.peer,
            mac=veth.mac,
            peer_mac=veth.peer_mac,
            mtu=veth.mtu,
            peer_mtu=veth.peer_mtu,
            group=veth.group,
            peer_netns=kernel.netns[Netns.POD],
        ),
        rtnetlink.set_link(veth.name, alias=veth.alias, rp_filter=veth.rp_filter, up=veth.up),
    )
    kernel.routes[Netns.POD].call(rtnetlink.set_link(veth.peer, up=veth.up))


def _change_veth(kernel: Kernel, veth: Veth, was: Veth) -> None:
    """A MAC is only said if it is another: the kernel forgets a link's neighbours when it is set, even to the same."""
    kernel.routes[Netns.NODE].call(
        rtnetlink.set_link(
            veth.name,
            mac=veth.mac if veth.mac != was.mac else None,
            mtu=veth.mtu,
            alias=veth.alias,
            group=veth.group,
            rp_filter=veth.rp_filter,
            up=veth.up,
        )
    )
    if veth.peer is not None:
        peer_mac = veth.peer_mac if veth.peer_mac != was.peer_mac else None
        kernel.routes[Netns.POD].call(rtnetlink.set_link(veth.peer, mac=peer_mac, mtu=veth.peer_mtu, up=veth.up))


def _change_eni(kernel: Kernel, eni: Eni, was: Eni) -> None:
    """Plug a card, bring it home, or set it right where it is: one message, as far as the kernel allows."""
    wire = kernel.routes[was.netns]
    index = kernel.index(was.netns, was.name)
    moves, goes_home = eni.netns != was.netns, eni.netns is Netns.NODE
    if moves and goes_home and was.altnames:
        # One that is taken at home would keep the card from moving; udev gives it its own again there.
        wire.call(rtnetlink.remove_altnames(index, was.altnames))
    for mode in was.xdp or () if eni.xdp is not None else ():
        _remove_xdp(wire, index, mode)
    if eni.name != was.name and was.up and not moves:
        wire.call(rtnetlink.set_link(index, up=False))  # before Linux 6.2 a link that is up keeps its name
    change = partial(
        rtnetlink.set_link,
        index,
        netns=kernel.netns[eni.netns] if moves else None,
        mac=eni.mac if eni.mac != was.mac else None,
        mtu=eni.mtu,
        alias=eni.alias,
        group=eni.group,
        txqlen=eni.txqlen,
        up=eni.up,
        pristine=goes_home,
        rp_filter=eni.rp_filter,
    )
    try:
        wire.call(change(name=eni.name))
    except NetlinkError as error:
        if not (moves and goes_home and error.errno == errno.EEXIST):
            raise
        wire.call(change(name=_FREE_NAME))
    del kernel.indexes[was.netns, was.name]


def _remove_xdp(wire: Netlink, index: int, mode: int) -> None:
    try:
        wire.call(rtnetlink.remove_xdp(index, mode))
    except NetlinkError as error:
        # A BPF link, which ends with the program that holds it. The card comes home all the same.
        if error.errno != errno.EBUSY:
            raise
