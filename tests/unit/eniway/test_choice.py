"""What exclusive pods choose by annotation: the words, and what the configuration allows."""

import pytest

from eniway.choice import check_allowed, choice_of
from eniway.config import PodsMayChoose
from eniway.errors import BadAnnotation
from eniway.model import NO_CHOICE, Choice, SecurityGroupId, VSwitchId

GROUPS, VSWITCH = "eniway.io/security-groups", "eniway.io/vswitch"
A, B = SecurityGroupId("sg-a"), SecurityGroupId("sg-b")


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ({}, NO_CHOICE),
        ({GROUPS: "sg-a"}, Choice((A,))),
        ({GROUPS: "sg-b,sg-a"}, Choice((A, B))),
        ({GROUPS: " sg-a , sg-b,sg-a "}, Choice((A, B))),
        ({VSWITCH: "vsw-1"}, Choice(vswitch=VSwitchId("vsw-1"))),
        ({GROUPS: "sg-a", VSWITCH: "vsw-1"}, Choice((A,), VSwitchId("vsw-1"))),
    ],
)
def test_equal_choices_are_equal(said: dict[str, str], chosen: Choice) -> None:
    """Order, spaces and repeats do not matter."""
    assert choice_of(said, exclusive=True) == chosen


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({GROUPS: ""}, f"annotation {GROUPS}: expected 1 to 5 ids of security groups with commas between, got ''"),
        ({GROUPS: "sg-a,"}, "got ''"),
        ({GROUPS: "sg-a sg-b"}, "got 'sg-a sg-b'"),
        ({GROUPS: ",".join(f"sg-{number}" for number in range(6))}, "expected 1 to 5 ids .*, got 6"),
        ({VSWITCH: "vsw-1,vsw-2"}, f"annotation {VSWITCH}: expected the id of a vSwitch, got 'vsw-1,vsw-2'"),
        ({VSWITCH: "x" * 200}, "expected the id of a vSwitch"),
    ],
)
def test_what_is_no_id_is_refused(said: dict[str, str], says: str) -> None:
    """With the annotation, what was expected and what came."""
    with pytest.raises(BadAnnotation, match=says):
        choice_of(said, exclusive=True)


@pytest.mark.parametrize("said", [{GROUPS: "sg-a"}, {VSWITCH: "vsw-1"}])
def test_a_pod_without_an_eni_of_its_own_chooses_nothing(said: dict[str, str]) -> None:
    """It would share its card, and what it asks for, with others: refused, for it would believe itself guarded."""
    with pytest.raises(BadAnnotation, match=f"{next(iter(said))}: expected on a pod with aliyun/eni in its limits"):
        choice_of(said, exclusive=False)


def test_only_what_the_configuration_lists_can_be_chosen() -> None:
    """Nothing by default; each id counts."""
    both = Choice((A, B), VSwitchId("vsw-1"))
    check_allowed(NO_CHOICE, PodsMayChoose())
    check_allowed(both, PodsMayChoose(security_groups=["sg-b", "sg-a", "sg-c"], vswitches=["vsw-1"]))
    with pytest.raises(BadAnnotation, match=r"pods_may_choose\.security_groups: none\), got sg-a, sg-b"):
        check_allowed(both, PodsMayChoose())
    with pytest.raises(BadAnnotation, match=r"pods_may_choose\.security_groups: sg-b\), got sg-a"):
        check_allowed(both, PodsMayChoose(security_groups=["sg-b"], vswitches=["vsw-1"]))
    with pytest.raises(BadAnnotation, match=r"pods_may_choose\.vswitches: vsw-2\), got vsw-1"):
        check_allowed(both, PodsMayChoose(security_groups=["sg-a", "sg-b"], vswitches=["vsw-2"]))


@pytest.mark.parametrize(
    ("asked", "made_for", "there", "met"),
    [
        (NO_CHOICE, NO_CHOICE, "vsw-1", True),
        (NO_CHOICE, Choice(vswitch=VSwitchId("vsw-1")), "vsw-1", False),
        (NO_CHOICE, Choice((A,)), "vsw-1", False),
        (Choice((A,)), Choice((A,)), "vsw-1", True),
        (Choice((A,)), Choice((A, B)), "vsw-1", False),
        (Choice((A,)), NO_CHOICE, "vsw-1", False),
        (Choice(vswitch=VSwitchId("vsw-1")), NO_CHOICE, "vsw-1", True),
        (Choice(vswitch=VSwitchId("vsw-2")), NO_CHOICE, "vsw-1", False),
        (Choice((A,), VSwitchId("vsw-1")), Choice((A,)), "vsw-1", True),
        (Choice((A,)), Choice((A,), VSwitchId("vsw-1")), "vsw-1", False),
    ],
)
def test_an_eni_will_do_only_if_it_is_what_was_chosen(asked: Choice, made_for: Choice, there: str, met: bool) -> None:
    """Neither more groups nor fewer; one of the node's own that happens to be in the vSwitch will do."""
    assert asked.met_by(made_for, VSwitchId(there)) is met
