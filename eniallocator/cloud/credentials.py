"""Access keys from the files of a mounted Secret, read again when they change."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from eniway.errors import BadConfig


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key pair; the secret stays out of ``repr``."""

    key_id: str
    secret: str = field(repr=False)


class KeyFiles:
    """The files ``access_key_id`` and ``access_key_secret`` in a directory. Blocks; for the SDK's threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> AccessKey:
        """The key as it stands in the files now; BadConfig names the file that is missing or empty.

        kubelet swaps the files of a Secret by renaming the directory they are linked from: reading them each time (two
        small files) is the simplest thing that cannot miss that.
        """
        return AccessKey(self._one("access_key_id"), self._one("access_key_secret"))

    def _one(self, name: str) -> str:
        path = self._directory / name
        try:
            text = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BadConfig(
                f"{path}: cannot be read: {error.strerror}; expected a file of the mounted Secret"
            ) from error
        if not text:
            raise BadConfig(f"{path}: is empty; expected the {name.replace('_', ' ')}")
        return text
