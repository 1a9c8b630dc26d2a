"""The laws of a soak's script."""

from collections import Counter
from itertools import pairwise

import pytest

from tests.soak.churn import MOST_EXCLUSIVE, Create, Delete, Kill, churn
from tests.soak.flows import Count

NODES = ["node-1", "node-2"]


def test_a_seed_is_a_churn() -> None:
    """The same one again; another seed is another."""
    first = list(churn(7, pods=20, seconds=60, nodes=NODES))
    assert first == list(churn(7, pods=20, seconds=60, nodes=NODES))
    assert first != list(churn(8, pods=20, seconds=60, nodes=NODES))


@pytest.mark.parametrize("seed", range(20))
def test_pods_live_once_and_never_too_many(seed: int) -> None:
    """Only what lives is deleted; slots suffice; every kind of event happens, in order of time."""
    alive: dict[str, str] = {}
    seen: Counter[str] = Counter()
    events = list(churn(seed, pods=60, seconds=300, nodes=NODES))
    for _, event in events:
        match event:
            case Create(name, kind):
                assert name not in alive
                alive[name] = kind
                seen[kind] += 1
            case Delete(name, force):
                del alive[name]
                seen["forced" if force else "asked"] += 1
            case Kill(node, program):
                assert node in NODES
                seen[program] += 1
        assert len(alive) <= 60
        assert Counter(alive.values())["exclusive"] <= MOST_EXCLUSIVE
    assert all(earlier <= later for (earlier, _), (later, _) in pairwise(events))
    assert set(seen) == {"shared", "routed", "exclusive", "forced", "asked", "eniway", "kubelet", "containerd"}


def test_a_flow_that_lost_anything_or_sent_nothing_is_complained_of() -> None:
    """With the first numbers that are missing."""
    assert not Count(100, 100, ()).complaint
    assert "2 of 100 datagrams lost, the first (7, 9)" in Count(100, 98, (7, 9)).complaint
    assert Count(0, 0, ()).complaint
