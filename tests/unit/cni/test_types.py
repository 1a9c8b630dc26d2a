from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cni import types
from cni.result import Address, Interface, Result, Route, as_version
from cni.types import CniError
from eniway import errors, names
from eniway.model import PodRef, PodUid

RESULT = Result(
    interfaces=[Interface(name="eniw1"), Interface(name="eth0", mac="02:00:00:00:00:01", sandbox="/n", mtu=1500)],
    ips=[Address(address="10.0.16.9/32", gateway="169.254.1.1", interface=1)],
    routes=[Route(dst="0.0.0.0/0", gw="169.254.1.1")],
)


@pytest.mark.parametrize("version", names.CNI_VERSIONS)
def test_a_result_has_the_words_of_its_version_and_no_later_ones(version: str) -> None:
    """A link's mtu came with 1.1.0; an address said its family until 1.0.0."""
    result = msgspec.json.decode(msgspec.json.encode(as_version(RESULT, version)))
    assert result["cniVersion"] == version
    assert ("mtu" in result["interfaces"][1]) == (version == "1.1.0")
    assert result["ips"][0].get("version") == ("4" if version.startswith("0.") else None)
    assert result["ips"][0]["interface"] == 1
    assert "dns" not in result


def test_every_error_of_the_tree_has_a_code() -> None:
    """And only what may be asked again says so."""
    tree = [errors.EniwayError]
    for kind in tree:
        tree += kind.__subclasses__()
    again = {kind.__name__ for kind in tree if kind is not CniError and types.code_of(kind.__new__(kind)) == 11}
    assert again == {"NotReady", "DeadlineExceeded"}
    assert types.code_of(errors.InvariantBroken("x")) == types.code_of(ValueError("x")) == 999
    assert types.code_of(CniError(3, "x")) == 3


def test_an_error_of_a_del_never_says_not_found() -> None:
    """In any case of letters."""
    error = errors.KernelError("link NOT FOUND, route not found")
    assert b"not found" not in types.error_output(error, verb="DEL", version="1.0.0").lower()
    assert b"not found" in types.error_output(error, verb="ADD", version="1.0.0").lower()
    assert msgspec.json.decode(types.error_output(ValueError(), verb="DEL", version="1.1.0")) == {
        "cniVersion": "1.1.0",
        "code": 999,
        "msg": "eniway: ValueError",
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", 6),
        (b"[]", 7),
        (b"\xff", 6),
        (b'{"cniVersion":"1.0.0"', 6),
        (b'{"name":"eniway"}', 1),
        (b'{"cniVersion":"1.0.0"}', 7),
        (b'{"cniVersion":"1.0.0","name":"a/b"}', 7),
        (b'{"cniVersion":1,"name":"a"}', 7),
        (b'{"cniVersion":"1.0.0","name":"a","colour":1}', 2),
        (b'{"cniVersion":"1.0.0","name":"a","runtimeConfig":7}', 7),
    ],
)
def test_a_bad_configuration_has_the_specifications_code(text: bytes, code: int) -> None:
    """Section 5 of the specification."""
    with pytest.raises(CniError) as caught:
        types.parse_config(text)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": None}},
        {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {}, "portMappings": [{"hostPort": 80}]}},
        {"prevResult": {"cniVersion": "1.0.0", "ips": None}},
        {"prevResult": {"ips": [{"address": "10.0.0.1/32", "gateway": "10.0.0.2"}], "dns": {}}},
        {"cni.dev/attachments": [], "cni.dev/valid-attachments": None, "type": "eniway", "capabilities": {"x": True}},
    ],
)
def test_what_libcni_writes_is_read(extra: dict[str, Any]) -> None:
    """Its empty maps and lists are nulls."""
    config = types.parse_config(msgspec.json.encode({"cniVersion": "1.0.0", "name": "eniway", **extra}))
    assert config.name == "eniway"
    assert not config.runtime_config.pod_annotations


def test_unknown_keys_pass_where_nothing_is_gained_by_refusing() -> None:
    """A DEL is done whatever the configuration has become."""
    assert types.parse_config(b'{"cniVersion":"1.0.0","name":"a","colour":1}', strict=False).name == "a"


def test_the_pod_is_what_the_arguments_name() -> None:
    """As containerd writes them."""
    arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u"
    assert types.pod({"CNI_ARGS": arguments}) == PodRef("ns", "web-0", PodUid("u"))


@pytest.mark.parametrize(
    ("arguments", "word"), [("", "K8S_POD_NAMESPACE"), ("K8S_POD_NAME", "KEY=VALUE"), ("=1", "KEY=VALUE")]
)
def test_bad_arguments_are_named(arguments: str, word: str) -> None:
    """The error says what was expected."""
    with pytest.raises(CniError, match=re.escape(word)):
        types.pod({"CNI_ARGS": arguments})


@pytest.mark.parametrize("name", ["a" * 16, "a b", "a/b", ".", "..", "a:b", ""])
def test_interface_names_are_the_kernels(name: str) -> None:
    """What the kernel would refuse is refused."""
    with pytest.raises(CniError, match="CNI_IFNAME"):
        types.interface_name({"CNI_IFNAME": name})


def test_the_relay_tells_the_versions_that_the_daemon_speaks() -> None:
    """The list stands in three files; the relays' are tested to be equal."""
    text = (Path(types.__file__).parent / "shim" / "eniway.c").read_text()
    assert all(f'\\"{version}\\"' in text for version in names.CNI_VERSIONS)
