"""Somebody else changes what eniway put into the kernel: it is seen, mended, and counted."""

from __future__ import annotations

import pytest

from demo.application import Application
from demo.box import Box
from tests.box import hold


@pytest.mark.parametrize(
    "command",
    [
        # What a restart of systemd-networkd does to rules that are not its own
        "ip rule flush && ip rule add priority 32766 lookup main && ip rule add priority 32767 lookup default",
        "iptables -t mangle -F; sysctl -qw net.ipv4.conf.all.rp_filter=1; ip route flush table 999",
    ],
    ids=["rules, of which the kernel tells", "chains, settings and routes, of which it does not"],
)
def test_every_path_holds_again_after_a_foreign_hand(box: Box, command: str) -> None:
    """Within a sweep (60 s; sooner where the kernel tells of it) all pods reach each other as before."""
    hold.clear(hold.kube_of(box))
    application = Application(box)
    application.deploy()
    endpoints, wrong = application.endpoints(application.pods())
    assert wrong == []
    box.sh("node-1", ["sh", "-c", command])
    hold.settles(lambda: [complaint for _, complaint in application.walk(endpoints) if complaint], seconds=90)
    hold.agree(box)
