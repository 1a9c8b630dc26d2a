"""The laws of what components are told."""

import base64
import re
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml

from vpcbox.cluster import certs, commands, config, files
from vpcbox.cluster.images import PAUSE

NODE = config.NodeFacts(
    name="node-1",
    instance_id="i-abc",
    instance_type="ecs.g7.xlarge",
    address=IPv4Address("10.0.0.7"),
    region="cn-box",
    zone="cn-box-a",
    cgroup="/vpcbox-ab12/node-1",
)
MACHINE = config.Machine(may_lower_oom_score=True, snapshotter="overlayfs")
CONTROL = Path("/box/control/kubernetes")
DIRECTORY = Path("/box/nodes/node-1/kubernetes")
CA = certs.authority("ca", now=datetime(2026, 1, 1, tzinfo=UTC))


def test_every_file_the_control_plane_is_told_of_is_written() -> None:
    """No command line of the control plane names a file that nobody makes."""
    written = files.control_plane(CA, NODE.address)
    lines = [
        *commands.kube_apiserver(CONTROL, NODE.address),
        *commands.kube_controller_manager(CONTROL),
        *commands.kube_scheduler(CONTROL),
    ]
    assert _named(CONTROL, *lines) - {"audit.log"} <= set(written)


def test_every_file_a_node_is_told_of_is_written() -> None:
    """Neither a command line nor a configuration of a node names a file that nobody makes."""
    written = files.node(CA, NODE, MACHINE, server="https://10.0.0.4:6443", directory=DIRECTORY)
    lines = [*commands.containerd(DIRECTORY), *commands.kubelet(NODE, DIRECTORY), *commands.kube_proxy(DIRECTORY)]
    configurations = [written[name].decode() for name in ("kubelet.yaml", "kube-proxy.yaml", "containerd.toml")]
    assert _named(DIRECTORY, *lines, *configurations) <= set(written)


def test_a_kubeconfig_carries_the_user_and_the_authority() -> None:
    """It needs no other file: server, authority, certificate and key stand in it."""
    pair = CA.issue("someone")
    read = yaml.safe_load(config.kubeconfig("https://127.0.0.1:1234", "someone", CA.pair.certificate, pair))
    (cluster,), (user,), (context,) = read["clusters"], read["users"], read["contexts"]
    assert cluster["cluster"]["server"] == "https://127.0.0.1:1234"
    assert base64.b64decode(cluster["cluster"]["certificate-authority-data"]) == CA.pair.certificate
    assert base64.b64decode(user["user"]["client-certificate-data"]) == pair.certificate
    assert base64.b64decode(user["user"]["client-key-data"]) == pair.key
    assert context["name"] == read["current-context"]
    assert context["context"] == {"cluster": cluster["name"], "user": user["name"]}


def test_kubelet_keeps_to_the_cgroup_of_its_node() -> None:
    """Two nodes on one machine must not account for each other's pods."""
    read = yaml.safe_load(config.kubelet(NODE, DIRECTORY))
    assert read["cgroupRoot"] == "/vpcbox-ab12/node-1"
    assert read["enforceNodeAllocatable"] == []


def test_the_provider_id_has_the_form_of_alibaba_cloud() -> None:
    """<region>.<instance id>, as its cloud controller writes it."""
    assert yaml.safe_load(config.kubelet(NODE, DIRECTORY))["providerID"] == "cn-box.i-abc"


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_kube_proxy_knows_local_pods_by_their_link(mode: str) -> None:
    """Pod addresses are the VPC's: no CIDR tells a local pod from a remote one."""
    read = yaml.safe_load(config.kube_proxy(NODE, DIRECTORY / "kube-proxy.conf", mode=mode))
    assert read["mode"] == mode
    assert read["detectLocalMode"] == "InterfaceNamePrefix"
    assert read["detectLocal"] == {"interfaceNamePrefix": "eniw"}
    assert "clusterCIDR" not in read


@pytest.mark.parametrize("may", [True, False])
@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_containerd_is_told_what_the_machine_allows(may: bool, snapshotter: str) -> None:
    """OOM scores are lowered where that is permitted; images are unpacked where containers look for them."""
    machine = config.Machine(may_lower_oom_score=may, snapshotter=snapshotter)
    read = tomllib.loads(config.containerd(machine))
    assert read["plugins"]["io.containerd.cri.v1.runtime"]["restrict_oom_score_adj"] is not may
    assert read["plugins"]["io.containerd.cri.v1.images"]["snapshotter"] == snapshotter
    assert f"--snapshotter={snapshotter}" in commands.import_image(Path("/image.tar"), machine)


def test_an_older_containerd_is_told_the_same_in_its_own_words() -> None:
    """1.6 reads no configuration of version 3, and its ctr knows fewer options."""
    older = replace(MACHINE, containerd=1)
    read = tomllib.loads(config.containerd(older))
    cri = read["plugins"]["io.containerd.grpc.v1.cri"]
    assert (read["version"], cri["sandbox_image"], cri["restrict_oom_score_adj"]) == (2, PAUSE, False)
    assert (cri["containerd"]["snapshotter"], cri["cni"]["bin_dir"]) == ("overlayfs", "/opt/cni/bin")
    assert commands.import_image(Path("/image.tar"), older)[3:] == ["import", "--snapshotter=overlayfs", "/image.tar"]


@pytest.mark.parametrize(
    ("said", "major"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", 1),
        ("containerd github.com/containerd/containerd/v2 v2.1.4 ", 2),
    ],
)
def test_containerd_says_its_version(said: str, major: int) -> None:
    """As Debian builds it, and as it is built here."""
    assert config.containerd_major(said) == major


def test_the_networks_of_a_cluster_do_not_overlap() -> None:
    """Services, routed pods and the VPC are three networks."""
    vpc = IPv4Network("10.0.0.0/16")
    networks = [config.SERVICE_CIDR, config.CLUSTER_CIDR, vpc]
    assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)
    assert str(config.first_service_address()) == "172.21.0.1"


def _named(folder: Path, *texts: str) -> set[str]:
    """The files directly in `folder` that the texts name, but for etcd's own data."""
    return {match for text in texts for match in re.findall(rf"{re.escape(str(folder))}/([\w.-]+)", text)}
