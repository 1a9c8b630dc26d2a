from pathlib import Path

import pytest

from image import debian

DUMP = """\
Acquire "";
Acquire::http::Proxy "http://proxy:3128";
Acquire::https::CaInfo "/etc/ssl/certs/mine.pem";
Acquire::Check-Valid-Until "false";
Acquire::Languages:: "none";
Acquire::IndexTargets::deb::Packages::MetaKey "x";
Acquire::https "";
DPkg::Post-Invoke:: "rm -f /var/cache/apt/*.deb || true";
"""
DEBIAN_12 = "ID=debian\nVERSION_CODENAME=bookworm\n"


def test_only_what_says_how_a_mirror_is_reached_is_taken_over() -> None:
    """Proxies, certificates and checks of the machine count; its languages, hooks and empty values do not."""
    assert debian.acquire_settings(DUMP) == {
        "Acquire::http::Proxy": "http://proxy:3128",
        "Acquire::https::CaInfo": "/etc/ssl/certs/mine.pem",
        "Acquire::Check-Valid-Until": "false",
    }


@pytest.mark.parametrize("name", ["apt/sources.list.d/debian.sources", "apt/sources.list"])
def test_the_machines_own_mirror_is_used_on_the_same_debian(tmp_path: Path, name: str) -> None:
    """A site with a mirror of its own builds from that."""
    (tmp_path / "os-release").write_text(DEBIAN_12)
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text("deb …")
    assert debian.machine_sources(tmp_path) == path


@pytest.mark.parametrize("release", [None, DEBIAN_12.replace("bookworm", "trixie")])
def test_another_systems_mirror_is_not_used(tmp_path: Path, release: str | None) -> None:
    """Its packages would be of another release."""
    if release:
        (tmp_path / "os-release").write_text(release)
    path = tmp_path / "apt/sources.list"
    path.parent.mkdir(parents=True)
    path.write_text("deb …")
    assert debian.machine_sources(tmp_path) is None


def test_what_differs_between_machines_is_not_part_of_the_key() -> None:
    """Mirror and proxy change how the packages come, not what they are."""
    plain = debian.command(Path("-"), trim=Path("trim.sh"), sources=None, settings={})
    local = debian.command(Path("-"), trim=Path("trim.sh"), sources=Path("/x"), settings={"Acquire::Retries": "3"})
    assert set(plain) < set(local)
    assert debian.inputs()[0] == "\0".join(plain).encode()
