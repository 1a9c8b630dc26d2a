"""From samples to figures (pure): medians, ratios taken round by round, and the bounds they are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

LEAST_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its bound; ``at_least`` tells on which side of it the value must stay."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False
    beside: str = ""
    """What it is to be read beside."""

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; a figure without one always does."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def demand(self) -> str:
        """The bound in words."""
        if self.bound is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


def rotated(variants: Sequence[str], turn: int) -> list[str]:
    """The order of a round: each starts with another variant, so that none profits from its place."""
    at = turn % len(variants)
    return [*variants[at:], *variants[:at]]


def median_of_ratios(rounds: Sequence[Mapping[str, float]], over: str, under: str) -> float:
    """Median of over ÷ under, each ratio taken within one round, so that a busy moment hits both sides of it."""
    if len(rounds) < LEAST_ROUNDS:
        raise ValueError(f"expected at least {LEAST_ROUNDS} rounds, got {len(rounds)}")
    return median(one[over] / one[under] for one in rounds)


def table(figures: Sequence[Figure]) -> str:
    """The figures as columns."""
    head = ("", "WHAT", "VALUE", "BOUND", "BESIDE")
    body = [(" " if f.holds else "✗", f.what, f"{f.value:.3g} {f.unit}".strip(), f.demand, f.beside) for f in figures]
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *body))
    return "\n".join(line.rstrip() for line in lines)
