"""Draw the life of an ENI into ARCHITECTURE.md, from the table that decides it.

``python -m build_support.lifecycle_diagram`` writes; a test sees to it that what stands there is what would be written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from build_support.stubs import ROOT
from eniallocator.lifecycle import TRANSITIONS, WORK, State, Work

PAGE: Final = ROOT / "ARCHITECTURE.md"
BEGIN: Final = "<!-- drawn by build_support.lifecycle_diagram -->"
END: Final = "<!-- end of the drawing -->"


def drawn() -> str:
    """The table as a Mermaid state diagram: an arrow for each event, and in each state the work that leads on."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.CREATING}"]
    lines += [f"    {state} : {state}\\n({WORK[state]})" for state in State if WORK[state] is not Work.NOTHING]
    for state, row in TRANSITIONS.items():
        lines += [
            f"    {state} --> {'[*]' if after is State.GONE else after} : {event}" for event, after in row.items()
        ]
    return "\n".join([*lines, "```"])


def with_drawing(page: str) -> str:
    """``page`` with the drawing as it is to be."""
    return re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: f"{BEGIN}\n{drawn()}\n{END}",
        page,
        flags=re.DOTALL,
    )


def write(path: Path = PAGE) -> None:
    """Bring the page up to date."""
    path.write_text(with_drawing(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write()
