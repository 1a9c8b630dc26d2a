"""With which key the OpenAPI is called, and keys from the files of a mounted Secret.

Four ways to a key: the files of an access key; the same with a session's token beside them, renewed by whoever writes
the Secret; the RAM role of the instance and a RAM role by an OIDC token (RRSA), both in ``sessions``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from eniway.errors import BadConfig


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key pair, with the security token of a session; secret and token stay out of ``repr``."""

    key_id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    """Empty for a lasting key."""


class Keys(Protocol):
    """Where keys come from."""

    async def key(self) -> AccessKey:
        """The key to sign with now. BadConfig where files are wrong, NotReady where there is none at present."""
        ...

    def rejected(self, key: AccessKey) -> None:
        """The cloud does not accept ``key`` (any more): it is not to come from a memory the next time."""
        ...


class KeyFiles:
    """The files ``access_key_id``, ``access_key_secret`` and, for a session, ``security_token`` in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def key(self) -> AccessKey:
        """As Keys says."""
        return await asyncio.to_thread(self.read)

    def rejected(self, key: AccessKey) -> None:
        """The files are read each time."""

    def read(self) -> AccessKey:
        """The key as it stands in the files now; BadConfig names the file that is missing or empty. Blocks.

        kubelet swaps the files of a Secret by renaming ``..data``, the link that leads to all of them: followed once,
        the files are of one writing. Reading them each time is the simplest thing that cannot miss a change.
        """
        written = self._directory / "..data"
        at = written.resolve() if written.is_symlink() else self._directory
        token = self._one(at, "security_token") if (at / "security_token").exists() else ""
        return AccessKey(self._one(at, "access_key_id"), self._one(at, "access_key_secret"), token)

    def _one(self, at: Path, name: str) -> str:
        path = self._directory / name
        try:
            text = (at / name).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BadConfig(
                f"{path}: cannot be read: {error.strerror}; expected a file of the mounted Secret"
            ) from error
        if not text:
            raise BadConfig(f"{path}: is empty; expected the {name.replace('_', ' ')}")
        return text
