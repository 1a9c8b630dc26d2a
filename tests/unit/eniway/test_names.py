import pytest
from hypothesis import given
from hypothesis import strategies as st

from eniway import names
from eniway.errors import InvariantBroken
from eniway.model import ContainerId, LeaseKey

_WORD = st.text(alphabet=st.characters(categories=("Ll", "Nd"), include_characters="-_."), min_size=1, max_size=64)
KEYS = st.builds(LeaseKey, network=_WORD, container_id=_WORD.map(ContainerId), ifname=_WORD)


@given(KEYS)
def test_a_host_link_name_fits_the_kernel_and_carries_the_prefix(key: LeaseKey) -> None:
    """IFNAMSIZ is 16 with the terminating zero; kube-proxy knows pods by the prefix."""
    link = names.host_link(key)
    assert len(link) == 15
    assert link.startswith(names.LINK_PREFIX)


@given(KEYS)
def test_an_alias_gives_its_key_back(key: LeaseKey) -> None:
    """The books can be rebuilt from the kernel."""
    assert LeaseKey.from_alias(key.alias) == key


@pytest.mark.parametrize("alias", ["", "uplink", "a/b", "a//c", "a/b/c/d"])
def test_a_foreign_alias_is_no_key(alias: str) -> None:
    """Links of others are left alone."""
    assert LeaseKey.from_alias(alias) is None


@pytest.mark.parametrize("card", ["eth", "ens", "enp", "enx", "eno"])
def test_the_prefix_begins_no_name_of_a_card(card: str) -> None:
    """kube-proxy would take the node's own card for a pod's."""
    assert not card.startswith(names.LINK_PREFIX)


@given(st.integers(min_value=0, max_value=63))
def test_a_device_id_gives_its_slot_back(slot: int) -> None:
    """Kubelet's books and ours speak of the same slot."""
    assert names.slot_of(names.device_id(slot)) == slot


@pytest.mark.parametrize("device", ["eni-0", "eni-slot-", "eni-slot-x", "gpu-slot-1", ""])
def test_a_foreign_device_is_refused(device: str) -> None:
    """An id that is not ours names no slot."""
    with pytest.raises(ValueError, match="expected eni-slot-N"):
        names.slot_of(device)


@pytest.mark.parametrize("slot", [-1, 0, 32, 33, 63])
def test_a_slot_without_a_mark_gets_none(slot: int) -> None:
    """Cut to the mask it would be another slot's, or that of every unmarked packet."""
    with pytest.raises(InvariantBroken, match=f"slot {slot} has no packet mark"):
        names.eni_mark(slot)


@given(st.integers(min_value=1, max_value=31))
def test_marks_keep_clear_of_kube_proxy(slot: int) -> None:
    """Bits 14 and 15 are kube-proxy's, and all slots fit the mask."""
    assert names.eni_mark(slot) & ~names.MARK_MASK == 0
    assert names.MARK_MASK & 0xC000 == 0
