"""Laws of what a doctor says."""

from hypothesis import given
from hypothesis import strategies as st

from eniway.model import Kind
from eniway.node.diagnosis import Difference, Party, diagnose, lasting
from tests.unit.eniway.node.sound import HARMS, Harm, World, sound

APART = (
    # Those that take a different thing each, so that none hides another: the last pod's sandbox, the first pod's route.
    {"sandbox_died", "pod_route_gone", "pod_forgotten", "slot_exchanged"},
    {"free_address_removed", "pods_address_removed", "address_added", "card_added", "foreign_card_added"},
)

worlds = st.lists(st.sampled_from(list(Kind)), min_size=1, max_size=8).map(sound)


@st.composite
def harms(draw: st.DrawFn) -> list[Harm]:
    """Some, at most one of each group in APART."""
    chosen = draw(st.lists(st.sampled_from(HARMS), unique=True, max_size=6))
    groups = [next((number for number, group in enumerate(APART) if harm.__name__ in group), None) for harm in chosen]
    return [
        harm
        for place, (harm, group) in enumerate(zip(chosen, groups, strict=True))
        if group is None or group not in groups[:place]
    ]


def harmed(world: World, done: list[Harm]) -> World:
    for harm in done:
        world, _ = harm(world)
    return world


@given(worlds)
def test_a_sound_node_has_no_differences(world: World) -> None:
    """Whatever pods it has."""
    assert world.diagnosis() == ()


@given(worlds, harms())
def test_several_harms_are_named_as_each_alone_would_be(world: World, done: list[Harm]) -> None:
    """Each once; none hides another or makes one up."""
    expected = set()
    for harm in done:
        expected |= harm(world)[1]
    named = harmed(world, done).named()
    assert set(named) == expected
    assert len(named) == len(expected)


@given(worlds, harms(), st.sets(st.sampled_from([Party.KERNEL, Party.KUBELET, Party.CLOUD])))
def test_who_is_silent_takes_away_what_he_said_and_nothing_else(
    world: World, done: list[Harm], silent: set[Party]
) -> None:
    """A difference is there without him exactly where he has no part in it."""
    world = harmed(world, done)
    heard = diagnose(
        world.ledger,
        None if Party.KERNEL in silent else world.kernel,
        None if Party.KUBELET in silent else world.kubelet,
        None if Party.CLOUD in silent else world.cloud,
        world.host,
        trusted=world.trusted,
    )

    def without(one: Difference) -> bool:
        return not silent & {party for party, _ in one.said}

    # Whether a sandbox stands only the kernel knows: that kubelet lacks a pod is nothing without it.
    expected = [one for one in world.diagnosis() if without(one)]
    if Party.KERNEL in silent:
        expected = [one for one in expected if one.name != "pod-unknown"]
    assert list(heard) == expected


@given(worlds, harms(), harms())
def test_what_lasts_was_seen_twice(world: World, earlier: list[Harm], later: list[Harm]) -> None:
    """And all that was seen twice lasts."""
    first, second = harmed(world, earlier), harmed(world, later)
    lasted = {(one.name, one.of) for one in lasting(first.diagnosis(), second.diagnosis())}
    assert lasted == set(first.named()) & set(second.named())
