"""What other nodes' daemons are told of exclusive pods."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ipaddress import IPv4Address
from random import Random
from typing import Any, cast

import pytest

from eniway.config import NodeConfig
from eniway.errors import KubeError
from eniway.kube.client import KubeClient
from eniway.model import Kind, Lease
from eniway.node.policy import Policies
from networkpolicy.enforcer import Enforcer
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


def policies_of(client: KubeClient, leases: list[Lease], recovered: asyncio.Event | None = None) -> Policies:
    """Of a node with these leases."""

    async def known() -> None:
        if recovered is not None:
            await recovered.wait()

    return Policies(
        client, config=CONFIG, leases=lambda: list(leases), recovered=known, tell=lambda _: None, random=Random(1)
    )


class Told:
    """In the enforcer's place: what it is told."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[list[Lease]] = asyncio.Queue()
        self.settled: list[list[Lease]] = []

    async def refuses_samples(self) -> bool:
        return False

    async def without_six(self) -> bool:
        return False

    def start(self, leases: list[Lease], *, nodes: object) -> None:
        assert nodes
        self.started.put_nowait(leases)

    def settle(self, leases: list[Lease]) -> None:
        self.settled.append(leases)

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()


async def test_until_lost_books_know_their_leases_again_nothing_of_a_running_pod_is_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The enforcer takes what no lease names for nobody's, so it begins with all of them, and with none before."""
    monkeypatch.setattr("networkpolicy.feed.watches", lambda *_args, **_kwargs: ())
    recovered, leases = asyncio.Event(), list[Lease]()
    with policies_of(cast("KubeClient", None), leases, recovered) as policies:
        policies.enforcer.close()
        told = Told()
        policies.enforcer = cast("Enforcer", told)
        policies.model.sampled = False
        running = asyncio.create_task(policies.run(node=IPv4Address("10.0.0.250")))
        for _ in range(100):
            policies.look_again()
            await asyncio.sleep(0)
        assert told.started.empty()
        assert not told.settled
        made = pod("x", "a", uid="a", labels={}, spec={}, phase="Running", ips=["10.0.0.1"])
        leases.append(lease(made, "10.0.0.1"))
        recovered.set()
        async with asyncio.timeout(10):
            assert await told.started.get() == leases
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("status", [403, 422, 500, None])
async def test_a_pod_whose_annotation_is_refused_holds_up_no_other(status: int | None) -> None:
    """Whatever the answer, and where none comes; however many events of it there are, it is tried as one."""
    made = [pod("x", n, uid=n, labels={}, spec={}, phase="Running", ips=["10.0.0.1"]) for n in ("bad", "good", "late")]
    leases = [lease(each, f"10.0.0.{n}", kind=Kind.EXCLUSIVE, service=f"10.0.1.{n}") for n, each in enumerate(made, 1)]
    client = cast("KubeClient", None)
    with policies_of(client, leases) as policies:
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
