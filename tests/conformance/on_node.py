"""Runs on a node: every CNI verb through cnitool, the specification's own client, under each version of it.

on_node.py CNITOOL: prints a JSON list of [version, kind, verb, complaint], where an empty complaint says that all was
as it should be. The network is the node's own conflist, under another name; its pods are nobody's: kubelet knows none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFLIST = Path("/etc/cni/net.d/10-eniway.conflist")
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
KINDS = ("shared", "routed")
WITHOUT_CHECK = VERSIONS[:2]
"""libcni refuses to check these."""
Finding = tuple[str, str, str, str]


@dataclass(frozen=True)
class Attachment:
    """A network namespace, to be attached by cnitool to the network of one version."""

    cnitool: str
    configurations: Path
    version: str
    kind: str

    @property
    def namespace(self) -> str:
        """Its name."""
        return f"conformance-{self.version}-{self.kind}"

    def call(self, verb: str) -> subprocess.CompletedProcess[str]:
        """One verb."""
        pod = f"K8S_POD_NAMESPACE=conformance;K8S_POD_NAME={self.kind};K8S_POD_UID={self.namespace}"
        capabilities = {
            "io.kubernetes.cri.pod-annotations": {"eniway.io/network": self.kind},
            "portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}],
        }
        environment = {
            **os.environ,
            "NETCONFPATH": str(self.configurations),
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"IgnoreUnknown=1;{pod}",
            "CAP_ARGS": json.dumps(capabilities),
        }
        argv = [self.cnitool, verb, network(self.version), f"/run/netns/{self.namespace}"]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    def addresses(self) -> list[str]:
        """Of eth0."""
        said = subprocess.run(
            ["ip", "-n", self.namespace, "-json", "-4", "address", "show"], check=True, capture_output=True, text=True
        ).stdout
        return [
            f"{one['local']}/{one['prefixlen']}"
            for link in json.loads(said)
            if link["ifname"] == "eth0"
            for one in link["addr_info"]
        ]

    def findings(self) -> Iterator[Finding]:
        """The life of an attachment, each step with what was wrong about it."""
        steps: Sequence[tuple[str, Callable[[], str]]] = (
            ("ADD", self.add),
            ("CHECK", self.check),
            ("STATUS", lambda: refused(self.call("status"))),
            ("DEL", self.delete),
            ("DEL again", self.delete),
            ("ADD again", self.add),
            ("GC", self.collect),
        )
        for verb, step in steps:
            yield self.version, self.kind, verb, step()

    def add(self) -> str:
        """The result is of the version, and true."""
        done = self.call("add")
        if complaint := refused(done):
            return complaint
        result = json.loads(done.stdout)
        if result["cniVersion"] != self.version:
            return f"the result is of version {result['cniVersion']}"
        told = [one["address"] for one in result["ips"]]
        return "" if told == self.addresses() else f"the result says {told}, eth0 has {self.addresses()}"

    def check(self) -> str:
        """What stands is right; what somebody took away is missed."""
        if self.version in WITHOUT_CHECK:
            return ""
        if complaint := refused(self.call("check")):
            return complaint
        subprocess.run(["ip", "-n", self.namespace, "route", "delete", "default"], check=True)
        missed = self.call("check").returncode != 0
        # An ADD again puts it back.
        return refused(self.call("add")) if missed else "a default route that is gone is not missed"

    def collect(self) -> str:
        """No word on what is in use, says cnitool: libcni deletes what it remembers, the plugin nothing more."""
        return refused(self.call("gc")) or self.leftover()

    def delete(self) -> str:
        """Also of what is gone."""
        return refused(self.call("del")) or self.leftover()

    def leftover(self) -> str:
        """What a deleted attachment still has."""
        return f"eth0 still has {self.addresses()}" if self.addresses() else ""


def network(version: str) -> str:
    """Name of a version's network."""
    return f"conformance-{version.replace('.', '-')}"


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed call said; empty for one that succeeded."""
    return "" if done.returncode == 0 else (done.stderr + done.stdout).strip()


def main() -> None:
    """Attach and detach."""
    cnitool = sys.argv[1]
    installed: Mapping[str, Any] = json.loads(CONFLIST.read_text())
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as directory:
        for version in VERSIONS:
            conflist = {"cniVersion": version, "name": network(version), "plugins": installed["plugins"]}
            Path(directory, f"{network(version)}.conflist").write_text(json.dumps(conflist))
            for kind in KINDS:
                attachment = Attachment(cnitool, Path(directory), version, kind)
                subprocess.run(["ip", "netns", "add", attachment.namespace], check=True)
                try:
                    findings += attachment.findings()
                finally:
                    attachment.call("del")
                    subprocess.run(["ip", "netns", "delete", attachment.namespace], check=True)
    sys.stdout.write(json.dumps(findings) + "\n")


if __name__ == "__main__":
    main()
