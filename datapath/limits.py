"""Buckets, ifbs and redirections in the kernel: what observe and apply do about them."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final

from datapath import rtnetlink, tc
from datapath.kernel import Kernel
from datapath.netlink import Netlink, NetlinkError
from datapath.rtnetlink import Link
from datapath.state import Direction, Ifb, Netns, Redirect, Tbf
from eniway import names

FAIR_QUEUE: Final = "fq_codel"
"""What waits in a bucket waits there, where the kernel has it: no flow waits behind another's packets."""
_NO_BUCKET: Final = (errno.EINVAL, errno.ENOENT, errno.ENODEV)
_unknown: Final = set[str]()
"""Kinds of qdiscs and filters that this kernel has said it lacks: each time it is asked, it looks for a module."""


def observe(kernel: Kernel, where: Netns, links: Iterable[Link], devices: Collection[str]) -> set[Ifb | Tbf | Redirect]:
    """Those of ``links`` that are ifbs of ours, and the buckets and redirections of these and of ``devices``."""
    ifbs = {link.index: link for link in links if link.kind == "ifb" and link.name.startswith(names.IFB_PREFIX)}
    targets = {index: link.name for index, link in ifbs.items()}
    items: set[Ifb | Tbf | Redirect] = {
        Ifb(netns=where, name=link.name, alias=link.alias, group=link.group, up=link.up) for link in ifbs.values()
    }
    items |= {found for dev in (*targets.values(), *devices) if (found := _tbf(kernel, where, dev)) is not None}
    for dev in devices:
        for direction in Direction:
            filters = kernel.routes[where].dump(tc.get_filters(kernel.index(where, dev), direction))
            leads = (tc.redirect(part, netns=where, dev=dev, direction=direction, devices=targets) for part in filters)
            # The first of our preference decides.
            items |= set(islice(filter(None, leads), 1))
    return items


def queue(kernel: Kernel, item: Tbf) -> tc.Queue | None:
    """How a bucket is doing; None: it is gone."""
    payload = _get_tbf(kernel, item.netns, item.dev)
    return None if payload is None else tc.queue(payload)


def add(kernel: Kernel, item: Ifb | Tbf | Redirect) -> None:
    """Make it."""
    match item:
        case Ifb():
            kernel.routes[item.netns].call(rtnetlink.add_ifb(item.name))
            change(kernel, item)
        case Tbf():
            _set_tbf(kernel, item)
        case Redirect():
            _add_redirect(kernel, item)


def change(kernel: Kernel, item: Ifb | Tbf | Redirect) -> None:
    """Set it right, a bucket without touching what waits in it."""
    match item:
        case Ifb():
            kernel.routes[item.netns].call(
                rtnetlink.set_link(item.name, alias=item.alias, group=item.group, up=item.up)
            )
        case Tbf():
            _set_tbf(kernel, item)
        case Redirect():
            remove(kernel, item)
            _add_redirect(kernel, item)


def remove(kernel: Kernel, item: Ifb | Tbf | Redirect) -> None:
    """Remove it; with the last filter of a link what filters hang on: others may have put some there."""
    match item:
        case Ifb():
            kernel.routes[item.netns].call(rtnetlink.remove_link(kernel.index(item.netns, item.name)))
            kernel.indexes.pop((item.netns, item.name))
        case Tbf():
            kernel.routes[item.netns].call(tc.remove_tbf(kernel.index(item.netns, item.dev)))
        case Redirect():
            wire, index = kernel.routes[item.netns], kernel.index(item.netns, item.dev)
            wire.call(tc.remove_redirect(item, index))
            if not any(wire.dump(tc.get_filters(index, direction)) for direction in Direction):
                wire.call(tc.remove_hooks(index))


def _tbf(kernel: Kernel, where: Netns, dev: str) -> Tbf | None:
    payload = _get_tbf(kernel, where, dev)
    return None if payload is None else tc.tbf(payload, netns=where, dev=dev)


def _get_tbf(kernel: Kernel, where: Netns, dev: str) -> bytes | None:
    try:
        return next(iter(kernel.routes[where].call(tc.get_tbf(kernel.index(where, dev)))), None)
    except NetlinkError as error:
        if error.errno not in _NO_BUCKET:
            raise
        return None


def _set_tbf(kernel: Kernel, item: Tbf) -> None:
    wire, index = kernel.routes[item.netns], kernel.index(item.netns, item.dev)
    wire.call(tc.set_tbf(item, index))
    if FAIR_QUEUE in _unknown:
        return
    try:
        wire.call(tc.set_leaf(index, FAIR_QUEUE))
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        _unknown.add(FAIR_QUEUE)


def _add_redirect(kernel: Kernel, item: Redirect) -> None:
    assert item.to is not None
    wire, index = kernel.routes[item.netns], kernel.index(item.netns, item.dev)
    _ensure_hooks(wire, index, item.direction)
    to = kernel.index(item.netns, item.to)
    if tc.MATCHALL not in _unknown:
        try:
            wire.call(tc.add_redirect(item, index, to, tc.MATCHALL))
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            _unknown.add(tc.MATCHALL)
        else:
            return
    wire.call(tc.add_redirect(item, index, to, tc.U32))


def _ensure_hooks(wire: Netlink, index: int, direction: Direction) -> None:
    try:
        found = next(iter(wire.call(tc.get_hooks(index))), None)
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        found = None
    if found is not None and (tc.are_hooks(found) or direction is Direction.INGRESS):
        return
    if found is not None:
        wire.call(tc.remove_hooks(index))
    wire.call(tc.add_hooks(index))
