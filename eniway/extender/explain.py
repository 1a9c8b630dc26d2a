"""``eniway explain POD``: why a pod is Pending, node by node."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from random import Random

import msgspec

from eniway.errors import InvalidRequest, KubeError
from eniway.extender.feed import Feed
from eniway.kube.client import KubeClient, from_kubeconfig
from eniway.kube.reflector import Reflector
from eniway.kube.views import Node
from scheduler_extender.explain import explain, table
from scheduler_extender.index import CapacityIndex
from scheduler_extender.pods import Pod

_NOT_FOUND = 404


async def _tell(namespace: str, name: str, kubeconfig: Path | None) -> None:
    index = CapacityIndex()
    random = Random()  # noqa: S311 -- spreads retries
    async with KubeClient(await from_kubeconfig(kubeconfig)) as client:
        try:
            pod = msgspec.json.decode(await client.read(f"/api/v1/namespaces/{namespace}/pods/{name}"), type=Pod)
        except KubeError as error:
            if error.status != _NOT_FOUND:
                raise
            raise InvalidRequest(f"there is no pod {namespace}/{name}") from error
        feed = Feed(client, index, settled=lambda _uids: None, clock=time.time, random=random)
        nodes = Reflector(client, "/api/v1/nodes", Node, random=random)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(feed.run()), group.create_task(nodes.run())]
            await feed.synced()
            await nodes.synced()
            for task in tasks:
                task.cancel()
    what, lines = explain(index, pod, nodes.items)
    where = f"is bound to {pod.spec.node_name}" if pod.spec.node_name else "is not bound"
    sys.stdout.write(f"{namespace}/{name} {where}. It needs {what}.\n")
    for line in table(lines) if lines else ():
        sys.stdout.write(f"{line}\n")


def main(pod: str, kubeconfig: Path | None) -> int:
    """Print what there is to say; ``pod`` is NAME or NAMESPACE/NAME."""
    namespace, _, name = pod.rpartition("/")
    asyncio.run(_tell(namespace or "default", name, kubeconfig))
    return 0
