"""What rules counted is told by policy, whatever became of the rules in between."""

from __future__ import annotations

from networkpolicy.counters import read, since

SAVED = """*mangle
:FORWARD ACCEPT [9:900]
:ENIWAY-NP-0123456789abcdef - [0:0]
[9:900] -A FORWARD -m comment --comment "x/p" -j RETURN
[7:420] -A ENIWAY-NP-0123456789abcdef -m set --match-set s src -m comment --comment "x/p" -j RETURN
[2:120] -A ENIWAY-NP-0123456789abcdef -p tcp -m multiport --dports 80 -m comment --comment "x/q" -j RETURN
[1:60] -A ENIWAY-NP-0123456789abcdef -p udp -m comment --comment x/p -j RETURN
[5:300] -A ENIWAY-NP-0123456789abcdef -j DROP
COMMIT
"""


def test_terms_of_a_policy_are_added_up() -> None:
    """Of our chains alone."""
    assert since({}, read(SAVED)) == {"x/p": 8, "x/q": 2}


def test_between_two_readings_only_what_is_new_counts() -> None:
    """A rule that was made anew began at zero."""
    before, now = read(SAVED), read(SAVED.replace("[7:420]", "[9:540]").replace("[2:120]", "[1:60]"))
    assert since(before, now) == {"x/p": 2, "x/q": 1}
    assert since(before, {}) == {}
