"""Routed pods in a box: the route is the operator's, the address the daemon's, the packets the VPC's."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from itertools import permutations
from pathlib import Path
from urllib.parse import urlencode

import pytest

from demo import outside
from demo.box import Box
from demo.kube import Kube, Object
from tests.box import hold

ROUTED = {"eniway.io/network": "routed"}
ROOM = 28
"""Shared addresses on a node: two ENIs with fourteen secondary addresses each."""


@pytest.fixture
def kube(box: Box) -> Iterator[Kube]:
    found = hold.kube_of(box)
    hold.clear(found)
    yield found
    hold.clear(found)


@contextmanager
def answering(box: Box) -> Iterator[Callable[[IPv4Address], str]]:
    """The instance that is no node serves; given a pod's address, it asks there who is calling."""
    program = [sys.executable, str(Path(outside.__file__).absolute())]
    with subprocess.Popen(
        box.argv("sh", "outside", "--", *program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert json.loads(running.stdout.readline()) == {"ready": True}
        asked, answers = running.stdin, running.stdout

        def ask(host: IPv4Address) -> str:
            question = {"host": str(host), "port": 8080, "protocol": "http", "request": "clientip"}
            asked.write(json.dumps(question) + "\n")
            asked.flush()
            return client_of(json.loads(answers.readline()))

        yield ask
        asked.close()


def client_of(said: dict[str, list[str]]) -> str:
    """The client's address as a server saw it."""
    assert said.get("responses"), said
    return said["responses"][0].rpartition(":")[0]


def dial(kube: Kube, pod: str, host: IPv4Address, protocol: str) -> str:
    """A pod calls ``host``; its address as that one saw it."""
    port = 8080 if protocol == "http" else 8081
    query = {"host": str(host), "port": port, "protocol": protocol, "request": "clientip", "tries": 1}
    return client_of(json.loads(kube.ask_pod(hold.HOLD, pod, 8080, f"dial?{urlencode(query)}")))


def cidr_of(kube: Kube, node: str) -> IPv4Network:
    """A node's podCIDR."""
    return IPv4Network(kube.get(f"/api/v1/nodes/{node}")["spec"]["podCIDR"])


def address_of(pod: Object) -> IPv4Address:
    return IPv4Address(pod["status"]["podIP"])


def routed_words(kube: Kube, node: str) -> dict[str, int]:
    """What a NodeNetwork says of routed addresses."""
    words: dict[str, int] = kube.get(f"{hold.NODE_NETWORKS}/{node}")["status"]["capacity"]["routed"]
    return words


def test_routed_pods_reach_everybody_with_an_address_of_their_nodes_pod_cidr(box: Box, kube: Kube) -> None:
    """All kinds beside them, on one node and across, and an instance of the VPC that is no node; TCP and UDP."""
    status = box.status()
    first, second = status.nodes[:2]
    pods = [
        *(hold.pod(f"routed-{number}", node=first.name, annotations=ROUTED) for number in range(2)),
        hold.pod("routed-far", node=second.name, annotations=ROUTED),
        hold.pod("shared", node=first.name),
        hold.pod("exclusive", node=first.name, exclusive=True),
        hold.pod("exclusive-far", node=second.name, exclusive=True),
    ]
    running = {pod["metadata"]["name"]: pod for pod in hold.start(kube, pods)}
    addresses = {name: address_of(pod) for name, pod in running.items()}
    for name, pod in running.items():
        assert (addresses[name] in cidr_of(kube, pod["spec"]["nodeName"])) == name.startswith("routed"), name
    for client, server in permutations(addresses, 2):
        if "routed" in client + server:
            for protocol in ("http", "udp"):
                assert dial(kube, client, addresses[server], protocol) == str(addresses[client]), (client, server)
    with answering(box) as ask:
        for name in ("routed-0", "routed-far"):
            assert ask(addresses[name]) == str(status.outside.address)
            assert dial(kube, name, status.outside.address, "http") == str(addresses[name])
    hold.agree(box)


def test_a_routed_pods_flow_outlives_its_daemon(box: Box, kube: Kube) -> None:
    """Killed and started again, with the address kept, and a new pod served from the ledger's podCIDR."""
    node = box.status().nodes[0].name
    (before,) = hold.start(kube, [hold.pod("cron", node=node, annotations=ROUTED)])
    hold.restart(kube, node)
    (after,) = hold.start(kube, [hold.pod("other", node=node, annotations=ROUTED)])
    assert address_of(before) != address_of(after)
    assert dial(kube, "other", address_of(before), "http") == str(address_of(after))
    hold.agree(box)


def test_forty_pods_run_where_there_is_room_for_twenty_eight_shared_ones(box: Box, kube: Kube) -> None:
    """The others are routed, and an Event on each says why."""
    node = box.status().nodes[0].name
    with hold.configured(kube, node, default_network="shared-else-routed"):
        names = [f"many-{number}" for number in range(40)]
        for name in names:
            kube.apply(idle(name, node))
        running = kube.until(hold.PODS, lambda pods: all_running(pods, names), seconds=240)
        cidr = cidr_of(kube, node)
        routed = [pod["metadata"]["name"] for pod in running if address_of(pod) in cidr]
        assert len(routed) == len(names) - ROOM
        assert len({address_of(pod) for pod in running}) == len(names)
        for name in routed:
            assert "for want of a shared address: the 2 shared ENIs of this" in hold.event(kube, name, "RoutedInstead")
        hold.agree(box)
        assert routed_words(kube, node)["used"] == len(routed)
        hold.delete(kube, names)
        kube.until(hold.PODS, lambda pods: None if pods else True, seconds=hold.PATIENCE)
        hold.agree(box)


def idle(name: str, node: str) -> Object:
    """A pod that only is there: forty of them are light."""
    pod = hold.pod(name, node=node)
    (container,) = pod["spec"]["containers"]
    del container["readinessProbe"]
    container["args"] = ["pause"]
    return pod


def all_running(pods: list[Object], names: list[str]) -> list[Object] | None:
    """Those of the names, once all of them run."""
    running = [one for one in pods if one["metadata"]["name"] in names and one["status"].get("phase") == "Running"]
    return running if len(running) == len(names) else None
