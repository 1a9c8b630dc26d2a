"""What a subcommand of ``eniway`` is: one file of this folder, one Verb, one line in main.py.

Exit statuses, the same for all verbs: 0 done and as it should be; 1 not done, and a line on standard error says why;
2 bad usage; 3 done, and what was looked at is not as it should be;
4 refused, because pods would lose what they use.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

OK: Final = 0
FAILED: Final = 1
NOT_WELL: Final = 3
REFUSED: Final = 4


@dataclass(frozen=True, slots=True)
class Verb:
    """A subcommand. Its module is imported for every call of the program: heavy imports stand in ``run``."""

    name: str
    summary: str
    """One line of ``eniway --help``."""
    arguments: Callable[[ArgumentParser], None]
    """Adds its options."""
    run: Callable[[Namespace], int]
    """Does it; the exit status. An EniwayError that it raises becomes a line on standard error and 1."""
