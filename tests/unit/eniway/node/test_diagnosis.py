"""What differences are called, and which of them the daemon may mend."""

from dataclasses import replace
from pathlib import Path

import pytest

from eniway.model import Kind
from eniway.node.diagnosis import ENTRIES, Mend, Name, Party, diagnose, lasting
from tests.unit.eniway.node import sound
from tests.unit.eniway.node.sound import HARMS, Harm

ROOT = Path(__file__).parents[4]
ONE_OF_EACH = sound.sound(list(Kind))


def test_where_all_agree_there_is_nothing_to_say() -> None:
    """With a pod of each kind, free addresses and an idle card."""
    assert ONE_OF_EACH.diagnosis() == ()


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_each_harm_has_its_name_and_no_other(harm: Harm) -> None:
    """And says whom it was seen by."""
    after, named = harm(ONE_OF_EACH)
    assert set(after.named()) == named
    assert all(one.said for one in after.diagnosis())


def test_all_names_are_explained_as_in_the_documentation() -> None:
    """With what --fix does, or what a person does."""
    assert list(ENTRIES) == list(Name)
    rows = [
        f"| `{name}` | {entry.means} | {'`--fix` ' if entry.mend else ''}{entry.remedy} |"
        for name, entry in ENTRIES.items()
    ]
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert "\n".join(rows) in text


def test_only_what_is_ours_and_safe_is_mended() -> None:
    """A pod's own address, kubelet's devices and files of others are for a person."""
    by_hand = {name for name, entry in ENTRIES.items() if entry.mend is None}
    assert {Name.POD_CUT_OFF, Name.SLOT_DIFFERS, Name.OTHER_NETWORK_FIRST, Name.LOCAL_PODS, Name.LEASE_LOST} <= by_hand
    assert ENTRIES[Name.STRAY_LINK].mend is Mend.SWEEP
    assert ENTRIES[Name.ADDRESS_GONE].mend is Mend.CLOUD


def test_a_card_that_is_gone_takes_its_pods_along() -> None:
    """The card is one difference, each pod that is cut off another."""
    world = sound.sound([Kind.SHARED, Kind.ROUTED, Kind.SHARED])
    named = [
        (Name.CARD_GONE, "eni-1"),
        *((Name.POD_CUT_OFF, f"default/pod-{number}") for number in (1, 3)),
    ]
    assert set(sound.gone_card(world).named()) == set(named)
    assert set(sound.detached(world).named()) >= {named[0]}


def test_a_card_that_came_back_is_said_so() -> None:
    """Its pods are reached again."""
    assert sound.lost_card(ONE_OF_EACH).named() == [(Name.CARD_BACK, "eni-1")]


def test_what_moved_while_the_cloud_was_asked_is_not_compared() -> None:
    """The answer may be older than the ledger."""
    for harm in (sound.free_address_removed, sound.pods_address_removed, sound.address_added):
        after, _ = harm(ONE_OF_EACH)
        assert sound.moved_meanwhile(after, "card-1").named() == []


def test_an_exclusive_pods_way_to_services_is_compared_too() -> None:
    """Its second address is one of the primary card."""
    (held,) = (one for one in ONE_OF_EACH.ledger.leases if one.kind is Kind.EXCLUSIVE)
    attached = tuple(
        replace(one, secondary=tuple(address for address in one.secondary if address != held.service_address))
        for one in ONE_OF_EACH.cloud.attached
    )
    world = replace(ONE_OF_EACH, cloud=replace(ONE_OF_EACH.cloud, attached=attached))
    (one,) = world.diagnosis()
    assert (one.name, one.of) == (Name.POD_CUT_OFF, str(held.pod))
    assert dict(one.said)[Party.CLOUD] == f"eni-0 has no {held.service_address}"


def test_after_a_lost_ledger_links_without_lease_are_left_alone() -> None:
    """They may be running pods'."""
    world = replace(ONE_OF_EACH, trusted=False)
    after, _ = sound.link_left(world)
    (one,) = after.diagnosis()
    assert (one.name, one.entry.mend) == (Name.LEASE_LOST, None)


def test_kube_proxy_that_cannot_be_asked_is_no_difference() -> None:
    """There may be none."""
    assert replace(ONE_OF_EACH, host=replace(ONE_OF_EACH.host, kube_proxy=None)).named() == []


def test_a_difference_of_a_moment_does_not_last() -> None:
    """Only what both looks show does, in the words of the second."""
    first, _ = sound.chains_gone(ONE_OF_EACH)
    second, _ = sound.link_left(first)
    assert [one.name for one in lasting(first.diagnosis(), second.diagnosis())] == [Name.NODE_NETWORK]


def test_an_answer_without_our_own_card_is_not_believed() -> None:
    """Or all pods would be cut off by it."""
    nothing = replace(ONE_OF_EACH.cloud, attached=(), tagged=())
    assert diagnose(ONE_OF_EACH.ledger, None, None, nothing) == ()
