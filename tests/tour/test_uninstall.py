"""eniway leaves nodes: refused while pods have their network from it, and then nothing of it is left.

As docs/install.md says it, once on a node by hand, without a key of the cloud, and once by the DaemonSet, everywhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from demo.box import Box, Instance
from demo.cloud import enis
from eniway import names
from tests.box import hold

ENIWAY = Path(sys.executable).with_name("eniway")
"""The machine's root is in a node's, too."""
PAGE = Path(__file__).parents[2] / "docs" / "install.md"
DAEMON_SET = "daemonset/eniway-node"
NAMESPACE = "--namespace=kube-system"
PODS = ("holds-shared", "holds-card", "holds-routed")


def by_hand(box: Box, node: str) -> tuple[int, str]:
    """Exit status and words of `eniway uninstall` on a node."""
    config = box.state / "install" / "config.yaml"
    argv = box.argv("sh", node, "--", str(ENIWAY), "uninstall", f"--config={config}")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def left_in_kernel(node: Instance) -> list[str]:
    """Links, routes, rules, chains and sets of ours in a node's namespace."""

    def lines(*argv: str) -> list[str]:
        entered = ["nsenter", f"--net={node.netns}", *argv]
        return subprocess.run(entered, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()

    return [
        *(line for line in lines("ip", "-o", "link") if names.LINK_PREFIX in line or names.IFB_PREFIX in line),
        *lines("ip", "-4", "route", "show", "table", "all", "proto", str(names.ROUTE_PROTOCOL)),
        *(line for line in lines("ip", "-N", "-d", "rule") if f"proto {names.ROUTE_PROTOCOL}" in line),
        *(line for line in lines("iptables-save") if "ENIWAY" in line),
        *(line for line in lines("ipset", "list", "-n") if line.startswith("eniway")),
        *lines("ip", "-4", "neigh", "show", "nud", "permanent"),
    ]


def left_on_disk(node: Instance) -> set[str]:
    """Files of ours on a node."""
    at = Path(f"/proc/{node.pid}/root")
    places: tuple[str, ...] = ("var/lib/eniway/*", "etc/cni/net.d/*eniway*", "opt/cni/bin/eniway", "run/eniway/*")
    places += ("var/lib/kubelet/device-plugins/eniway*", "etc/systemd/**/*eniway*", "etc/NetworkManager/**/*eniway*")
    return {str(path.relative_to(at)) for place in places for path in at.glob(place)}


def left_in_cloud(box: Box, node: Instance) -> list[str]:
    """ENIs and addresses of an instance beyond its primary ones, and whatever carries its tag."""
    tag = (names.TAG_INSTANCE, node.instance_id)
    found = [eni for eni in enis(box.status().openapi) if eni.instance_id == node.instance_id or tag in eni.tags]
    return [f"{eni.id} {eni.status} {sorted(map(str, eni.secondary))}" for eni in found if eni.type != "Primary"] + [
        f"{address} of {eni.id}" for eni in found if eni.type == "Primary" for address in eni.secondary
    ]


def test_a_node_is_cleaned_once_its_pods_are_gone(box: Box, kubectl_of: Callable[[Box], Callable[..., str]]) -> None:
    """Refused beside a daemon and pods; it says what remains, for a foreign rule or without a key; then all goes."""
    kube, kubectl = hold.kube_of(box), kubectl_of(box)
    hold.clear(kube)
    hold.await_daemons(kube, len(box.status().nodes))
    hold.agree(box)
    nodes, install = box.status().nodes, str(box.state / "install")
    last = nodes[-1]
    hold.start(
        kube,
        [
            hold.pod(PODS[0], node=last.name, annotations={"kubernetes.io/egress-bandwidth": "100M"}),
            hold.pod(PODS[1], node=last.name, exclusive=True),
            hold.pod(PODS[2], node=last.name, annotations={"eniway.io/network": "routed"}),
        ],
    )
    try:
        status, said = by_hand(box, last.name)
        assert (status, "has to end first" in said) == (1, True), said

        kubectl("delete", "--kustomize", install)
        kube.until(hold.SYSTEM_PODS, lambda pods: None if pods else True, seconds=60, selector=hold.DAEMON)
        status, said = by_hand(box, last.name)
        assert (status, [name for name in PODS if f"{hold.HOLD}/{name}" not in said]) == (4, []), said
        for name in PODS:
            assert kube.ask_pod(hold.HOLD, name, 8080, "hostname").decode() == name

        hold.clear(kube)
        foreign = ("INPUT", "-m", "set", "--match-set", names.IPSET_PODS, "src", "-j", "RETURN")
        box.sh(last.name, ["iptables", "-A", *foreign])
        status, said = by_hand(box, last.name)
        assert (status, f"remains: ipset {names.IPSET_PODS}: a rule that is not ours" in said) == (1, True), said
        assert left_in_kernel(last) == [names.IPSET_PODS]

        box.sh(last.name, ["iptables", "-D", *foreign])
        status, said = by_hand(box, last.name)
        assert (status, "remains" in said, "NoAccessKey" in said) == (3, True, True), said
        assert left_in_kernel(last) == []
        assert left_in_cloud(box, last)
        assert "var/lib/eniway/ledger.db" in left_on_disk(last)

        kubectl("apply", "--server-side", "--kustomize", install)
        (patch,) = re.findall(r"patch daemonset eniway-node --type=json \\\n  -p '(.*)'\n", PAGE.read_text())
        kubectl("patch", DAEMON_SET, NAMESPACE, "--type=json", "--patch", patch)
        kubectl("rollout", "status", DAEMON_SET, NAMESPACE, "--timeout=400s")
        for node in nodes:
            assert left_in_kernel(node) == []
            assert left_in_cloud(box, node) == []
            assert left_on_disk(node) == set()
        status, said = by_hand(box, last.name)
        assert (status, "remains" in said) == (3, True), said  # nothing, but without a key nobody can tell
    finally:
        kubectl("apply", "--server-side", "--force-conflicts", "--kustomize", install)
        kubectl("rollout", "status", DAEMON_SET, NAMESPACE, "--timeout=400s")
    kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s")
    hold.start(kube, [hold.pod("after", node=last.name)])
    hold.clear(kube)
    hold.agree(box)
