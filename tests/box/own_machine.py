"""A machine of one's own for a process that plays a node: its mounts, its disk, its network, and none of the host's.

Call ``enter`` first of all: a thread that was there before would stay outside.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from eniway import names
from vpcbox.fabric import netns
from vpcbox.fabric.router import Router
from vpcbox.world.wire import Card

NAMESPACES: Final = Path("/run/netns")
RELAY: Final = Path("/usr/share/eniway/cni/eniway")
_OVERLAID: Final = ("/etc", "/opt", "/usr/share", "/var/lib")
_DISK: Final = Path(names.STATE_DIRECTORY)
_DISK_SIZE: Final = "4m"
_FILLER: Final = _DISK / "filler"


def enter() -> None:
    """Move this process there; what it writes below /run, /etc, /opt, /usr/share and /var/lib nobody else sees."""
    netns.unshare(netns.CLONE_NEWNS | netns.CLONE_NEWNET)
    netns.mount("none", "/", "", netns.MS_REC | netns.MS_PRIVATE)
    netns.mount("run", "/run", "tmpfs", 0, "mode=755")
    NAMESPACES.mkdir()
    for place in _OVERLAID:
        layer = Path(f"/run/layers{place}")
        for part in ("upper", "work"):
            (layer / part).mkdir(parents=True)
        options = f"lowerdir={place},upperdir={layer}/upper,workdir={layer}/work"
        netns.mount("overlay", place, "overlay", 0, options)
    _DISK.mkdir(parents=True)
    netns.mount("disk", str(_DISK), "tmpfs", 0, f"mode=700,size={_DISK_SIZE}")
    RELAY.parent.mkdir(parents=True)
    RELAY.write_bytes(b"the relay")


@contextmanager
def fresh() -> Iterator[None]:
    """The node's own files are none at the beginning, and at the end."""
    try:
        yield
    finally:
        for left in (*_DISK.iterdir(), *Path(names.RUN_DIRECTORY).iterdir()):
            left.unlink()
        for directory in (
            names.CREDENTIALS_DIRECTORY,
            str(Path(names.SWITCH_FILE).parent),
            "/var/lib/kubelet",
            "/var/lib/cni",
        ):
            shutil.rmtree(directory, ignore_errors=True)


def fill_disk() -> None:
    """Until nothing more goes onto it."""
    with _FILLER.open("ab", buffering=0) as filler:
        for size in (4096, 1):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                continue


def clear_disk() -> None:
    """Make room again."""
    _FILLER.unlink(missing_ok=True)


class NodeRouter(Router):
    """The simulator's; this process is the first instance whose primary card is plugged, from then on."""

    def __init__(self) -> None:
        super().__init__(NAMESPACES)
        self._entered = False

    async def plug(self, card: Card) -> None:
        await super().plug(card)
        if card.primary and not self._entered:
            self._entered = True
            with (await self.instance(card.instance_id)).open("rb") as there:
                netns.setns(there.fileno(), netns.CLONE_NEWNET)
