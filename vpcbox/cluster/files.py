"""Every file a component reads, as a mapping from name to content (pure but for the keys, which are random)."""

from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path

from vpcbox.cluster import config
from vpcbox.cluster.certs import Authority, authority, service_account_key

LOCALHOST = IPv4Address("127.0.0.1")
SERVER_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
)


def control_plane(ca: Authority, address: IPv4Address) -> Mapping[str, bytes]:
    """The control plane's folder; `address` is where the API server is reached in the VPC.

    The kubeconfigs in it are for components beside the API server.
    """
    serving = ca.issue(
        "kube-apiserver",
        names=SERVER_NAMES,
        addresses=(LOCALHOST, address, config.first_service_address()),
    )
    to_kubelets = ca.issue("kube-apiserver-kubelet-client", groups=("system:masters",))
    admin = ca.issue("kubernetes-admin", groups=("system:masters",))
    # Kubernetes demands an authority of its own here: a client of one must not pass for a client of the other
    front_proxy_ca = authority("vpcbox-front-proxy", now=ca.now)
    front_proxy = front_proxy_ca.issue("front-proxy-client")
    server = f"https://{LOCALHOST}:{config.API_PORT}"

    def client(user: str) -> bytes:
        return config.kubeconfig(server, user, ca.pair.certificate, ca.issue(user)).encode()

    return {
        "ca.crt": ca.pair.certificate,
        "apiserver.crt": serving.certificate,
        "apiserver.key": serving.key,
        "apiserver-kubelet-client.crt": to_kubelets.certificate,
        "apiserver-kubelet-client.key": to_kubelets.key,
        "front-proxy-ca.crt": front_proxy_ca.pair.certificate,
        "front-proxy-client.crt": front_proxy.certificate,
        "front-proxy-client.key": front_proxy.key,
        "service-account.key": service_account_key(),
        "admin.crt": admin.certificate,
        "admin.key": admin.key,
        "controller-manager.conf": client("system:kube-controller-manager"),
        "scheduler.conf": client("system:kube-scheduler"),
        "audit-policy.yaml": config.audit_policy().encode(),
    }


def node(
    ca: Authority,
    facts: config.NodeFacts,
    machine: config.Machine,
    *,
    server: str,
    directory: Path,
    proxy_mode: str = "iptables",
) -> Mapping[str, bytes]:
    """A node's folder, which stands at `directory`; `server` is the API server's URL, `proxy_mode` kube-proxy's."""
    # One certificate for both: kubelet is a client of the API server, and serves logs and exec to it
    kubelet = ca.issue(
        f"system:node:{facts.name}", groups=("system:nodes",), names=(facts.name,), addresses=(facts.address,)
    )
    proxy = ca.issue("system:kube-proxy")
    trusted = ca.pair.certificate
    return {
        "ca.crt": trusted,
        "kubelet.crt": kubelet.certificate,
        "kubelet.key": kubelet.key,
        "kubelet.conf": config.kubeconfig(server, f"system:node:{facts.name}", trusted, kubelet).encode(),
        "kubelet.yaml": config.kubelet(facts, directory).encode(),
        "kube-proxy.conf": config.kubeconfig(server, "system:kube-proxy", trusted, proxy).encode(),
        "kube-proxy.yaml": config.kube_proxy(facts, directory / "kube-proxy.conf", mode=proxy_mode).encode(),
        "containerd.toml": config.containerd(machine).encode(),
        "resolv.conf": b"",
    }
