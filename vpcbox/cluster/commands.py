"""How the components of a cluster are started: their command lines (pure).

`pki` is the control plane's folder of certificates and kubeconfigs, `directory` a node's; cluster.py fills both.
"""

from ipaddress import IPv4Address
from pathlib import Path

from vpcbox.cluster.config import (
    API_PORT,
    CLUSTER_CIDR,
    NODE_MASK,
    SERVICE_CIDR,
    Machine,
    NodeFacts,
    node_labels,
)

ETCD = "http://127.0.0.1:2379"
ISSUER = "https://kubernetes.default.svc.cluster.local"


def etcd(data: Path) -> list[str]:
    """Start etcd as one short-lived member: nothing waits for the disk."""
    return [
        "etcd",
        "--name=control",
        f"--data-dir={data}",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def kube_apiserver(pki: Path, address: IPv4Address) -> list[str]:
    """The API server, serving on `address`, the control plane's own in the VPC."""
    return [
        "kube-apiserver",
        f"--etcd-servers={ETCD}",
        f"--advertise-address={address}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        # Beta and off in 1.34: pods that take an address ask for it as a resource
        "--feature-gates=MutatingAdmissionPolicy=true",
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={pki / 'service-account.key'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
        # Who the API server is to API servers that extend it; without these the others log errors for ever
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
        # There is no DNS for node names
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={pki / 'audit-policy.yaml'}",
        f"--audit-log-path={pki / 'audit.log'}",
    ]


def kube_controller_manager(pki: Path) -> list[str]:
    """The controller manager, which gives every node its part of the cluster CIDR."""
    return [
        "kube-controller-manager",
        *_clients(pki / "controller-manager.conf"),
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--service-account-private-key-file={pki / 'service-account.key'}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={CLUSTER_CIDR}",
        f"--node-cidr-mask-size={NODE_MASK}",
    ]


def kube_scheduler(pki: Path, settings: Path | None = None) -> list[str]:
    """The scheduler with its default profile, or as a KubeSchedulerConfiguration says."""
    argv = ["kube-scheduler", *_clients(pki / "scheduler.conf"), "--leader-elect=false"]
    return argv if settings is None else [*argv, f"--config={settings}"]


def containerd(directory: Path) -> list[str]:
    """A node's container runtime."""
    return ["containerd", f"--config={directory / 'containerd.toml'}", "--log-level=info"]


def kubelet(node: NodeFacts, directory: Path) -> list[str]:
    """A node's kubelet."""
    labels = ",".join(f"{key}={value}" for key, value in node_labels(node).items())
    return [
        "kubelet",
        f"--config={directory / 'kubelet.yaml'}",
        f"--kubeconfig={directory / 'kubelet.conf'}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        f"--node-labels={labels}",
        "-v=2",
    ]


def kube_proxy(directory: Path) -> list[str]:
    """A node's kube-proxy."""
    return ["kube-proxy", f"--config={directory / 'kube-proxy.yaml'}", "-v=2"]


def import_image(archive: Path, machine: Machine) -> list[str]:
    """Load an image archive into containerd where the kubelet looks for images.

    `--local` unpacks in ctr: half the time of streaming the archive through containerd's transfer service. The layers
    themselves are not kept: a node's /var/lib/containerd is memory. ctr of 1.6 knows neither.
    """
    options = ["--local", "--discard-unpacked-layers"] if machine.containerd >= 2 else []
    snapshotter = f"--snapshotter={machine.snapshotter}"
    return ["ctr", "--namespace=k8s.io", "images", "import", *options, snapshotter, str(archive)]


def _clients(config: Path) -> list[str]:
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
    ]
