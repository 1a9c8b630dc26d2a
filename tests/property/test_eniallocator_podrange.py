"""The podCIDR's addresses, by themselves: each is handed out, none twice, the longest unused last."""

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from eniallocator.podrange import PodRange
from eniallocator.records import RoutedAddress

ALL = IPv4Network("172.20.4.0/24")
"""Every address is busy."""
NONE: frozenset[IPv4Address] = frozenset()
networks = st.integers(24, 32).map(lambda length: IPv4Network(f"172.20.4.0/{length}"))


@given(networks)
def test_every_address_is_handed_out_once(cidr: IPv4Network) -> None:
    """But for network and broadcast address, where there are such."""
    pods = PodRange(())
    pods.move(cidr)
    given_out = []
    while (address := pods.pick(ALL.__contains__)) is not None:
        pods.take(RoutedAddress(address))
        given_out.append(address)
    assert given_out == list(cidr.hosts())
    assert pods.size == len(given_out)


@given(st.permutations(range(1, 7)))
def test_those_that_were_used_come_back_in_the_order_in_which_they_rested(order: list[int]) -> None:
    """Also after a restart: the ledger says since when."""
    cidr = IPv4Network("172.20.4.0/29")
    released = [RoutedAddress(cidr[number], released=float(at)) for at, number in enumerate(order)]
    running = PodRange(())
    for record in released:
        running.take(record)
    for pods in (running, PodRange(reversed(released))):
        pods.move(cidr)
        assert [pods.pick(set(cidr).difference({record.address}).__contains__) for record in released] == [
            record.address for record in released
        ]
        assert pods.pick(NONE.__contains__) == released[0].address


@given(st.sets(st.integers(1, 6)), st.sets(st.integers(1, 6)))
def test_nobody_gets_what_a_pod_has_that_no_lease_knows_of(unknown: set[int], later: set[int]) -> None:
    """Until the kernel no longer routes it anywhere."""
    cidr = IPv4Network("172.20.4.0/29")
    pods = PodRange(())
    pods.move(cidr)
    for numbers in (unknown, later, set[int]()):
        pods.unaccounted = frozenset(cidr[number] for number in numbers)
        first = next((number for number in range(1, 7) if number not in numbers), None)
        assert pods.pick(NONE.__contains__) == (None if first is None else cidr[first])
