from __future__ import annotations

import json
from pathlib import Path

from cni import conflist
from eniway import names


def test_the_conflist_offers_both_versions_and_asks_for_annotations(tmp_path: Path) -> None:
    """Before 1.2 libcni reads cniVersion, later ones cniVersions."""
    directory = tmp_path / "net.d"
    conflist.write(directory)
    assert [path.name for path in directory.iterdir()] == ["10-eniway.conflist"]
    read = json.loads((directory / "10-eniway.conflist").read_text())
    assert read["cniVersion"] == "1.0.0"
    assert read["cniVersions"] == ["1.0.0", "1.1.0"]
    assert read["name"] == "eniway"
    assert read["plugins"] == [
        {"type": "eniway", "capabilities": {"io.kubernetes.cri.pod-annotations": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]


def test_the_same_conflist_is_not_written_again(tmp_path: Path) -> None:
    """The runtime watches the directory and would load it anew; another text is replaced."""
    conflist.write(tmp_path)
    path = tmp_path / "10-eniway.conflist"
    before = path.stat()
    conflist.write(tmp_path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.write_text("{}")
    conflist.write(tmp_path)
    assert path.read_text() == conflist.render()


def test_the_relay_replaces_one_that_runs(tmp_path: Path) -> None:
    """By rename: a program that is being executed cannot be written to, and is never seen half."""
    relay = tmp_path / "relay"
    relay.write_bytes(b"#!/bin/sh\nexit 0\n")
    for _ in range(2):
        conflist.install_relay(relay, tmp_path / "bin")
    installed = tmp_path / "bin" / "eniway"
    assert installed.read_bytes() == relay.read_bytes()
    assert installed.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in installed.parent.iterdir()] == ["eniway"]


def test_a_withdrawn_conflist_is_gone_and_can_be_written_again(tmp_path: Path) -> None:
    """Between a boot and the daemon's first service the node is not Ready; withdrawing nothing is no error."""
    conflist.withdraw(tmp_path)
    conflist.write(tmp_path)
    conflist.withdraw(tmp_path)
    assert list(tmp_path.iterdir()) == []
    conflist.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [names.CNI_CONFLIST]
