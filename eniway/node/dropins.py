"""What the host's own network services are told, in files of theirs: that our links and cards are not for them.

systemd-networkd configures every card it knows a file for and, restarted, removes rules and routes that are not its
own; NetworkManager runs DHCP on cards that appear; Alibaba Cloud's eni.service gives each ENI an address and rules by
it. Each reads its files when it starts, so these hold from the host's next boot, or from the service's next start;
until then the sweep undoes what they do. Nothing of the host is started, stopped or changed otherwise.

The cards that are kept from them are those with the driver of the primary card, but for the primary one and others that
are here and not ours.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eniway import log, names
from eniway.model import Mac

HOST_ETC: Final = Path("/host/etc")
"""Where folders of the host's /etc are mounted in the daemon's container, those of the services below and no other."""
SYS_NET: Final = Path("/sys/class/net")
_NOBODY: Final = Path("/dev/null")
_HEAD: Final = f"# Written by eniway ({names.GROUP}), which has these links for itself.\n"

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class HostCards:
    """Cards of the host that its own services keep."""

    driver: str
    """Of the primary card; empty where it has none, as a virtual link."""
    kept: tuple[str, ...]
    """Names of links with that driver that are not ours, the primary card's first."""


def render(cards: HostCards) -> Mapping[str, str | None]:
    """Contents by path below /etc; None: a link to /dev/null, which masks what the system has of that name."""
    pods = f"{names.LINK_PREFIX}*"
    networkd = f"{_HEAD}[Match]\nName={{}}\n\n[Link]\nUnmanaged=yes\n"
    manager = f"{_HEAD}[device-eniway-pods]\nmatch-device=interface-name:{pods}\nmanaged=0\n"
    found: dict[str, str | None] = {
        "systemd/networkd.conf.d/eniway.conf": (
            f"{_HEAD}[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
        ),
        "systemd/network/00-eniway-pods.network": networkd.format(pods),
        "systemd/system/eni.service": None,
        "udev/rules.d/61-eni.rules": None,
    }
    if cards.driver:
        found["systemd/network/00-eniway-cards.network"] = networkd.format(
            f"!{' '.join(cards.kept)}\nDriver={cards.driver}"
        )
        spared = "".join(f",except:interface-name:{name}" for name in cards.kept)
        manager += f"\n[device-eniway-cards]\nmatch-device=driver:{cards.driver}{spared}\nmanaged=0\n"
    found["NetworkManager/conf.d/eniway.conf"] = manager
    return found


def observe(primary: Mac, own: Collection[Mac], *, sys: Path = SYS_NET) -> HostCards:
    """The cards as sysfs shows them; ``own``: MACs of all cards that eniway made."""
    found: dict[str, tuple[str, str]] = {}
    for link in sorted(sys.glob("*")):
        try:
            driver = os.path.basename((link / "device" / "driver").readlink())  # noqa: PTH119 -- the end of a link
            found[link.name] = (driver, (link / "address").read_text(encoding="ascii").strip())
        except OSError:
            continue  # virtual, or gone meanwhile
    first = next((name for name, (_, mac) in found.items() if mac == primary), None)
    if first is None:
        return HostCards("", ())
    driver = found[first][0]
    others = (name for name, (its, mac) in found.items() if its == driver and mac not in own and name != first)
    return HostCards(driver, (first, *others))


def install(cards: HostCards, etc: Path = HOST_ETC) -> None:
    """Write what is not there yet, for those services alone whose folder is mounted. Failures are logged, no more."""
    for path, text in render(cards).items():
        service, _, _ = path.partition("/")
        target = etc / path
        if not (etc / service).is_dir():
            continue
        try:
            written = _mask(target) if text is None else _write(target, text)
        except OSError as error:
            _log.warning("a file for the host's network services was not written", path=path, error=str(error))
            continue
        if written:
            _log.info("the host's network service is told to leave our cards alone", path=path)


def remove(etc: Path = HOST_ETC) -> None:
    """Take away what ``install`` wrote: files that begin as ours do, and the masks, whoever made those."""
    for path, text in render(HostCards("any", ("any",))).items():
        target = etc / path
        try:
            if text is None:
                ours = target.is_symlink() and target.readlink() == _NOBODY
            else:
                ours = target.is_file() and target.read_text(encoding="utf-8").startswith(_HEAD)
            if ours:
                target.unlink()
        except OSError as error:
            _log.warning("a file for the host's network services was not removed", path=path, error=str(error))


def _write(target: Path, text: str) -> bool:
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(target)
    return True


def _mask(target: Path) -> bool:
    """What somebody put there is left as it is."""
    if target.is_symlink() or target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(_NOBODY)
    return True
