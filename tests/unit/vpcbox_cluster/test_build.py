"""The laws of the component cache."""

from pathlib import Path

import pytest

from vpcbox.cluster.components import ComponentError, ComponentSet, ensure
from vpcbox.cluster.components.build import cache_directory, pins


def test_what_the_cache_has_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every group in the cache neither Go nor the network is needed, and nothing is said."""
    monkeypatch.setenv("ENIWAY_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    (etcd,) = pins(["etcd"])
    folder = tmp_path / "components" / etcd.key / "bin"
    folder.mkdir(parents=True)
    said: list[str] = []
    assert ensure(["etcd"], said.append).path("etcd") == folder / "etcd"
    assert said == []


def test_an_unknown_group_is_refused_and_the_known_ones_are_named() -> None:
    """A misspelt group builds nothing."""
    with pytest.raises(ComponentError, match=r"unknown component group kubernets; expected any of .*kubernetes"):
        ensure(["etcd", "kubernets"])


def test_a_missing_component_is_named_with_those_there_are() -> None:
    """Asking for a program outside the built groups says which there are."""
    with pytest.raises(ComponentError, match="component 'kwok' was not built; there are etcd"):
        ComponentSet({"etcd": Path("/bin/etcd")}).path("kwok")


def test_the_cache_stands_outside_the_checkout() -> None:
    """ENIWAY_CACHE chooses the place, an empty one is as none, and the result is absolute."""
    assert cache_directory({"ENIWAY_CACHE": "/srv/cache"}) == Path("/srv/cache/components")
    assert cache_directory({"ENIWAY_CACHE": ""}) == cache_directory({}) == Path.home() / ".cache/eniway/components"
    assert cache_directory({"ENIWAY_CACHE": "relative"}).is_absolute()
