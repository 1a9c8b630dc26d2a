"""ClientToken: sent twice, done once."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aliyunsdkcore.acs_exception.exceptions import ServerException

from vpcbox.faults import Kind, Rule


async def test_a_lost_answer_can_be_asked_for_again(box: Any) -> None:
    """Create answers 500 after success; the same token then gives the ENI that was made, and no second one."""
    box.faults.add(Rule(Kind.LOST_ANSWER, target="CreateNetworkInterface", count=1))
    with pytest.raises(ServerException) as caught:
        await box.create(ClientToken="t")
    assert (caught.value.get_http_status(), caught.value.get_error_code()) == (500, "InternalError")
    (made,) = [eni.id for eni in box.world.enis.values() if eni.instance_id is None]
    assert await box.create(ClientToken="t") == made
    assert await box.create(ClientToken="T") != made, "tokens are case-sensitive"


async def test_other_parameters_under_the_same_token_are_refused(box: Any) -> None:
    """IdempotentParameterMismatch; a failed request has used no token up."""
    with pytest.raises(ServerException, match=r"InvalidVSwitchId\.NotFound"):
        await box.create(ClientToken="t", VSwitchId="vsw-nobody")
    assert await box.create(ClientToken="t")
    with pytest.raises(ServerException, match="IdempotentParameterMismatch"):
        await box.create(ClientToken="t", Description="another")


async def test_the_same_token_meanwhile_is_refused(box: Any) -> None:
    """LastTokenProcessing while the first request runs; the first is answered all the same."""
    box.world.latency = replace(box.world.latency, create=0.5)
    first = asyncio.create_task(box.create(ClientToken="t"))
    await box.clock.somebody_sleeps()
    with pytest.raises(ServerException, match="LastTokenProcessing"):
        await box.create(ClientToken="t")
    await box.clock.advance(1)
    assert await first == await box.create(ClientToken="t")
