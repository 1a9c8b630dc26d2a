"""How many packets each policy's terms let pass, from the counters that rules have anyway.

Packets of known connections are no longer asked about, so these are the first of each. Counters end with their rules:
what a rule counted after it was last read is lost when its policy changes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final, TypeAlias

from eniway import names

Counts: TypeAlias = Mapping[tuple[str, int], tuple[str, int]]
"""By chain and number of the term in it: its policy, and packets."""

_RULE: Final = re.compile(rf'\[(\d+):\d+\] -A ({names.POLICY_CHAIN_PREFIX}\S+) .*--comment "?([^" ]+)"? -j RETURN$')


def read(saved: str) -> Counts:
    """What ``iptables-save --counters`` prints."""
    found: dict[tuple[str, int], tuple[str, int]] = {}
    numbers: Counter[str] = Counter()
    for match in filter(None, map(_RULE.match, saved.split("\n"))):
        packets, chain, policy = match.groups()
        numbers[chain] += 1
        found[chain, numbers[chain]] = (policy, int(packets))
    return found


def since(before: Counts, now: Counts) -> Mapping[str, int]:
    """Packets by policy between two readings; a rule that counts less than before was made anew."""
    passed: Counter[str] = Counter()
    for rule, (policy, packets) in now.items():
        _, earlier = before.get(rule, (policy, 0))
        passed[policy] += packets - earlier if packets >= earlier else packets
    return passed
