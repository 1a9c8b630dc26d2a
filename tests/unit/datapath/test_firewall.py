"""What is written to iptables: own chains anew, one jump each into the kernel's."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from datapath.borders import Borders
from datapath.firewall import JUMPS, chains, render, unrender
from eniway import names

NODE = IPv4Address("10.0.0.4")
TRANSLATED = Borders(inside=frozenset({IPv4Network("10.0.0.0/8")}))


def test_on_a_fresh_node_chains_and_jumps_are_made() -> None:
    """Each chain is declared, filled and jumped to once."""
    text = render(NODE, "", TRANSLATED)
    for jump in JUMPS:
        assert text.count(f":{jump.target} - [0:0]\n") == 1
        inserted = f"-I {jump.chain} {jump.match} -j {jump.target}\n"
        assert text.count(inserted) == (not jump.overrules)
    assert text.count("COMMIT\n") == 2


def test_jumps_that_stand_are_not_repeated() -> None:
    """iptables-save may show the match in words of its own; the chains are written all the same."""
    present = "\n".join(
        f"*{jump.table}\n-A {jump.chain} -m comment --comment x {jump.match} -j {jump.target}" for jump in JUMPS
    )
    text = render(NODE, present, TRANSLATED)
    assert "-I " not in text
    assert all(f":{jump.target} - [0:0]\n" in text for jump in JUMPS)


def test_what_stands_is_not_written_again() -> None:
    """Nothing is left to write; of a chain that somebody changed, that chain alone."""
    text = render(NODE, "")
    assert render(NODE, text.replace("-I ", "-A ")) == ""
    name = f"{names.CHAIN_PREFIX}SNAT"
    rules = "".join(f"-A {name} {rule}\n" for rule in chains(NODE)["nat"][name])
    other = text.replace("-I ", "-A ").replace(f"-A {name}", f"-A {name} -s 192.0.2.1")
    assert render(NODE, other) == f"*nat\n:{name} - [0:0]\n{rules}COMMIT\n"


def test_what_is_not_asked_for_any_more_is_emptied() -> None:
    """The chain without rules does nothing, whoever jumps to it; on a node that never had it, it is not made."""
    before = render(NODE, "", TRANSLATED).replace("-I ", "-A ")
    name = f"{names.CHAIN_PREFIX}OUTSIDE"
    text = render(NODE, before)
    assert f":{name} - [0:0]\n" in text
    assert f"-A {name} " not in text
    assert name not in render(NODE, "")


def test_a_policy_to_drop_is_overruled_behind_all_rules() -> None:
    """Appended, once, and only there."""
    jump = f"-A FORWARD -j {names.CHAIN_PREFIX}FORWARD\n"
    assert jump not in render(NODE, "*filter\n:FORWARD ACCEPT [0:0]\n")
    assert jump in render(NODE, "*filter\n:FORWARD DROP [1:52]\n-A FORWARD -j OTHERS\n")
    assert jump not in render(NODE, f"*filter\n:FORWARD DROP [1:52]\n{jump}")


def test_only_own_chains_are_filled() -> None:
    """Of anybody else's nothing is flushed, deleted or appended to."""
    for line in render(NODE, "").splitlines():
        if line.startswith((":", "-A ")):
            assert line.lstrip(":-A ").startswith(names.CHAIN_PREFIX)
        else:
            assert line.startswith(("-I ", "*", "COMMIT"))


def test_nothing_is_translated_to_anything_but_the_node() -> None:
    """SNAT, not MASQUERADE: that would take the address of whatever link the packet leaves by."""
    rules = [rule for filled in chains(NODE)["nat"].values() for rule in filled]
    assert rules
    assert all(f"-j SNAT --to-source {NODE}" in rule for rule in rules)


def test_leaving_takes_chains_and_jumps_away_and_nothing_else() -> None:
    """Jumps go in the words in which they are shown; NetworkPolicy's chains and others' rules are not named."""
    policy = f"{names.POLICY_CHAIN_PREFIX}PODS"
    present = render(NODE, "", TRANSLATED).replace("-I ", "-A ")
    present = present.replace("COMMIT", f":{policy} - [0:0]\n-A FORWARD -j {policy}\n-A FORWARD -j ACCEPT\nCOMMIT", 1)
    text = unrender(present)
    for jump in JUMPS:
        assert f"-X {jump.target}\n" in text
        assert text.count(f"-D {jump.chain} {jump.match} -j {jump.target}\n") == (not jump.overrules)
    assert policy not in text
    assert "ACCEPT" not in text
    assert unrender("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n") == ""
