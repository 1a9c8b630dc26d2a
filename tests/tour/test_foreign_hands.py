"""Somebody else changes what the kernel tells of, and what it does not: a sweep sees it, at once or the next."""

from __future__ import annotations

from demo.box import Box
from tests.box import hold


def test_chains_settings_and_routes_are_back_after_a_sweep(box: Box) -> None:
    """Within its minute."""
    hold.every_path_holds_after(
        box, "nft flush ruleset; sysctl -qw net.ipv4.conf.all.rp_filter=1; ip route flush table 999"
    )
