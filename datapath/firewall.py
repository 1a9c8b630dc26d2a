"""The node's iptables chains and the sets they look into: written once, at start. Pods come and go as members of sets.

Four things are done to packets of pods, all by sets, so in constant time:

1. A shared pod's packet gets the mark of its card. Not so the reply of a translated connection: it goes back by the
   card that the connection came in by.
2. kube-proxy's masquerade mark is taken off what pods send off the node: they keep their address.
3. An exclusive pod that calls a Service which leads back to itself appears with the node's address, or it would see its
   own address come in from outside.
4. A foreign client whose connection the node translated to an exclusive pod (NodePort with externalTrafficPolicy Local,
   hostPort) appears with the node's address, or the VPC would drop its packet as forged and the pod would answer past
   the node.

Only chains whose name starts with ENIWAY- are filled; of others' chains, our one jump is looked for and added if
missing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from datapath import ipset
from datapath.ipset import Set
from datapath.kernel import Kernel
from eniway import names
from eniway.errors import KernelError

SETS: Final = (
    Set(names.IPSET_SOURCES, "hash:ip", revision=4, skbinfo=True),
    Set(names.IPSET_PODS, "hash:ip", revision=0),
    Set(names.IPSET_EXCLUSIVE, "hash:ip", revision=0),
    Set(names.IPSET_HAIRPIN, "hash:net,iface", revision=0),
)

_WAIT: Final = "5"
_PODS: Final = f"{names.LINK_PREFIX}+"
_MARK: Final = f"{names.CHAIN_PREFIX}MARK"
_KEEP: Final = f"{names.CHAIN_PREFIX}KEEP"
_SNAT: Final = f"{names.CHAIN_PREFIX}SNAT"
_UNMASQUERADE: Final = f"{names.KUBE_PROXY_MASQUERADE:#x}"


@dataclass(frozen=True, slots=True)
class Jump:
    """Our rule in a chain of the kernel's."""

    table: str
    chain: str
    match: str
    target: str


JUMPS: Final = (
    Jump("mangle", "PREROUTING", f"-i {_PODS}", _MARK),
    Jump("mangle", "POSTROUTING", f"! -o {_PODS} -m mark --mark {_UNMASQUERADE}/{_UNMASQUERADE}", _KEEP),
    Jump("nat", "POSTROUTING", "-m conntrack --ctstate DNAT", _SNAT),
)


def chains(node: IPv4Address) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Rules by table and chain; ``node`` is the primary address of the node."""
    snat = f"-j SNAT --to-source {node} --random-fully"
    return {
        "mangle": {
            _MARK: (
                "-m conntrack --ctstate DNAT --ctdir REPLY -j RETURN",
                f"-j SET --map-set {names.IPSET_SOURCES} src --map-mark",
            ),
            _KEEP: (f"-m set --match-set {names.IPSET_PODS} src -j MARK --set-xmark 0x0/{_UNMASQUERADE}",),
        },
        "nat": {
            _SNAT: (
                # Where to, and by which link it came in: only its own pod's. Seen after routing from Linux 5.7 on.
                f"-m set --match-set {names.IPSET_HAIRPIN} dst,src {snat}",
                (
                    f"-m set --match-set {names.IPSET_EXCLUSIVE} dst -m set ! --match-set {names.IPSET_PODS} src"
                    f" -m addrtype ! --src-type LOCAL {snat}"
                ),
            ),
        },
    }


def render(node: IPv4Address, present: str) -> str:
    """Input for ``iptables-restore --noflush``: our chains filled anew, in one commit a table, and the jumps to them.

    ``present``: what ``iptables-save`` prints; jumps that stand there are not repeated.
    """
    lines: list[str] = []
    for table, filled in chains(node).items():
        lines.append(f"*{table}")
        lines += (f":{chain} - [0:0]" for chain in filled)
        lines += (f"-A {chain} {rule}" for chain, rules in filled.items() for rule in rules)
        lines += (
            f"-I {jump.chain} {jump.match} -j {jump.target}"
            for jump in JUMPS
            if jump.table == table and not _stands(jump, present)
        )
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def _stands(jump: Jump, present: str) -> bool:
    return any(
        line.startswith(f"-A {jump.chain} ") and line.endswith(f"-j {jump.target}") for line in present.splitlines()
    )


def ensure(kernel: Kernel, node: IPv4Address) -> None:
    """Make the sets and write the chains, in the calling thread's namespace. Idempotent."""
    for made in SETS:
        try:
            kernel.sets.call(ipset.create(made))
        except OSError as error:
            raise KernelError(f"ipset {made.name} ({made.type}): {error.strerror}") from error
    text = render(node, _run("iptables-save"))
    _run("iptables-restore", "--noflush", "--wait", _WAIT, given=text)


def _run(*command: str, given: str = "") -> str:
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=30)
    except FileNotFoundError as error:
        raise KernelError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise KernelError(f"{command[0]}: {error.stderr.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"{command[0]} did not end within 30 s") from error
    return done.stdout
