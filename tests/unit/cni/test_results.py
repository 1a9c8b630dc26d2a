"""libcni's cache as it stands on disk (containernetworking/cni v1.3, libcni/api.go)."""

import base64
import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from cni.results import remembered
from eniway.model import ContainerId, LeaseKey, PodRef, PodUid, Sandbox


def cached(**changes: Any) -> dict[str, Any]:
    """What libcni writes after an ADD."""
    return {
        "kind": "cniCacheV1",
        "containerId": "c1",
        "config": base64.b64encode(b"{}").decode(),
        "ifName": "eth0",
        "networkName": "eniway",
        "netns": "/var/run/netns/cni-1",
        "cniArgs": [
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", "default"],
            ["K8S_POD_NAME", "web"],
            ["K8S_POD_INFRA_CONTAINER_ID", "c1"],
            ["K8S_POD_UID", "uid-1"],
        ],
        "capabilityArgs": {"portMappings": []},
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "ew0123456789a", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/var/run/netns/cni-1"},
            ],
            "ips": [{"interface": 1, "address": "10.0.16.7/32", "gateway": "169.254.1.1"}],
        },
        **changes,
    }


def write(directory: Path, name: str, content: object) -> None:
    (directory / name).write_text(json.dumps(content))


def test_an_attachment_is_read_as_it_was_made(tmp_path: Path) -> None:
    """Key, pod, sandbox and addresses."""
    write(tmp_path, "eniway-c1-eth0", cached())
    assert remembered(tmp_path) == (
        Sandbox(
            LeaseKey("eniway", ContainerId("c1"), "eth0"),
            PodRef("default", "web", PodUid("uid-1")),
            "/var/run/netns/cni-1",
            (IPv4Address("10.0.16.7"),),
        ),
    )


def test_other_networks_are_none_of_ours(tmp_path: Path) -> None:
    """Also one whose name begins like ours."""
    write(tmp_path, "cbr0-c1-eth0", cached(networkName="cbr0"))
    write(tmp_path, "eniway-too-c1-eth0", cached(networkName="eniway-too"))
    assert remembered(tmp_path) == ()


@pytest.mark.parametrize(
    "bad",
    [
        {},
        cached(result={}),
        cached(result={"interfaces": [{"name": "eth0"}]}),
        cached(cniArgs=[]),
        cached(cniArgs=[["K8S_POD_UID"]]),
        cached(kind="something-newer"),
        [],
    ],
)
def test_what_makes_no_sense_is_passed_over(tmp_path: Path, bad: object) -> None:
    """And keeps nothing else from being read."""
    write(tmp_path, "eniway-c0-eth0", bad)
    (tmp_path / "eniway-c00-eth0").write_bytes(b"\x00garbage")
    write(tmp_path, "eniway-c1-eth0", cached())
    assert [sandbox.key.container_id for sandbox in remembered(tmp_path)] == ["c1"]


def test_a_runtime_that_remembers_nothing_is_no_error(tmp_path: Path) -> None:
    """The directory may not be there."""
    assert remembered(tmp_path / "none") == ()
