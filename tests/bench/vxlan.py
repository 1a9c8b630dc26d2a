"""An overlay to measure against: vxlan between two nodes, a bridge and one namespace on each, as flannel sets it up.

Per node: the vxlan device (id 1, UDP port 8472, no learning) with the /32 of its subnet's zero address, a route to the
other subnet over the other device's address (onlink), permanent neighbour and forwarding entries for it; a bridge with
the subnet's first address, a veth per pod, MTU 50 less than the card's; forwarding on; flannel's masquerade rules.
Source: flannel, Documentation/backends.md and pkg/backend/vxlan.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network

from demo.box import Instance
from tests.bench.wire import Place

NETWORK = IPv4Network("10.244.0.0/16")
DEVICE, BRIDGE, PORT = "flannel.1", "cni0", "fl0"
HEADERS = 50
"""Bytes of outer Ethernet, IPv4, UDP and vxlan headers."""


@dataclass(frozen=True, slots=True)
class Half:
    """One node's part."""

    node: Instance
    number: int

    @property
    def subnet(self) -> IPv4Network:
        """The node's pods."""
        return list(NETWORK.subnets(new_prefix=24))[self.number]

    @property
    def pod(self) -> Place:
        """The measuring pod: a namespace of its own, held by name."""
        return Place(f"/run/netns/eniway-bench-{self.node.pid}", self.subnet[2])


@contextmanager
def overlay(first: Instance, second: Instance) -> Iterator[tuple[Place, Place]]:
    """An overlay between two nodes for as long as the context lasts."""
    halves = Half(first, 1), Half(second, 2)
    try:
        macs = [_make(half) for half in halves]
        for half, other, mac in ((halves[0], halves[1], macs[1]), (halves[1], halves[0], macs[0])):
            _join(half, other, mac)
        yield halves[0].pod, halves[1].pod
    finally:
        for half in halves:
            _unmake(half)


def _make(half: Half) -> str:
    """Devices and the pod of one node; the MAC of its vxlan device."""
    node, pod = half.node, half.pod
    name = pod.netns.rpartition("/")[2]
    [card] = json.loads(_in(node, ["ip", "-json", "link", "show", "eth0"]))
    mtu = str(card["mtu"] - HEADERS)
    subprocess.run(["ip", "netns", "add", name], check=True)
    vxlan = ["vxlan", "id", "1", "dev", "eth0", "local", str(node.address), "dstport", "8472", "nolearning"]
    for argv in (
        ["link", "add", DEVICE, "mtu", mtu, "type", *vxlan],
        ["address", "add", f"{half.subnet[0]}/32", "dev", DEVICE],
        ["link", "set", DEVICE, "up"],
        ["link", "add", BRIDGE, "mtu", mtu, "type", "bridge"],
        ["address", "add", f"{half.subnet[1]}/24", "dev", BRIDGE],
        ["link", "set", BRIDGE, "up"],
    ):
        _in(node, ["ip", *argv])
    _in(node, ["sysctl", "-q", "net.ipv4.ip_forward=1"])
    # made from the machine, which sees both ends: a veth with one end in the node, the other in the pod
    _run(["ip", "-n", name, "link", "add", "eth0", "mtu", mtu, "type", "veth", "peer", PORT, "netns", str(node.pid)])
    _in(node, ["ip", "link", "set", PORT, "mtu", mtu, "master", BRIDGE, "up"])
    for argv in (
        ["link", "set", "lo", "up"],
        ["link", "set", "eth0", "up"],
        ["address", "add", f"{pod.address}/24", "dev", "eth0"],
        ["route", "add", "default", "via", str(half.subnet[1])],
    ):
        _run(["ip", "-n", name, *argv])
    for rule in _rules():
        _in(node, ["iptables", "-w", "-t", rule[0], "-A", *rule[1:]])
    [device] = json.loads(_in(node, ["ip", "-json", "link", "show", DEVICE]))
    return str(device["address"])


def _join(half: Half, other: Half, mac: str) -> None:
    gateway = str(other.subnet[0])
    for argv in (
        ["ip", "neigh", "add", gateway, "lladdr", mac, "dev", DEVICE, "nud", "permanent"],
        ["bridge", "fdb", "add", mac, "dev", DEVICE, "dst", str(other.node.address), "self", "permanent"],
        ["ip", "route", "add", str(other.subnet), "via", gateway, "dev", DEVICE, "onlink"],
    ):
        _in(half.node, argv)


def _unmake(half: Half) -> None:
    """Remove what is there of one half."""
    for rule in _rules():
        _in(half.node, ["iptables", "-w", "-t", rule[0], "-D", *rule[1:]], check=False)
    for link in (DEVICE, BRIDGE):
        _in(half.node, ["ip", "link", "delete", link], check=False)
    name = half.pod.netns.rpartition("/")[2]
    subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def _rules() -> Sequence[Sequence[str]]:
    network = str(NETWORK)
    return (
        ("nat", "POSTROUTING", "-s", network, "-d", network, "-j", "RETURN"),
        ("nat", "POSTROUTING", "-s", network, "!", "-d", "224.0.0.0/4", "-j", "MASQUERADE"),
        ("filter", "FORWARD", "-s", network, "-j", "ACCEPT"),
        ("filter", "FORWARD", "-d", network, "-j", "ACCEPT"),
    )


def _in(node: Instance, argv: Sequence[str], *, check: bool = True) -> str:
    return _run(["nsenter", f"--net={node.netns}", *argv], check=check)


def _run(argv: Sequence[str], *, check: bool = True) -> str:
    quiet = None if check else subprocess.DEVNULL
    return subprocess.run(argv, check=check, stdout=subprocess.PIPE, stderr=quiet, text=True).stdout
