"""What the daemon puts on the host for the runtime: the relay in /opt/cni/bin, then the network's configuration.

The conflist makes the node Ready, so it is written when the daemon serves, and last. Both files are replaced whole:
the runtime may read or start them at any moment.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Final

from eniway import names

CONFIG_DIRECTORY: Final = Path("/etc/cni/net.d")
BINARY_DIRECTORY: Final = Path("/opt/cni/bin")
PORTMAP: Final = "portmap"
"""For hostPort. It comes with the node, as other programs of the CNI project do; without it every ADD fails."""


def render() -> str:
    """The conflist; ``cniVersions`` is read by libcni from 1.2 on, others take ``cniVersion``."""
    return (
        json.dumps(
            {
                "cniVersion": names.CNI_VERSION,
                "cniVersions": list(names.CNI_VERSIONS_OFFERED),
                "name": names.CNI_NETWORK,
                "plugins": [
                    {"type": names.CNI_TYPE, "capabilities": {names.CAPABILITY_POD_ANNOTATIONS: True}},
                    {"type": PORTMAP, "capabilities": {"portMappings": True}},
                ],
            },
            indent=2,
        )
        + "\n"
    )


def write(directory: Path = CONFIG_DIRECTORY) -> None:
    """Put the conflist into ``directory``; OSError if that cannot be. The same text again is not written."""
    path = directory / names.CNI_CONFLIST
    text = render()
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    directory.mkdir(parents=True, exist_ok=True)
    # The runtime reads *.conf, *.conflist and *.json: not this one.
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    _into_place(fresh, path)


def withdraw(directory: Path = CONFIG_DIRECTORY) -> None:
    """Take the conflist away: the runtime reports no network, and the node is not Ready, until it is written again."""
    (directory / names.CNI_CONFLIST).unlink(missing_ok=True)


def install_relay(relay: Path, directory: Path = BINARY_DIRECTORY) -> None:
    """Copy ``relay`` into ``directory`` under the plugin's name; OSError if that cannot be."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / names.CNI_TYPE
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.copyfile(relay, fresh)
    fresh.chmod(0o755)
    _into_place(fresh, path)


def amiss(relay: Path, config: Path = CONFIG_DIRECTORY, binaries: Path = BINARY_DIRECTORY) -> tuple[str, ...]:
    """Those of our two files that are not there as ``write`` and ``install_relay`` leave them. OSError."""
    wanted = ((binaries / names.CNI_TYPE, relay.read_bytes()), (config / names.CNI_CONFLIST, render().encode()))
    return tuple(str(path) for path, content in wanted if not path.is_file() or path.read_bytes() != content)


def has_portmap(directory: Path = BINARY_DIRECTORY) -> bool:
    """Whether the one plugin that we chain and do not bring is there."""
    return (directory / PORTMAP).is_file()


def chosen(directory: Path = CONFIG_DIRECTORY) -> str | None:
    """The file that the runtime takes its network from: the first by name of those that it reads (libcni ConfFiles)."""
    found = (path.name for path in directory.iterdir() if path.suffix in {".conf", ".conflist", ".json"})
    return min(found, default=None)


def remove_relay(directory: Path = BINARY_DIRECTORY) -> None:
    """Take the plugin away: no sandbox that would need its DEL may be left."""
    (directory / names.CNI_TYPE).unlink(missing_ok=True)


def _into_place(fresh: Path, path: Path) -> None:
    """Rename after the content is on disk, or a crash could leave an empty file under the name."""
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
