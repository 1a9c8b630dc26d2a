"""What the components of a cluster are told in files (pure). Values that are not the default have a reason here.

Sources: kubelet.config.k8s.io/v1beta1, kubeproxy.config.k8s.io/v1alpha1, containerd's config versions 3 and 2.
"""

import base64
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import yaml

from vpcbox.cluster.certs import KeyPair
from vpcbox.cluster.images import PAUSE

API_PORT = 6443
SERVICE_CIDR = IPv4Network("172.21.0.0/20")
CLUSTER_CIDR = IPv4Network("172.20.0.0/16")
NODE_MASK = 24
# Pod links of eniway: what comes in by one of them is a local pod's traffic to kube-proxy
POD_LINK_PREFIX = "eniw"
CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
# Service accounts of the pod network, whose requests the API server writes down
AUDITED = ("eniway-node", "eniway-operator", "eniway-extender")
CNI_BIN = Path("/opt/cni/bin")
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")  # what a distribution's package puts there


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine allows, as far as it changes a component's settings."""

    may_lower_oom_score: bool  # CAP_SYS_RESOURCE: else runc dies of «can't get final child's PID from pipe: EOF»
    snapshotter: str  # overlayfs, or native where overlayfs does not stack
    containerd: int = 2  # its major version


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node's components are told of the instance they run on."""

    name: str
    instance_id: str
    instance_type: str
    address: IPv4Address
    region: str
    zone: str
    cgroup: str  # absolute within every hierarchy: /vpcbox-ab12/node-1


def inotify_instances(nodes: int) -> int:
    """How many inotify instances a cluster takes, counted: kubelet 6, containerd 2, kube-proxy 1, pod network 2."""
    return 8 + 11 * nodes


def first_service_address() -> IPv4Address:
    """The address of the Service `kubernetes`: the first of the Service CIDR."""
    return SERVICE_CIDR.network_address + 1


def kubeconfig(server: str, user: str, authority: bytes, pair: KeyPair) -> str:
    """A kubeconfig with everything inline."""

    def inline(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    return _yaml(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "vpcbox", "cluster": {"server": server, "certificate-authority-data": inline(authority)}}
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": inline(pair.certificate),
                        "client-key-data": inline(pair.key),
                    },
                }
            ],
            "contexts": [{"name": "vpcbox", "context": {"cluster": "vpcbox", "user": user}}],
            "current-context": "vpcbox",
        }
    )


def audit_policy() -> str:
    """The API server's audit policy: who asked for what, of the pod network's own accounts alone, without bodies."""
    users = [f"system:serviceaccount:kube-system:{name}" for name in AUDITED]
    return _yaml(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "users": users}, {"level": "None"}],
        }
    )


def kubelet(node: NodeFacts, directory: Path) -> str:
    """Kubelet's configuration; `directory` has its ca.crt, kubelet.crt, kubelet.key and resolv.conf."""
    return _yaml(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "providerID": f"{node.region}.{node.instance_id}",
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(directory / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(directory / "kubelet.crt"),
            "tlsPrivateKeyFile": str(directory / "kubelet.key"),
            # One machine carries all nodes: each has a cgroup of its own, and none reserves from the whole
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": node.cgroup,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "maxPods": 250,
            # The machine's disk is not the node's: a full one must not taint nodes or collect images nobody can pull
            "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%"},
            "imageGCHighThresholdPercent": 100,
            "resolvConf": str(directory / "resolv.conf"),
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
            "serializeImagePulls": False,
            # A device that a plugin has told of is offered to pods with the next status: ten seconds later by default
            "nodeStatusUpdateFrequency": "2s",
            # Alpha in 1.34: without it a test of a crashing pod waits five minutes
            "featureGates": {"KubeletCrashLoopBackOffMax": True},
            "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
        }
    )


def node_labels(node: NodeFacts) -> dict[str, str]:
    """The labels a cloud controller would set and kubelet may set for itself."""
    return {
        "node.kubernetes.io/instance-type": node.instance_type,
        "topology.kubernetes.io/region": node.region,
        "topology.kubernetes.io/zone": node.zone,
    }


def kube_proxy(node: NodeFacts, kubeconfig_file: Path, *, mode: str) -> str:
    """kube-proxy's configuration: `mode` is iptables or nftables; local pods are known by the name of their link."""
    return _yaml(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig_file)},
            "hostnameOverride": node.name,
            "mode": mode,
            "detectLocalMode": "InterfaceNamePrefix",
            "detectLocal": {"interfaceNamePrefix": POD_LINK_PREFIX},
            # The conntrack limits are the machine's: in a network namespace they cannot be written
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        }
    )


def containerd_major(version: str) -> int:
    """Of what ``containerd --version`` says: its name, repository, version and revision; ValueError without one."""
    found = re.search(r" v?(\d+)\.\d+\.\d+", version)
    if found is None:
        raise ValueError(f"expected a version of containerd, such as 2.1.4, got {version!r}")
    return int(found[1])


def containerd(machine: Machine) -> str:
    """Configure containerd (TOML): 2.x in the format it came with, 1.6 and 1.7 in the one both read."""
    restrict = str(not machine.may_lower_oom_score).lower()
    if machine.containerd < 2:
        return f"""\
version = 2

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = {restrict}

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{machine.snapshotter}"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{CNI_BIN}"
  conf_dir = "/etc/cni/net.d"
"""
    return f"""\
version = 3
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{machine.snapshotter}"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {restrict}

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{CNI_BIN}"]
  conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.transfer.v1.local"]
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/amd64"
    snapshotter = "{machine.snapshotter}"
"""


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False)
