"""The box, from outside: the vpcbox command and what `vpcbox status --json` says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec

VPCBOX = Path(sys.executable).with_name("vpcbox")
"""Installed beside the interpreter."""


class Instance(msgspec.Struct, frozen=True):
    """A machine of the VPC: a Kubernetes node, or `outside`, which is none."""

    name: str
    instance_id: str
    instance_type: str
    netns: str
    pid: int
    address: IPv4Address
    containerd_socket: str | None = None


class VSwitch(msgspec.Struct, frozen=True):
    """A subnet of the VPC."""

    id: str
    zone: str
    cidr: IPv4Network


class Vpc(msgspec.Struct, frozen=True):
    """The VPC's ids."""

    id: str
    route_table_id: str
    security_group_id: str
    vswitches: list[VSwitch]


class OpenApi(msgspec.Struct, frozen=True):
    """How the simulated OpenAPI is reached from the machine."""

    endpoint: str
    region: str
    zone: str
    access_key_id: str
    access_key_secret: str


class Status(msgspec.Struct, frozen=True):
    """`vpcbox status --json`."""

    pid: int
    kubeconfig: str
    openapi: OpenApi
    vpc: Vpc
    nodes: list[Instance]
    outside: Instance


def _decode(kind: type, value: object) -> object:
    return kind(value)


class Box:
    """A box by its state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state.absolute()

    def argv(self, *words: str) -> list[str]:
        """A vpcbox command on this box: --state stands right behind the words that name the command."""
        named = 2 if words[0] in {"node", "instance", "image", "fault"} else 1
        return [str(VPCBOX), *words[:named], "--state", str(self.state), *words[named:]]

    def run(self, *words: str) -> None:
        """A vpcbox command with its output on ours; CalledProcessError where it fails."""
        subprocess.run(self.argv(*words), check=True)

    @contextmanager
    def standing(self, *words: str) -> Iterator[None]:
        """Up with eniway, as `vpcbox up` is told by ``words``, and down at the end."""
        try:
            self.run("up", *words, "--install", "eniway")
            yield
        finally:
            self.run("down")

    def stands(self) -> bool:
        """Whether a box runs in this directory."""
        argv = self.argv("status", "--json")
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    def status(self) -> Status:
        """What stands; CalledProcessError where nothing does."""
        said = subprocess.run(self.argv("status", "--json"), check=True, stdout=subprocess.PIPE).stdout
        return msgspec.json.decode(said, type=Status, dec_hook=_decode)

    def sh(self, instance: str, command: Sequence[str]) -> str:
        """Stdout of a command in an instance's namespaces; CalledProcessError where it fails."""
        argv = self.argv("sh", instance, "--", *command)
        return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
