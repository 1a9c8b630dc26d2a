"""Taking sets away: the kernel lets go of one some time after the rules that looked into it have gone."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable
from typing import Final

from datapath import ipset
from datapath.netlink import Netlink, NetlinkError
from eniway.errors import KernelError

_ATTEMPTS: Final = 50
_BUSY_SECONDS: Final = 0.1


def destroy(sets: Netlink, name: str) -> bool:
    """Try once; whether there is no such set any more. False: something looks into it yet. KernelError."""
    try:
        sets.call(ipset.destroy(name))
    except NetlinkError as error:
        if error.errno == ipset.BUSY:
            return False
        if error.errno != errno.ENOENT:
            raise KernelError(f"ipset {ipset.shown(name)}: {error.strerror}") from error
    return True


def destroy_patiently(sets: Netlink, wanted: Iterable[str]) -> tuple[str, ...]:
    """Try for 5 s in all, in the calling thread. What of it remains and why, a line each."""
    left, refused = list(wanted), list[str]()
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_BUSY_SECONDS)
        for name in tuple(left):
            try:
                if destroy(sets, name):
                    left.remove(name)
            except KernelError as error:
                left.remove(name)
                refused.append(str(error))
        if not left:
            break
    looked = (
        f"ipset {name}: a rule that is not ours looks into it: see `iptables-save | grep {name}`"
        for name in map(ipset.shown, left)
    )
    return (*refused, *looked)
