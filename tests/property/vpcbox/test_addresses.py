"""Laws of a vSwitch's addresses."""

import random
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpcbox.world.addresses import AddressBook, gateway
from vpcbox.world.errors import Refused

cidrs = st.builds(
    lambda number, length: IPv4Network((number >> (32 - length) << (32 - length), length)),
    st.integers(0, 2**32 - 1),
    st.integers(22, 29),
)


@given(cidrs, st.integers())
def test_all_but_four_addresses_can_be_had_once_each(cidr: IPv4Network, seed: int) -> None:
    """Taken to the last, they are the subnet less its first and last three; then there is none."""
    book = AddressBook(cidr)
    taken = book.claim_any(book.available, "eni-1", random.Random(seed))
    everything = list(cidr)
    assert sorted(taken) == everything[1:-3]
    assert book.available == 0
    assert gateway(cidr) == everything[-3]
    assert gateway(cidr) not in taken


@given(cidrs, st.integers(), st.data())
def test_what_is_claimed_is_held_and_what_is_released_is_free(
    cidr: IPv4Network, seed: int, data: st.DataObject
) -> None:
    """Claims and releases in any order: holder and count always agree with a plain dictionary."""
    book, rng = AddressBook(cidr), random.Random(seed)
    size = book.available
    held: dict[IPv4Address, str] = {}
    for step in range(data.draw(st.integers(1, 12))):
        owner = f"eni-{step}"
        if held != {} and data.draw(st.booleans()):
            address = data.draw(st.sampled_from(sorted(held)))
            book.release(address)
            del held[address]
        elif data.draw(st.booleans()):
            count = data.draw(st.integers(0, min(5, book.available)))
            new = book.claim_any(count, owner, rng)
            assert len(set(new)) == count
            assert held.keys().isdisjoint(new)
            held.update(dict.fromkeys(new, owner))
        else:
            address = data.draw(st.sampled_from(list(cidr)))
            if address in held or address not in list(cidr)[1:-3]:
                with pytest.raises(Refused):
                    book.claim(address, owner)
            else:
                book.claim(address, owner)
                held[address] = owner
        assert book.available == size - len(held)
        assert all(book.holder(address) == held.get(address) for address in cidr)
