"""Where cards come from."""

from dataclasses import replace
from ipaddress import IPv4Network

from eniallocator.cloud.api import VSwitch
from eniallocator.vswitches import BENCH_SECONDS, VSwitches
from eniway.model import VSwitchId

ONE, TWO, FAR = (VSwitchId(f"vsw-{name}") for name in ("one", "two", "far"))


def read(one: int = 100, two: int = 100) -> list[VSwitch]:
    return [
        VSwitch(TWO, "zone-a", IPv4Network("10.0.32.0/20"), two),
        VSwitch(ONE, "zone-a", IPv4Network("10.0.16.0/20"), one),
        VSwitch(FAR, "zone-b", IPv4Network("10.0.48.0/20"), 100),
    ]


def vswitches(one: int = 100, two: int = 100) -> VSwitches:
    made = VSwitches([FAR, ONE, TWO], zone="zone-a")
    assert made.learn(read(one, two), now=0.0) == ()
    return made


def test_the_first_of_the_nodes_zone_is_taken() -> None:
    """In the order of the configuration; those of other zones are passed over."""
    assert vswitches().choose(0.0) == ONE


def test_one_that_the_cloud_does_not_know_is_told() -> None:
    """A mistake in the configuration, or another VPC's."""
    assert VSwitches([VSwitchId("vsw-typo"), ONE], zone="zone-a").learn(read(), now=0.0) == ("vsw-typo",)


def test_a_refused_batch_makes_scarce_and_a_refused_one_makes_empty() -> None:
    """First one at a time, then the next vSwitch."""
    made = vswitches()
    made.too_few(ONE, asked=10, now=0.0)
    assert (made.choose(0.0), made.scarce(), made.empty(0.0)) == (ONE, frozenset({ONE}), frozenset())
    made.too_few(ONE, asked=1, now=0.0)
    assert (made.choose(0.0), made.empty(0.0)) == (TWO, frozenset({ONE}))


def test_the_bench_ends_by_time_or_by_news() -> None:
    """After ten minutes it is tried again; a reading that shows addresses ends it at once, one of none does not."""
    made = vswitches()
    made.too_few(ONE, asked=1, now=0.0)
    assert made.choose(BENCH_SECONDS - 1) == TWO
    assert made.choose(BENCH_SECONDS + 1) == ONE
    made.learn(read(one=0), now=1.0)
    assert made.choose(2.0) == TWO
    made.learn(read(one=7), now=3.0)
    assert (made.choose(3.0), made.scarce()) == (ONE, frozenset())


def test_one_that_is_read_empty_is_not_asked() -> None:
    """The failing call is spared."""
    made = vswitches(one=0)
    assert made.choose(0.0) == TWO
    assert vswitches(one=0, two=0).choose(0.0) is None


def test_one_that_is_not_drawn_on_may_be_empty() -> None:
    """Another zone's, or somebody else's in the VPC: nobody asks it again and again."""
    made = vswitches()
    made.learn(
        [replace(vswitch, available=0) for vswitch in read() if vswitch.vswitch_id == FAR]
        + [VSwitch(VSwitchId("vsw-other"), "zone-a", IPv4Network("10.0.64.0/20"), 0), *read()[:2]],
        now=0.0,
    )
    assert made.empty(0.0) == frozenset()


def test_stock_is_what_can_be_drawn_on() -> None:
    """Not the benched ones', not another zone's."""
    made = vswitches(one=5, two=7)
    assert made.stock(0.0) == 12
    made.too_few(ONE, asked=1, now=0.0)
    assert made.stock(0.0) == 7
