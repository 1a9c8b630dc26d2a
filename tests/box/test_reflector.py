"""A copy of a collection of a real API server."""

import asyncio
import json
from random import Random

from eniway.kube.client import KubeClient, from_kubeconfig
from eniway.kube.reflector import Reflector
from eniway.kube.views import Node
from tests.box.apiserver import ApiServer


def nodes(*names: str) -> str:
    items = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in names]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


async def test_a_real_servers_pages_and_events_are_followed(api: ApiServer) -> None:
    """Five nodes in pages of two; then one is added, one changed, one deleted."""

    async def kubectl(*words: str, stdin: str = "") -> None:
        await asyncio.to_thread(api.kubectl, *words, stdin=stdin)

    await kubectl("create", "--filename=-", stdin=nodes(*"abcde"))
    connection = await from_kubeconfig(api.kubeconfig("admin", "system:masters"))
    async with KubeClient(connection) as client, asyncio.timeout(60):
        reflector = Reflector(client, "/api/v1/nodes", Node, random=Random(1), page=2)
        task = asyncio.ensure_future(reflector.run())
        try:
            await reflector.synced()
            assert set(reflector.items) == set("abcde")
            await kubectl("create", "--filename=-", stdin=nodes("f"))
            await kubectl("patch", "node", "b", "--patch", json.dumps({"spec": {"podCIDR": "172.20.1.0/24"}}))
            await kubectl("delete", "node", "a", "--wait=false")
            while set(reflector.items) != set("bcdef") or not reflector.items["b"].spec.pod_cidr:
                await reflector.changed(reflector.generation)
        finally:
            task.cancel()
            await asyncio.wait([task])
            await kubectl("delete", "nodes", "--all", "--wait=false")
