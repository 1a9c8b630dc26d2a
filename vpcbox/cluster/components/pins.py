"""What is built, at which version, with which flags (pure).

Each group is a folder with a go.mod and a go.sum of its own, since the groups' dependency versions clash. The
go.mod is the pin: its `tool` lines are the commands, its `require` line of the group's module is the version. A command
of ours that uses the group's module stands in the folder, too.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_TOOL = re.compile(r"^\s*(?:tool\s+)?([a-z0-9.-]+(?:/[\w.-]+)+)\s*$")
_KUBERNETES_VERSION = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class Group:
    """Commands that are built together.

    `stamps` maps a Go variable to a template of {version} (v1.34.4), {major} and {minor}: without them the
    commands report v0.0.0. `renamed` gives a command another file name than the one Go chooses. `suite` says that the
    group's one package is a test suite, built by `go test -c` into NAME.test.
    """

    name: str
    module: str
    tags: tuple[str, ...] = ()
    stamps: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    renamed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    suite: bool = False


@dataclass(frozen=True, slots=True)
class Pin:
    """A group as its go.mod pins it."""

    group: Group
    version: str
    packages: tuple[str, ...]
    key: str  # names the built result: same key, same sources and flags

    @property
    def outputs(self) -> dict[str, str]:
        """What `go build -o folder/` calls each command (a /v2 at the end is no name), and what it is called here."""
        ending = ".test" if self.group.suite else ""
        names = [re.sub(r"/v\d+$", "", package).rsplit("/", 1)[1] + ending for package in self.packages]
        return {name: self.group.renamed.get(name, name) for name in names}

    @property
    def arguments(self) -> tuple[str, ...]:
        """The flags of `go build` that change the result."""
        major, minor = self.version.removeprefix("v").split(".")[:2]
        stamps = (
            f"-X {variable}={template.format(version=self.version, major=major, minor=minor)}"
            for variable, template in sorted(self.group.stamps.items())
        )
        tags = (f"-tags={','.join(self.group.tags)}",) if self.group.tags else ()
        return (*tags, f"-ldflags={' '.join(('-s -w', *stamps))}")


GROUPS: Mapping[str, Group] = MappingProxyType(
    {
        group.name: group
        for group in (
            Group(
                "kubernetes",
                "k8s.io/kubernetes",
                stamps={
                    f"{_KUBERNETES_VERSION}.gitVersion": "{version}",
                    f"{_KUBERNETES_VERSION}.gitMajor": "{major}",
                    f"{_KUBERNETES_VERSION}.gitMinor": "{minor}",
                },
            ),
            Group("etcd", "go.etcd.io/etcd/server/v3", renamed={"server": "etcd"}),
            Group(
                "containerd",
                "github.com/containerd/containerd/v2",
                tags=("no_btrfs", "no_devmapper", "no_zfs"),
                stamps={"github.com/containerd/containerd/v2/version.Version": "{version}"},
            ),
            Group("cni-plugins", "github.com/containernetworking/plugins"),
            # Not part of a cluster: what is asked to judge it
            Group("cnitool", "github.com/containernetworking/cni"),
            Group("cyclonus", "github.com/mattfenwick/cyclonus", renamed={"generate": "cyclonus"}),
            Group("e2e", "k8s.io/kubernetes", suite=True),
            # In the place of kubelets, where nodes are objects only
            Group("kwok", "sigs.k8s.io/kwok"),
        )
    }
)
DEFAULT_GROUPS = ("cni-plugins", "etcd", "containerd", "kubernetes")


def pin(group: Group, go_mod: str, go_sum: str, *sources: str) -> Pin:
    """Read a group's pin from the text of its go.mod and go.sum, and of the Go files beside them.

    Raises ValueError naming what the go.mod lacks.
    """
    packages = tuple(_tools(go_mod))
    if not packages:
        raise ValueError(f"components/{group.name}/go.mod: expected at least one `tool` line")
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(group.module)}\s+(v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise ValueError(f"components/{group.name}/go.mod: expected a `require` line for {group.module}")
    draft = Pin(group, found[1], packages, "")
    digest = hashlib.sha256("\0".join((go_mod, go_sum, *sources, *draft.arguments, *draft.outputs.values())).encode())
    return Pin(group, found[1], packages, f"{group.name}-{found[1]}-{digest.hexdigest()[:16]}")


def _tools(go_mod: str) -> list[str]:
    """The import paths of the `tool` directives, single or in a block."""
    tools, in_block = [], False
    for line in go_mod.splitlines():
        if line.startswith("tool ("):
            in_block = True
        elif line.startswith(")"):
            in_block = False
        elif (in_block or line.startswith("tool ")) and (match := _TOOL.match(line)):
            tools.append(match[1])
    return tools
