"""The switch that a person turns."""

from pathlib import Path
from random import Random

import pytest

from eniallocator.clock import SystemClock
from eniallocator.cloud.credentials import KeyFiles
from eniallocator.cloud.ecs import EcsCloud
from eniallocator.cloud.errors import Unreachable, Withheld
from eniallocator.cloud.limiter import Limiter
from eniallocator.cloud.switch import Calls, Switch
from eniway.model import EniId, InstanceId


def test_no_file_is_no_limit(tmp_path: Path) -> None:
    """The ConfigMap is optional."""
    switch = Switch(tmp_path / "cloud-calls")
    assert not switch.look()
    assert not switch.forbids("DeleteNetworkInterface")


def test_the_file_is_followed_both_ways(tmp_path: Path) -> None:
    """Also back, by taking the ConfigMap away."""
    path = tmp_path / "cloud-calls"
    switch = Switch(path)
    path.write_text("none\n")
    assert switch.look()
    assert switch.forbids("DescribeVSwitches")
    path.write_text("no-releases")
    assert switch.look()
    assert (switch.forbids("DescribeVSwitches"), switch.forbids("DetachNetworkInterface")) == (False, True)
    path.unlink()
    assert switch.look()
    assert switch.calls is Calls.ALL


def test_a_word_that_is_not_known_changes_nothing(tmp_path: Path) -> None:
    """A slip of the hand in the middle of trouble makes none."""
    path = tmp_path / "cloud-calls"
    switch = Switch(path)
    path.write_text("none")
    switch.look()
    path.write_text("nonne")
    assert not switch.look()
    assert switch.calls is Calls.NONE


async def test_nothing_is_sent_that_is_switched_off(tmp_path: Path) -> None:
    """With nobody listening, what is sent is unreachable and what is not is withheld."""
    for name in ("access_key_id", "access_key_secret"):
        (tmp_path / name).write_text("x")
    switch = Switch(calls=Calls.NO_RELEASES)
    clock = SystemClock()
    cloud = EcsCloud(
        region="cn-box",
        endpoint="http://127.0.0.1:1",
        keys=KeyFiles(tmp_path),
        limiter=Limiter(calls_per_minute=100, clock=clock, random=Random(1)),
        switch=switch,
        clock=clock,
    )
    with pytest.raises(Unreachable):
        await cloud.attach_eni(EniId("eni-1"), InstanceId("i-1"))
    with pytest.raises(Withheld, match="no-releases"):
        await cloud.delete_eni(EniId("eni-1"))
    switch.calls = Calls.NONE
    with pytest.raises(Withheld, match="eniway-switch"):
        await cloud.attach_eni(EniId("eni-1"), InstanceId("i-1"))
    assert cloud.trouble is not None
    assert cloud.trouble.reason == "Withheld"
    cloud.close()
