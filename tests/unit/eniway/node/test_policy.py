"""What other nodes' daemons are told of exclusive pods."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Any, cast

import pytest

from eniway.config import NodeConfig
from eniway.errors import KubeError
from eniway.kube.client import KubeClient
from eniway.model import Kind
from eniway.node.policy import Policies
from networkpolicy.views import PodView
from tests.property.networkpolicy.worlds import lease, pod, view

CONFIG = NodeConfig(cluster="box", vswitches=["vsw-1"], security_groups=["sg-1"], service_cidr="172.21.0.0/20")


class Webhooks:
    """An API server in front of which somebody's webhook answers updates of one pod with ``status``, or not at all."""

    def __init__(self, policies: Policies, *, status: int | None, against: str) -> None:
        self._policies = policies
        self._status = status
        self._against = against
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.tries = 0

    async def request(self, _method: str, path: str, *, body: Mapping[str, Any], content_type: str) -> None:
        """PATCH of a pod."""
        assert content_type
        name = path.rpartition("/")[2]
        if name == self._against:
            self.tries += 1
            if self._status is None:
                await asyncio.Event().wait()
            raise KubeError("denied", status=self._status)
        self.told.put_nowait(name)
        assert body["metadata"]["annotations"]


@pytest.mark.parametrize("status", [403, 422, 500, None])
async def test_a_pod_whose_annotation_is_refused_holds_up_no_other(status: int | None) -> None:
    """Whatever the answer, and where none comes; however many events of it there are, it is tried as one."""
    made = [pod("x", n, uid=n, labels={}, spec={}, phase="Running", ips=["10.0.0.1"]) for n in ("bad", "good", "late")]
    leases = [lease(each, f"10.0.0.{n}", kind=Kind.EXCLUSIVE, service=f"10.0.1.{n}") for n, each in enumerate(made, 1)]
    client = cast("KubeClient", None)
    with Policies(client, config=CONFIG, leases=lambda: leases, tell=lambda _: None, random=Random(1)) as policies:
        hooks = Webhooks(policies, status=status, against="bad")
        policies._client = cast("KubeClient", hooks)
        for each in made:
            policies.model.put_pod(view(PodView, each))

        async def write() -> None:
            async with asyncio.TaskGroup() as group:
                await policies._write(group)

        writing = asyncio.create_task(write())
        async with asyncio.timeout(20):
            for name in ("bad", "good"):
                policies._seen("x", name)
            assert await hooks.told.get() == "good"
            tries = hooks.tries
            for _ in range(100):
                policies._seen("x", "bad")
            policies._seen("x", "late")
            assert await hooks.told.get() == "late"
            assert 1 <= hooks.tries <= tries + 1
        writing.cancel()
        await asyncio.wait([writing])
