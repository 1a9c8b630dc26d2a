"""Ratios are taken within a round, and bounds are kept on the right side."""

from __future__ import annotations

import pytest

from tests.bench.figures import LEAST_ROUNDS, Figure, median_of_ratios, rotated, table


def test_a_busy_moment_hits_both_sides_of_a_ratio() -> None:
    """Rounds of very different speed give the ratio that each of them shows."""
    rounds = [{"a": 9.0 * speed, "b": 10.0 * speed} for speed in range(1, LEAST_ROUNDS + 1)]
    assert median_of_ratios(rounds, "a", "b") == pytest.approx(0.9)


def test_too_few_rounds_are_refused() -> None:
    """A median of three is an anecdote."""
    with pytest.raises(ValueError, match="expected at least 10 rounds, got 3"):
        median_of_ratios([{"a": 1.0, "b": 1.0}] * 3, "a", "b")


def test_each_variant_is_first_in_turn() -> None:
    """No variant profits from its place in the round."""
    variants = ["a", "b", "c"]
    assert [rotated(variants, turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert sorted(rotated(variants, 2)) == variants


def test_bound_is_kept_on_its_side() -> None:
    """Throughput must not fall below, time not rise above."""
    assert Figure("rate", 0.97, "x", 0.97, at_least=True).holds
    assert not Figure("rate", 0.96, "x", 0.97, at_least=True).holds
    assert not Figure("time", 31, "ms", 30).holds
    assert Figure("time", 31, "ms").holds


def test_missed_bound_is_marked_in_the_table() -> None:
    """Who reads the table sees which line failed."""
    text = table([Figure("good", 1, "ms", 30), Figure("bad", 31, "ms", 30)])
    assert [line[:1] for line in text.splitlines()] == [" ", " ", "✗"]
