"""A component's own kubeconfig, without the client library."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from eniway.errors import KubeError
from eniway.kube.kubeconfig import plain
from vpcbox.cluster import certs, config

CA = certs.authority("test", now=datetime(2026, 1, 1, tzinfo=UTC))


def written(tmp_path: Path, **user: object) -> Path:
    path = tmp_path / "kubeconfig"
    text = config.kubeconfig("https://10.0.0.1:6443", "me", CA.pair.certificate, CA.issue("me"))
    found = yaml.safe_load(text)
    if user:
        found["users"][0]["user"] = user
    path.write_text(yaml.safe_dump(found))
    return path


def test_a_certificate_is_taken_from_the_file_itself(tmp_path: Path) -> None:
    """As kubeadm and the box write it."""
    found = plain(written(tmp_path))
    assert found is not None
    server, tls, token = found
    assert (server, token(), len(tls.get_ca_certs())) == ("https://10.0.0.1:6443", None, 1)


def test_a_token_file_is_read_each_time(tmp_path: Path) -> None:
    """Relative to the kubeconfig; tokens are rotated."""
    (tmp_path / "token").write_text("one\n")
    found = plain(written(tmp_path, tokenFile="token"))
    assert found is not None
    assert found[2]() == "one"
    (tmp_path / "token").write_text("two\n")
    assert found[2]() == "two"


def test_who_runs_a_program_to_log_in_is_left_to_the_library(tmp_path: Path) -> None:
    """Its result would have to be renewed."""
    assert plain(written(tmp_path, exec={"command": "login"})) is None


@pytest.mark.parametrize("text", ["- a list", "{", "current-context: gone", "clusters: 1"])
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    """Whatever is wrong with it."""
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(KubeError, match=str(path)):
        plain(path)
