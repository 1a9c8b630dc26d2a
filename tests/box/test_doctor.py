"""`eniway doctor` names what is broken for real, by the right name, and mends what is safe to mend."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from aliyunsdkecs.request.v20140526.UnassignPrivateIpAddressesRequest import UnassignPrivateIpAddressesRequest

from demo import cloud
from demo.box import Box
from demo.kube import Kube
from eniway import names
from eniway.model import ContainerId, LeaseKey
from tests.box import agreement, hold

NODE = "node-1"
STRAY = LeaseKey(names.CNI_NETWORK, ContainerId("nobody"), "eth0")
Found = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture
def kube(box: Box) -> Iterator[Kube]:
    """A node whose daemon does not sweep before it is told to, with its pool at rest."""
    kube = hold.kube_of(box)
    hold.clear(kube)  # the demonstration's pods have the node's only slot
    with hold.configured(kube, NODE, sweep_seconds=3600.0):
        try:
            yield kube
        finally:
            hold.delete(kube, ["shared", "cut-off", "card"])


@pytest.fixture
def doctor(box: Box) -> Callable[..., Found]:
    """From outside: differences by name and what they are of; its exit status has to be ``status``."""

    def run(*words: str, status: int) -> Found:
        kubeconfig = f"--kubeconfig={box.status().kubeconfig}"
        argv = [sys.executable, "-m", "eniway.cli.main", "doctor", NODE, *words, kubeconfig, "--output=json"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == status, f"{done.returncode}: {done.stdout}{done.stderr}"
        (node,) = json.loads(done.stdout)
        assert (node["node"], node["unread"]) == (NODE, [])
        return {(one["difference"], one["of"]): one for one in node["differences"]}

    return run


def unassign(box: Box, eni: str, address: str) -> None:
    """As somebody with the console does."""
    request = UnassignPrivateIpAddressesRequest()
    openapi = box.status().openapi
    scheme, _, endpoint = openapi.endpoint.partition("://")
    request.set_protocol_type(scheme)
    request.set_endpoint(endpoint)
    request.set_NetworkInterfaceId(eni)
    request.set_PrivateIpAddresss([address])
    cloud.client(openapi).do_action_with_exception(request)


def test_what_is_broken_is_named_and_what_can_be_mended_is(
    box: Box, kube: Kube, doctor: Callable[..., Found], kubectl_of: Callable[[Box], Callable[..., str]]
) -> None:
    """A pod's route, a chain, a card's route, a stray link, the relay, addresses gone from the cloud.

    All are back after --fix but for the pod whose own address is gone, which is said to be for a person.
    """
    running = hold.start(
        kube,
        [hold.pod("shared", node=NODE), hold.pod("cut-off", node=NODE), hold.pod("card", node=NODE, exclusive=True)],
    )
    addresses = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in running}
    hold.agree(box)
    assert doctor(status=0) == {}
    leases, cards = agreement.read_ledger(box.state / "nodes" / NODE / "eniway" / "ledger.db")
    of_pod = {lease.address: lease.card for lease in leases}
    card = next(one for one in cards if one.eni_id == of_pod[addresses["cut-off"]])
    assert card.slot is not None
    spare = max(card.secondary - of_pod.keys(), key=IPv4Address)

    unassign(box, str(card.eni_id), spare)
    unassign(box, str(card.eni_id), addresses["cut-off"])
    link = names.host_link(STRAY)
    # Nothing that the kernel tells a listener of, which wakes the daemon's own sweep
    broken = (
        f"ip route del {addresses['shared']}/32 table {names.TABLE_PODS}",
        f"nft delete element ip {names.NFT_TABLE} {names.NFT_SOURCES} '{{ {addresses['shared']} }}'",
        f"ip route del unreachable default table {names.eni_table(card.slot)}",
        f"iptables --table nat --flush {names.CHAIN_PREFIX}SNAT",
        f"ip link add {link} type veth peer name nobody",
        f"ip link set {link} alias {STRAY.alias}",
        "rm /opt/cni/bin/eniway",
    )
    box.sh(NODE, ["sh", "-ec", "; ".join(broken)])

    by_hand = ("pod-cut-off", f"{hold.HOLD}/cut-off")
    named = {
        by_hand,
        ("address-gone", spare),
        ("card-network", card.eni_id),
        ("cni-file", "/opt/cni/bin/eniway"),
        ("node-network", "node"),
        ("pod-network", f"{hold.HOLD}/shared"),
        ("stray-link", link),
    }
    found = doctor(status=3)
    assert found.keys() == named
    assert {key for key, one in found.items() if one["fix"] is None} == {by_hand}
    assert all(one["mended"] is None for one in found.values())
    assert addresses["cut-off"] in found[by_hand]["cloud"]

    # That all of it is found again shows that who only looks changes nothing.
    mended = doctor("--fix", status=3)
    assert {key: one["mended"] for key, one in mended.items()} == {key: key != by_hand for key in named}
    assert doctor(status=3).keys() == {by_hand}
    assert kube.ask_pod(hold.HOLD, "shared", 8080, "hostname") == b"shared"

    hold.delete(kube, ["cut-off"])
    hold.agree(box)
    assert doctor(status=0) == {}
    daemon = hold.daemons(kube)[NODE]["metadata"]["name"]
    inside = kubectl_of(box)("exec", "-n", "kube-system", daemon, "--", "eniway", "doctor")
    assert inside == "", "where all agree there is nothing to say"


def test_a_cloud_that_does_not_answer_is_said_so_and_the_others_are_compared(box: Box) -> None:
    """With the reason, and as no success: whether all agree is not known."""
    hold.agree(box)
    kubeconfig = f"--kubeconfig={box.status().kubeconfig}"
    argv = [sys.executable, "-m", "eniway.cli.main", "doctor", NODE, kubeconfig]
    box.run("fault", "add", "error", "target=DescribeNetworkInterfaces", "status=500", "code=InternalError")
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"eniway doctor: {NODE}: cloud: not compared: DescribeNetworkInterfaces: InternalError" in done.stderr
    finally:
        box.run("fault", "clear")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_another_node_than_asked_for_is_not_examined(box: Box) -> None:
    """One that there is none of is no success."""
    kubeconfig = f"--kubeconfig={box.status().kubeconfig}"
    argv = [sys.executable, "-m", "eniway.cli.main", "doctor", "node-99", kubeconfig]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "eniway doctor: node-99: no daemon\n"
