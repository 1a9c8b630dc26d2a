"""The laws of a script of faults."""

from collections import Counter
from itertools import pairwise

import pytest

from tests.soak.churn import MOST_EXCLUSIVE, Create, Delete, Kill
from tests.soak.faults import PODS, Calm, Fault, faults
from vpcbox.faults import Rule

NODES = ["node-1", "node-2"]
VSWITCHES = ["vsw-1", "vsw-2"]
_NUMBERS = {"status", "per_minute", "count", "seconds"}


def test_a_seed_is_its_steps_in_any_box() -> None:
    """The same again; other ids of vSwitches change nothing else; another seed is another script."""
    first = list(faults(7, steps=200, nodes=NODES, vswitches=VSWITCHES))
    assert first == list(faults(7, steps=200, nodes=NODES, vswitches=VSWITCHES))
    elsewhere = list(faults(7, steps=200, nodes=NODES, vswitches=["vsw-3", "vsw-4"]))
    assert str(first) == str(elsewhere).replace("vsw-3", "vsw-1").replace("vsw-4", "vsw-2")
    assert first != list(faults(8, steps=200, nodes=NODES, vswitches=VSWITCHES))


@pytest.mark.parametrize("seed", range(20))
def test_every_step_can_be_taken(seed: int) -> None:
    """Only what lives is deleted, pods are never too many, and the box takes every fault."""
    alive: dict[str, str] = {}
    steps = list(faults(seed, steps=200, nodes=NODES, vswitches=VSWITCHES))
    assert len(steps) == 200
    for _, step in steps:
        match step:
            case Create(name, kind):
                assert name not in alive
                alive[name] = kind
            case Delete(name, _):
                del alive[name]
            case Kill(node, program):
                assert (node in NODES, program) == (True, "eniway")
            case Fault(kind, settings):
                said = (setting.partition("=")[::2] for setting in settings)
                Rule.parse({"kind": kind, **{name: int(word) if name in _NUMBERS else word for name, word in said}})
        assert len(alive) <= PODS
        assert Counter(alive.values())["exclusive"] <= MOST_EXCLUSIVE
    assert all(earlier <= later for (earlier, _), (later, _) in pairwise(steps))


def test_two_hundred_steps_have_every_kind_of_step_and_most_faults() -> None:
    """A script that never fails anything would hold for nothing."""
    for seed in range(20):
        steps = [step for _, step in faults(seed, steps=200, nodes=NODES, vswitches=VSWITCHES)]
        assert {type(step) for step in steps} == {Create, Delete, Kill, Fault, Calm}
        assert len({step.kind for step in steps if isinstance(step, Fault)}) >= 8
