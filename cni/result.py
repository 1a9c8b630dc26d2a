"""What an ADD returns (CNI specification 1.1.0, section 5), and the same in the words of earlier versions."""

from __future__ import annotations

from typing import Any

import msgspec

from cni.needs import Attachment
from cni.types import PrevResult
from eniway import names
from eniway.model import Kind, Lease


class Interface(msgspec.Struct, frozen=True, omit_defaults=True):
    """A link of the result; without ``sandbox`` it is on the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0


class Address(msgspec.Struct, frozen=True, omit_defaults=True):
    """An address of the result: of the link with that index."""

    address: str
    gateway: str
    interface: int
    version: str = ""


class Route(msgspec.Struct, frozen=True):
    """A route of the result."""

    dst: str
    gw: str


class Result(msgspec.Struct, frozen=True, kw_only=True, rename={"cni_version": "cniVersion"}):
    """What a successful ADD returns, in the words of 1.1.0."""

    cni_version: str = "1.1.0"
    interfaces: list[Interface]
    ips: list[Address]
    routes: list[Route]


def as_version(result: Result, version: str) -> Result:
    """``result`` in the words of ``version``.

    Before 1.1 a link has no mtu, and libcni up to 1.1 fails on what it does not know; before 1.0 an address says its
    family.
    """
    interfaces, addresses = result.interfaces, result.ips
    if version != "1.1.0":
        interfaces = [msgspec.structs.replace(interface, mtu=0) for interface in interfaces]
    if version.startswith("0."):
        addresses = [
            msgspec.structs.replace(address, version="6" if ":" in address.address else "4") for address in addresses
        ]
    return msgspec.structs.replace(result, cni_version=version, interfaces=interfaces, ips=addresses)


def after(result: Result, previous: PrevResult | None) -> Result | dict[str, Any]:
    """``result`` behind that of the plugins chained before us, which a plugin passes on (section 3, "ADD")."""
    if previous is None:
        return result
    links = previous.interfaces or []
    moved = [msgspec.structs.replace(one, interface=one.interface + len(links)) for one in result.ips]
    return {
        "cniVersion": result.cni_version,
        "interfaces": [*links, *result.interfaces],
        "ips": [*(previous.ips or ()), *moved],
        "routes": [*(previous.routes or ()), *result.routes],
        **({} if previous.dns is None else {"dns": previous.dns}),
    }


def result_of(lease: Lease, attachment: Attachment) -> Result:
    """The result of an ADD: the host's link, then the pod's, and the address of eth0.

    The address of an exclusive pod's second link is left out: some runtimes take every address for one of the pod's
    own.
    """
    host = Interface(name=attachment.host_link)
    pod = [Interface(name=link.name, mac=link.mac, sandbox=lease.netns, mtu=link.mtu) for link in attachment.pod_links]
    addresses = addresses_of(lease)
    routes = [Route(dst="0.0.0.0/0", gw=addresses[0].gateway)]
    return Result(interfaces=[host, *pod], ips=addresses, routes=routes)


def addresses_of(lease: Lease) -> list[Address]:
    """What the pod's eth0 carries; links are numbered as in ``result_of``.

    A /32, as in the kernel: portmap takes the mask for that of a network of the pod's own, and masquerades whoever
    calls a hostPort from it.
    """
    gateway = str(lease.card.gateway) if lease.kind is Kind.EXCLUSIVE else names.GATEWAY
    return [Address(address=f"{lease.address}/32", gateway=gateway, interface=1)]
