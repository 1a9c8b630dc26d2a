"""Somebody else changes what the kernel does not tell of: the next sweep sees it."""

from __future__ import annotations

from demo.box import Box
from tests.box import hold


def test_chains_settings_and_routes_are_back_after_a_sweep(box: Box) -> None:
    """Within its minute."""
    hold.every_path_holds_after(
        box, "nft delete table ip eniway; sysctl -qw net.ipv4.conf.all.rp_filter=1; ip route flush table 999"
    )
