"""The host's systemd-networkd, the real one, reads what it is told and leaves our links alone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from eniway.node.dropins import HostCards, install

NETWORKD = Path("/lib/systemd/systemd-networkd")
LINKS = ("eth0", "eth1", "eniw0123456789a")
EVERYTHING = "[Match]\nName=eth* eniw*\n[Network]\nAddress=192.0.2.77/24\nLinkLocalAddressing=no\n"
"""What a distribution's image says of all cards, but that it says DHCP."""
SERVICE = f"""
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network:systemd-network /run/systemd/netif
mount -o remount,ro /sys  # so it does not wait for udev
mount --bind "$1"/systemd /etc/systemd
exec {NETWORKD}
"""


@pytest.fixture
def host() -> Iterator[str]:
    """A network namespace with a primary card, another card, and a pod's link."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not NETWORKD.exists():
        pytest.skip(f"no {NETWORKD}: the Debian package systemd is not installed")
    name = f"eniway-t{os.getpid()}-networkd"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for link in LINKS:
            far = f"far-{link[:4]}"
            lines = f"link add {link} up type veth peer name {far}\nlink set {far} up\n"
            subprocess.run(["ip", "-n", name, "-batch", "-"], input=lines, text=True, check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.parametrize("told", [False, True], ids=["not told", "told"])
def test_networkd_leaves_cards_and_pods_links_alone(host: str, tmp_path: Path, told: bool) -> None:
    """Told, it configures the primary card alone; without our files it takes all."""
    folder = tmp_path / "systemd" / "network"
    folder.mkdir(parents=True)
    (folder / "50-all.network").write_text(EVERYTHING)
    if told:
        install(HostCards("veth", ("eth0",)), tmp_path)
    argv = ["ip", "netns", "exec", host, "unshare", "--mount", "sh", "-euc", SERVICE, "sh", str(tmp_path)]
    ends: dict[str, str] = {}
    with subprocess.Popen(
        argv, env=os.environ | {"SYSTEMD_LOG_LEVEL": "debug"}, stderr=subprocess.PIPE, text=True
    ) as service:
        assert service.stderr is not None
        said = list[str]()
        try:
            for line in service.stderr:
                said.append(line)
                if found := re.match(r"(\S+): State changed: \w+ -> (configured|unmanaged)", line):
                    ends[found[1]] = found[2]
                if ends.keys() >= set(LINKS):
                    break
        finally:
            service.kill()
    assert {link: ends.get(link) for link in LINKS} == {
        link: "unmanaged" if told and link != "eth0" else "configured" for link in LINKS
    }, "".join(said)
