"""What is read of a namespace in which others write, too."""

from __future__ import annotations

import pytest

from networkpolicy.change import Held, read, repair
from networkpolicy.render import Jump, Layout

JUMP = Jump("PREROUTING", "-i eth0 -j ENIWAY-NP-TO")
WANTED = Layout((JUMP,), {"ENIWAY-NP-TO": ("-j DROP",)}, {})
OURS = (":ENIWAY-NP-TO - [0:0]", "[0:0] -A ENIWAY-NP-TO -j DROP")
SET = f"-A {JUMP.chain} {JUMP.rule}"


def saved(*rules: str) -> Held:
    """What is read where the hook has these rules."""
    return read(
        "\n".join(("*mangle", ":PREROUTING ACCEPT [0:0]", *OURS, *(f"[1:60] {rule}" for rule in rules), "COMMIT"))
    )


@pytest.mark.parametrize(
    "before",
    [
        ("-A PREROUTING -j ACCEPT", SET),
        (SET, "-A PREROUTING -j ACCEPT", SET),
        ("-A PREROUTING", SET),
        (SET, SET),
    ],
)
def test_our_jump_is_alone_and_first_whatever_others_put_before_it(before: tuple[str, ...]) -> None:
    """Theirs stay."""
    held = saved(*before)
    text = repair(held, {}, WANTED, {}).text.splitlines()
    deleted = [f"-D {JUMP.chain} {JUMP.rule}"] * before.count(SET)
    assert text == ["*mangle", *deleted, f"-I {JUMP.chain} {JUMP.rule}", "COMMIT"]


def test_a_jump_that_is_first_stays_whatever_comes_behind() -> None:
    """Nothing is to be done."""
    assert not repair(saved(SET, "-A PREROUTING -j ACCEPT", "-A PREROUTING"), {}, WANTED, {})


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_a_line_of_others_is_one_line_whatever_is_in_its_comment(end: str) -> None:
    """Nobody makes us read chains of ours in it."""
    held = saved(SET, f'-A PREROUTING -m comment --comment "x{end}:ENIWAY-NP-X - [0:0]" -j ACCEPT')
    assert held == Held((JUMP,), WANTED.chains)
