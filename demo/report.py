"""What the demonstration prints, as it goes, and what went wrong on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Report:
    """Prints; keeps the complaints in ``wrong``."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.wrong: list[str] = []

    def headline(self, text: str) -> None:
        """A part begins."""
        print(f"\n[{time.monotonic() - self._started:5.1f} s] {text}", flush=True)

    def line(self, text: str) -> None:
        """Something was seen."""
        print(f"  {text}", flush=True)

    def verdict(self, text: str, complaints: Sequence[str]) -> None:
        """Something was checked."""
        print(f"  {'✗' if complaints else '✓'} {text}", flush=True)
        for complaint in complaints:
            print(f"      {complaint}", flush=True)
        self.wrong += complaints

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Columns as wide as they need to be."""
        text = [[str(cell) for cell in row] for row in (head, *rows)]
        widths = [max(len(row[column]) for row in text) for column in range(len(head))]
        for row in text:
            self.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
