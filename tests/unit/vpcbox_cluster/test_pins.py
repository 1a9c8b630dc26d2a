"""The laws of the component pins."""

import re
from pathlib import Path

import pytest

from vpcbox.cluster.components import DEFAULT_GROUPS, GROUPS, build
from vpcbox.cluster.components.build import pins
from vpcbox.cluster.components.pins import Group, pin

COMPONENTS = Path(build.__file__).parent
GO_MOD = """\
module eniway.io/vpcbox/components/example

go 1.24.0

tool (
\texample.org/thing/v2
\texample.org/thing/v2/cmd/other
)

require example.org/thing/v2 v2.3.4

require (
\tgithub.com/some/dependency v1.0.0 // indirect
)
"""


def test_tool_lines_are_the_commands_and_the_require_line_is_the_version() -> None:
    """A go.mod alone says what is built, at which version; a /v2 at the end is no name."""
    pinned = pin(Group("example", "example.org/thing/v2", renamed={"thing": "it"}), GO_MOD, "")
    assert pinned.version == "v2.3.4"
    assert pinned.packages == ("example.org/thing/v2", "example.org/thing/v2/cmd/other")
    assert pinned.outputs == {"thing": "it", "other": "other"}


def test_a_single_tool_line_is_read_as_a_block_is() -> None:
    """Both ways of go.mod to write a tool directive mean the same."""
    text = "module m\n\ntool example.org/thing/cmd/one\n\nrequire example.org/thing v1.0.0\n"
    assert pin(Group("example", "example.org/thing"), text, "").packages == ("example.org/thing/cmd/one",)


@pytest.mark.parametrize(
    ("go_mod", "go_sum", "group"),
    [
        (GO_MOD.replace("v2.3.4", "v2.3.5"), "", Group("example", "example.org/thing/v2")),
        (GO_MOD, "example.org/thing/v2 v2.3.4 h1:x=", Group("example", "example.org/thing/v2")),
        (GO_MOD, "", Group("example", "example.org/thing/v2", tags=("less",))),
        (GO_MOD, "", Group("example", "example.org/thing/v2", stamps={"main.version": "{version}"})),
        (GO_MOD, "", Group("example", "example.org/thing/v2", renamed={"thing": "it"})),
        (GO_MOD, "", Group("example", "example.org/thing/v2", suite=True)),
    ],
    ids=["version", "sums", "tags", "stamps", "names", "suite"],
)
def test_whatever_changes_the_result_changes_the_key(go_mod: str, go_sum: str, group: Group) -> None:
    """Two different builds never share a folder of the cache."""
    assert pin(group, go_mod, go_sum).key != pin(Group("example", "example.org/thing/v2"), GO_MOD, "").key


def test_a_command_of_ours_is_built_again_when_its_text_changes() -> None:
    """A Go file beside the go.mod is part of the key."""
    group = Group("example", "example.org/thing/v2")
    keys = {pin(group, GO_MOD, "", *sources).key for sources in ((), ("package main",), ("package main // new",))}
    assert len(keys) == 3


def test_cyclonus_is_asked_by_commands_of_ours() -> None:
    """They stand in its folder, and change its key."""
    (cyclonus,) = pins(["cyclonus"])
    folder = COMPONENTS / "cyclonus"
    assert list(cyclonus.outputs.values()) == ["cyclonus", "worker"]
    texts = [(folder / name).read_text() for name in ("go.mod", "go.sum")]
    assert cyclonus.key != pin(GROUPS["cyclonus"], *texts).key


def test_stamps_carry_the_pinned_version() -> None:
    """A component reports the version it was pinned at."""
    stamps = {"v.full": "{version}", "v.major": "{major}", "v.minor": "{minor}"}
    pinned = pin(Group("example", "example.org/thing/v2", tags=("a", "b"), stamps=stamps), GO_MOD, "")
    assert pinned.arguments == ("-tags=a,b", "-ldflags=-s -w -X v.full=v2.3.4 -X v.major=2 -X v.minor=3")


@pytest.mark.parametrize(
    ("go_mod", "message"),
    [
        (
            "module m\nrequire example.org/thing v1.0.0\n",
            "example/go.mod: expected at least one `tool` line",
        ),
        ("module m\ntool example.org/thing\n", "expected a `require` line for example.org/thing"),
    ],
)
def test_a_go_mod_that_lacks_something_is_refused_by_name(go_mod: str, message: str) -> None:
    """The error names the file and what was expected."""
    with pytest.raises(ValueError, match=re.escape(message)):
        pin(Group("example", "example.org/thing"), go_mod, "")


def test_the_default_groups_hold_what_a_cluster_needs() -> None:
    """The committed pins build every program the cluster starts, each under one name."""
    names = [name for pinned in pins(DEFAULT_GROUPS) for name in pinned.outputs.values()]
    assert len(names) == len(set(names))
    assert set(names) >= {
        "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet", "kube-proxy",
        "agnhost", "containerd", "containerd-shim-runc-v2", "ctr", "bridge", "host-local", "loopback", "portmap",
    }  # fmt: skip


@pytest.mark.parametrize("group", ["kubernetes", "e2e"])
def test_all_modules_of_kubernetes_have_one_version(group: str) -> None:
    """The staging modules v0.X.Y belong to kubernetes v1.X.Y; a mixture would be no Kubernetes anybody knows."""
    (kubernetes,) = pins([group])
    minor = kubernetes.version.removeprefix("v1.")
    go_mod = (COMPONENTS / group / "go.mod").read_text()
    replaced = re.findall(r"^\s*(k8s\.io/\S+) => (\S+) (\S+)$", go_mod, re.MULTILINE)
    assert replaced
    assert {(name, version) for name, _, version in replaced} == {(name, f"v0.{minor}") for name, _, _ in replaced}
    assert all(name == target for name, target, _ in replaced)


def test_the_end_to_end_suite_is_the_clusters_own() -> None:
    """Its specs are those of the Kubernetes that runs."""
    kubernetes, suite = pins(["kubernetes", "e2e"])
    assert suite.version == kubernetes.version
    assert list(suite.outputs.values()) == ["e2e.test"]


def test_the_group_is_named_as_its_folder() -> None:
    """Each group has a go.mod and a go.sum."""
    for name, group in GROUPS.items():
        assert group.name == name
        assert (COMPONENTS / name / "go.sum").stat().st_size > 0
