"""What is written for the host's network services, and for which of them."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

from eniway.model import Mac
from eniway.node.dropins import HostCards, install, observe, remove, render

PRIMARY, OURS, FOREIGN = (Mac(f"00:16:3e:00:00:0{n}") for n in range(3))
CARDS = HostCards("virtio_net", ("eth0", "eth3"))


def link(sys: Path, name: str, mac: str, driver: str | None) -> None:
    """A link as sysfs shows it."""
    (sys / name).mkdir(parents=True)
    (sys / name / "address").write_text(f"{mac}\n")
    if driver is not None:
        (sys / name / "device").mkdir()
        (sys / name / "device" / "driver").symlink_to(f"../../../bus/virtio/drivers/{driver}")


def test_cards_of_others_are_kept_for_the_host(tmp_path: Path) -> None:
    """The primary card first, then what has its driver and is not ours; virtual links do not count."""
    link(tmp_path, "eth1", OURS, "virtio_net")
    link(tmp_path, "eth2", FOREIGN, "virtio_net")
    link(tmp_path, "ib0", FOREIGN, "mlx5_core")
    link(tmp_path, "ens5", PRIMARY, "virtio_net")
    link(tmp_path, "eniw0123456789a", "02:00:00:00:00:01", None)
    assert observe(PRIMARY, {PRIMARY, OURS}, sys=tmp_path) == HostCards("virtio_net", ("ens5", "eth2"))


def test_a_primary_card_without_a_driver_hides_no_others(tmp_path: Path) -> None:
    """Nobody knows then what is a card: pods' links alone are kept from the services."""
    link(tmp_path, "eth0", PRIMARY, None)
    found = observe(PRIMARY, (), sys=tmp_path)
    assert found == HostCards("", ())
    assert not any("Driver" in text or "driver" in text for text in render(found).values() if text)


@pytest.mark.parametrize(("path", "text"), [(path, text) for path, text in render(CARDS).items() if text])
def test_files_are_in_the_services_own_form(path: str, text: str) -> None:
    """Each key stands in a section; nothing names the cards that are kept but to spare them."""
    parser = ConfigParser(interpolation=None)
    parser.read_string(text)
    assert parser.sections()
    for section in parser.sections():
        match = parser[section].get("match-device", "")
        assert ("driver:" in match) == ("except:interface-name:eth0,except:interface-name:eth3" in match)
    if path.endswith("cards.network"):
        assert dict(parser["Match"]) == {"name": "!eth0 eth3", "driver": "virtio_net"}


def test_only_services_that_the_host_has_are_told(tmp_path: Path) -> None:
    """No folder of another is made, and what stands is not written again."""
    (tmp_path / "systemd").mkdir()
    install(CARDS, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()}
    assert {str(path.relative_to(tmp_path)) for path in written} == {
        path for path in render(CARDS) if path.startswith("systemd/")
    }
    install(CARDS, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_what_somebody_put_in_the_place_of_a_mask_stays(tmp_path: Path) -> None:
    """A unit of the administrator's own is theirs."""
    unit = tmp_path / "systemd" / "system" / "eni.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\n")
    install(CARDS, tmp_path)
    assert unit.read_text() == "[Unit]\n"


def test_a_host_that_cannot_be_written_to_keeps_nobody_from_serving(tmp_path: Path) -> None:
    """A read-only /etc is common on images for containers: the sweep does without."""
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd" / "network").write_text("a file where a folder should be")
    install(CARDS, tmp_path)
    assert (tmp_path / "systemd" / "networkd.conf.d" / "eniway.conf").is_file()


def test_leaving_takes_away_what_was_written_and_no_more(tmp_path: Path) -> None:
    """Files that begin as ours do, and masks; what others put there stays. A second time there is nothing to do."""
    for service in ("systemd", "NetworkManager", "udev"):
        (tmp_path / service).mkdir()
    unit = tmp_path / "systemd" / "system" / "eni.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\n")
    install(CARDS, tmp_path)
    theirs = tmp_path / "NetworkManager" / "conf.d" / "eniway.conf"
    theirs.write_text("[main]\n")
    for _ in range(2):
        remove(tmp_path)
        assert {path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()} == {unit, theirs}
