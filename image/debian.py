"""The lowest layer: a Debian 12 root with Python, iptables (both back ends), nft and ipset, made by mmdebstrap."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
PACKAGES: Final = (
    "ca-certificates",
    "ipset",  # a member of a set is changed over netlink; the command is for people
    "iptables",
    "nftables",
    "libpython3.11-stdlib",
    "libstdc++6",  # grpc
    "python3.11-minimal",
    "usr-is-merged",  # else usrmerge comes, and perl's 50 MB with it
)
LEFT_OUT: Final = ("doc", "man", "info", "locale", "lintian", "bash-completion")
"""Folders of /usr/share that are not unpacked; licences are."""
ACQUIRE: Final = frozenset({"http", "https", "Check-Date", "Check-Valid-Until", "Retries"})
"""Parts of apt's Acquire settings that say how a mirror is reached."""
TRIM: Final = Path(__file__).with_name("trim.sh")


def inputs() -> list[bytes]:
    """What the layer depends on, for its key; a newer version of a package is not among it."""
    plain = command(Path("-"), trim=Path(TRIM.name), sources=None, settings={})
    return ["\0".join(plain).encode(), TRIM.read_bytes()]


def command(target: Path, *, trim: Path, sources: Path | None, settings: dict[str, str]) -> list[str]:
    """How mmdebstrap is called; ``sources`` and ``settings`` are the machine's own apt sources and Acquire settings."""
    return [
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        f"--include={','.join(PACKAGES)}",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *(f'--aptopt={key} "{value}"' for key, value in sorted(settings.items())),
        f"--customize-hook={trim}",
        "--skip=output/dev",  # the container runtime makes its own
        # The trim does it whole: what mmdebstrap leaves is apt's user's or root's, by who may enter the build's folder
        "--skip=cleanup/apt",
        "--format=tar",
        SUITE,
        str(target),
        *([str(sources)] if sources else []),
    ]


def write(target: Path, *, mtime: int) -> None:
    """Make the layer."""
    settings = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    made = subprocess.run(
        command(target, trim=TRIM, sources=machine_sources(), settings=acquire_settings(settings)),
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"SOURCE_DATE_EPOCH": str(mtime)},
        text=True,
    )
    if made.returncode:
        raise SystemExit(f"mmdebstrap failed:\n{made.stdout}")


def machine_sources(etc: Path = Path("/etc")) -> Path | None:
    """This machine's own apt sources where it runs the same Debian, else None for Debian's default."""
    release = etc / "os-release"
    if not release.exists() or f"VERSION_CODENAME={SUITE}" not in release.read_text(encoding="utf-8").splitlines():
        return None
    candidates = (etc / "apt/sources.list.d/debian.sources", etc / "apt/sources.list")
    return next((path for path in candidates if path.exists() and path.stat().st_size), None)


def acquire_settings(dump: str) -> dict[str, str]:
    """How this machine reaches its mirrors, of the lines ``Key "value";`` of ``apt-config dump``."""
    settings = {}
    for line in dump.splitlines():
        key, _, value = line.partition(" ")
        text = value.removesuffix(";").strip('"')
        parts = key.split("::")
        if parts[0] == "Acquire" and parts[1:2] and parts[1] in ACQUIRE and parts[-1] and text:
            settings[key] = text
    return settings
