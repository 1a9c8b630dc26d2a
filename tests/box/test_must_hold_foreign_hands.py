"""Somebody else changes what eniway put into the kernel: it is seen, mended, and counted."""

from __future__ import annotations

from demo.box import Box
from tests.box import hold

RULES = "ip rule flush && ip rule add priority 32766 lookup main && ip rule add priority 32767 lookup default"
"""What a restart of systemd-networkd does to rules that are not its own."""


def test_rules_that_a_foreign_hand_took_away_are_back_at_once(box: Box) -> None:
    """The kernel tells of it."""
    hold.every_path_holds_after(box, RULES)
