from __future__ import annotations

from deviceplugin.allocations import SETTLE, Allocations
from eniway.model import PodRef, PodUid, Slot

ONE, TWO = Slot(1), Slot(2)


def pod(name: str, uid: str | None = None) -> PodRef:
    """A pod of the default namespace."""
    return PodRef("default", name, PodUid(uid or f"uid-{name}"))


def settled() -> Allocations:
    """A process that has learned all at time 1000."""
    allocations = Allocations(now=0.0)
    allocations.listed({}, began=1000.0)
    return allocations


def test_a_quiet_node_is_never_asked() -> None:
    """No Allocate is open: a pod has no device."""
    assert settled().known(pod("a")) == ()


def test_an_allocate_has_every_unknown_pod_asked_about_until_one_claims_it() -> None:
    """The others are remembered as having none."""
    allocations = settled()
    allocations.allocated(ONE, now=1001.0)
    assert allocations.known(pod("a")) is None
    allocations.claim(pod("a"), ())
    assert allocations.known(pod("a")) == ()
    assert allocations.known(pod("b")) is None
    allocations.claim(pod("b"), (ONE,))
    assert allocations.known(pod("b")) == (ONE,)
    assert allocations.known(pod("c")) == ()


def test_a_claim_closes_only_its_own_slot() -> None:
    """The other Allocate is still open."""
    allocations = settled()
    allocations.allocated(ONE, now=1001.0)
    allocations.allocated(TWO, now=1001.0)
    allocations.claim(pod("a"), (TWO,))
    assert allocations.known(pod("b")) is None


def test_a_pod_keeps_its_slots_over_new_sandboxes() -> None:
    """Without another question, for as long as nobody else is given the slot."""
    allocations = settled()
    allocations.allocated(ONE, now=1001.0)
    allocations.claim(pod("a"), (ONE,))
    assert allocations.known(pod("a")) == (ONE,)
    allocations.allocated(ONE, now=2000.0)
    allocations.claim(pod("b"), (ONE,))
    assert allocations.known(pod("a")) == ()
    assert allocations.known(pod("b")) == (ONE,)


def test_a_successor_of_the_same_name_is_always_asked_about() -> None:
    """A late request of the predecessor may have been answered with the successor's slot: names are all there is."""
    allocations = settled()
    allocations.allocated(ONE, now=1001.0)
    allocations.claim(pod("web-0", "old"), (ONE,))
    assert allocations.known(pod("web-0", "new")) is None
    allocations.claim(pod("web-0", "new"), (ONE,))
    assert allocations.known(pod("web-0", "new")) == (ONE,)


def test_a_new_process_asks_about_every_pod_until_a_late_list() -> None:
    """What its predecessor answered is unknown; a kubelet that starts meanwhile may not have its pods yet."""
    allocations = Allocations(now=0.0)
    assert allocations.known(pod("a")) is None
    allocations.listed({}, began=SETTLE - 1)
    assert allocations.known(pod("a")) is None
    allocations.registered(now=30.0)
    allocations.listed({}, began=SETTLE + 1)
    assert not allocations.due(now=SETTLE + 29)
    assert allocations.known(pod("a")) is None
    assert allocations.due(now=SETTLE + 30)
    allocations.listed({("default", "b"): frozenset({ONE})}, began=SETTLE + 30)
    assert allocations.known(pod("a")) == ()
    assert allocations.known(pod("b")) is None
    assert not allocations.due(now=1e9)


def test_a_kubelet_that_restarts_under_a_settled_process_unsettles_nothing() -> None:
    """All its Allocates were answered by this process."""
    allocations = settled()
    allocations.registered(now=2000.0)
    assert allocations.known(pod("a")) == ()


def test_an_allocate_whose_pod_never_came_is_closed_by_a_list() -> None:
    """Its pod failed before it had a sandbox; a fresh Allocate is not closed, kubelet may not have stored it yet."""
    allocations = settled()
    allocations.allocated(ONE, now=2000.0)
    allocations.allocated(TWO, now=2050.0)
    assert not allocations.due(now=2000.0 + SETTLE - 1)
    assert allocations.due(now=2000.0 + SETTLE)
    allocations.listed({}, began=2000.0 + SETTLE)
    assert allocations.known(pod("a")) is None
    allocations.listed({}, began=2050.0 + SETTLE)
    assert allocations.known(pod("a")) == ()


def test_an_allocate_whose_pod_waits_is_known_by_name() -> None:
    """A pod may wait an hour for its volume; nobody else is asked about meanwhile."""
    allocations = settled()
    allocations.allocated(ONE, now=2000.0)
    allocations.listed({("default", "slow"): frozenset({ONE})}, began=2000.0 + SETTLE)
    assert allocations.known(pod("a")) == ()
    assert allocations.known(pod("slow")) is None
    allocations.claim(pod("slow"), (ONE,))
    assert allocations.known(pod("slow")) == (ONE,)
