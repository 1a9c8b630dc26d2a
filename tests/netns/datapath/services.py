"""Services as a node's kube-proxy and portmap translate them, in the rules that these write.

The rules are those of kube-proxy 1.34 with detectLocalMode InterfaceNamePrefix (pkg/proxy/iptables/proxier.go and
pkg/proxy/nftables/proxier.go) and of the portmap plugin 1.9, for Services with one endpoint each, without the chains
that only spread load.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from eniway import names
from tests.conformance.cells import Cell, Path
from tests.netns.datapath.fabric import SERVICE_CIDR, Node

PORT: Final = 80
TARGET_PORT: Final = 8080
MODES: Final = ("iptables", "nftables")


@dataclass(frozen=True, slots=True)
class Service:
    """A pod by every kind of Service and by its hostPort."""

    number: int
    backend: IPv4Address
    node: str

    @property
    def cluster_ip(self) -> IPv4Address:
        """The Service's own address."""
        return SERVICE_CIDR[100 + self.number]

    def port(self, path: Path) -> int:
        """The port of nodes that leads to the pod."""
        return {Path.NODE_PORT: 30000, Path.NODE_PORT_LOCAL: 31000, Path.HOST_PORT: 20000}[path] + self.number

    def dial(self, cell: Cell) -> tuple[IPv4Address, int]:
        """Where a cell's client calls."""
        if cell.path is Path.CLUSTER_IP:
            return self.cluster_ip, PORT
        assert cell.node is not None
        return cell.node.address, self.port(cell.path)


def serve(node: Node, services: Collection[Service], mode: str) -> None:
    """Put a node's rules for the Services in force."""
    local = [service for service in services if service.node == node.name]
    if mode == "iptables":
        lines = [*_iptables_frame(), *(line for service in services for line in _iptables(service, node))]
        node.exec("iptables-restore", "--noflush", given="\n".join(("*nat", *lines, "COMMIT", "")))
    else:
        node.exec("nft", "-f", "-", given="\n".join(_nftables(services, node)))
    portmap = [
        ":CNI-HOSTPORT-DNAT - [0:0]",
        "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
        "-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
        "-I POSTROUTING -m mark --mark 0x2000/0x2000 -j MASQUERADE",
    ]
    for service in local:
        for protocol in ("tcp", "udp"):
            to = f"-A CNI-HOSTPORT-DNAT -p {protocol} --dport {service.port(Path.HOST_PORT)}"
            portmap += [
                f"{to} -s {service.backend}/32 -j MARK --set-xmark 0x2000/0x2000",
                f"{to} -j DNAT --to-destination {service.backend}:{TARGET_PORT}",
            ]
    node.exec("iptables-restore", "--noflush", given="\n".join(("*nat", *portmap, "COMMIT", "")))


def _iptables_frame() -> list[str]:
    return [
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-NODEPORTS - [0:0]",
        ":KUBE-POSTROUTING - [0:0]",
        "-I PREROUTING -j KUBE-SERVICES",
        "-I OUTPUT -j KUBE-SERVICES",
        "-I POSTROUTING -j KUBE-POSTROUTING",
        "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
    ]


def _iptables(service: Service, node: Node) -> Iterator[str]:
    mark = "-j MARK --set-xmark 0x4000/0x4000"
    for protocol in ("tcp", "udp"):
        svc, sep, ext, loc = (f"K{word}-{protocol}-{service.number}" for word in ("SVC", "SEP", "EXT", "LOC"))
        yield from (f":{chain} - [0:0]" for chain in (svc, sep, ext, loc))
        vip = f"-d {service.cluster_ip}/32 -p {protocol} --dport {PORT}"
        yield f"-I KUBE-SERVICES {vip} -j {svc}"
        yield f"-A KUBE-NODEPORTS -p {protocol} --dport {service.port(Path.NODE_PORT)} -j {ext}"
        yield f"-A KUBE-NODEPORTS -p {protocol} --dport {service.port(Path.NODE_PORT_LOCAL)} -j {loc}"
        yield f"-A {svc} ! -i {names.LINK_PREFIX}+ {vip} {mark}"
        yield f"-A {svc} -j {sep}"
        yield f"-A {sep} -s {service.backend}/32 {mark}"
        yield f"-A {sep} -p {protocol} -j DNAT --to-destination {service.backend}:{TARGET_PORT}"
        yield f"-A {ext} {mark}"
        yield f"-A {ext} -j {svc}"
        yield f"-A {loc} -i {names.LINK_PREFIX}+ -j {svc}"
        yield f"-A {loc} -m addrtype --src-type LOCAL {mark}"
        yield f"-A {loc} -m addrtype --src-type LOCAL -j {svc}"
        if service.node == node.name:
            yield f"-A {loc} -j {sep}"


def _nftables(services: Collection[Service], node: Node) -> Iterator[str]:
    mark, pods = "meta mark set mark or 0x4000", f'"{names.LINK_PREFIX}*"'
    yield "table ip kube-proxy {"
    yield "map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }"
    yield "map service-nodeports { type inet_proto . inet_service : verdict; }"
    yield "chain services {"
    yield "ip daddr . meta l4proto . th dport vmap @service-ips"
    yield "fib daddr type local meta l4proto . th dport vmap @service-nodeports; }"
    yield "chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }"
    yield "chain nat-output { type nat hook output priority -100; jump services; }"
    yield "chain nat-postrouting { type nat hook postrouting priority srcnat;"
    yield "meta mark & 0x4000 == 0x4000 meta mark set mark xor 0x4000 masquerade fully-random; }"
    for one in services:
        for protocol in ("tcp", "udp"):
            name, vip = f"{protocol}-{one.number}", f"ip daddr {one.cluster_ip} {protocol} dport {PORT}"
            yield f"chain endpoint-{name} {{"
            yield f"ip saddr {one.backend} {mark}"
            yield f"meta l4proto {protocol} dnat to {one.backend}:{TARGET_PORT}; }}"
            yield f"chain service-{name} {{ {vip} iifname != {pods} {mark}; goto endpoint-{name}; }}"
            yield f"chain external-{name} {{ {mark}; goto service-{name}; }}"
            yield f"chain local-{name} {{"
            yield f"iifname {pods} goto service-{name}"
            yield f"fib saddr type local {mark} goto service-{name}"
            yield f"{f'goto endpoint-{name}' if one.node == node.name else 'drop'}; }}"
    yield "}"
    for one in services:
        for protocol in ("tcp", "udp"):
            name = f"{protocol}-{one.number}"
            vip = f"{one.cluster_ip} . {protocol} . {PORT}"
            yield f"add element ip kube-proxy service-ips {{ {vip} : goto service-{name} }}"
            for path, chain in ((Path.NODE_PORT, "external"), (Path.NODE_PORT_LOCAL, "local")):
                port = f"{protocol} . {one.port(path)}"
                yield f"add element ip kube-proxy service-nodeports {{ {port} : goto {chain}-{name} }}"
