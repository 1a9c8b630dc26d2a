"""An image as one archive: the layout of the OCI image specification (v1.1: image-layout.md, config.md) in a tar.

Layers are left uncompressed: the archive is read from the same disk it was written to. Two archives of the same layers
and settings are the same, byte for byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NewType

Digest = NewType("Digest", str)
"""``sha256:`` and 64 hex digits."""

INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Layer:
    """An uncompressed layer on disk: its digest is its diff id too."""

    path: Path
    digest: Digest
    comment: str
    """What is in it, as the image's history says."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a container of the image starts with."""

    name: str
    """Repository and tag, as a pod spec writes it."""
    architecture: str
    """As GOARCH."""
    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    created: int
    """Seconds since 1970; part of the digest."""


def digest_of(data: bytes) -> Digest:
    """The OCI digest of ``data``."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def config(settings: Settings, layers: Sequence[Layer]) -> dict[str, Any]:
    """The image configuration (config.md)."""
    created = datetime.fromtimestamp(settings.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "created": created,
        "architecture": settings.architecture,
        "os": "linux",
        "config": {
            "Entrypoint": list(settings.entrypoint),
            "Env": [f"{key}={value}" for key, value in sorted(settings.environment.items())],
            "Labels": dict(sorted(settings.labels.items())),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        "history": [{"created": created, "created_by": "image.build", "comment": layer.comment} for layer in layers],
    }


def write(target: Path, settings: Settings, layers: Sequence[Layer]) -> tuple[Digest, bool]:
    """Write the archive to ``target``, whole or not at all: the manifest's digest, and whether it was not there yet.

    What an archive holds is noted beside it, so that one of the same content is left alone.
    """
    config_data = _json(config(settings, layers))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, digest_of(config_data), len(config_data)),
        "layers": [_descriptor(LAYER_TYPE, layer.digest, layer.path.stat().st_size) for layer in layers],
    }
    manifest_data = _json(manifest)
    manifest_digest = digest_of(manifest_data)
    note = target.with_name(target.name + ".digest")
    if target.exists() and note.exists() and note.read_text(encoding="ascii") == manifest_digest:
        return manifest_digest, False
    note.unlink(missing_ok=True)
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [
            _descriptor(MANIFEST_TYPE, manifest_digest, len(manifest_data))
            | {
                "platform": {"architecture": settings.architecture, "os": "linux"},
                # containerd names the image by the first, other tools by the second
                "annotations": {
                    "io.containerd.image.name": settings.name,
                    "org.opencontainers.image.ref.name": settings.name.rpartition(":")[2],
                },
            }
        ],
    }
    partial = target.with_name(target.name + ".partial")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}), settings.created)
        _add(archive, "index.json", _json(index), settings.created)
        _add(archive, _blob(manifest_digest), manifest_data, settings.created)
        _add(archive, _blob(digest_of(config_data)), config_data, settings.created)
        for layer in {layer.digest: layer for layer in layers}.values():
            entry = _entry(_blob(layer.digest), layer.path.stat().st_size, settings.created)
            with layer.path.open("rb") as blob:
                archive.addfile(entry, blob)
    partial.replace(target)
    note.write_text(manifest_digest, encoding="ascii")
    return manifest_digest, True


def hash_file(path: Path) -> Digest:
    """The OCI digest of a file."""
    with path.open("rb") as blob:
        return Digest("sha256:" + hashlib.file_digest(blob, "sha256").hexdigest())


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _entry(name: str, size: int, mtime: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, mtime, 0o644
    return entry


def _add(archive: tarfile.TarFile, name: str, data: bytes, mtime: int) -> None:
    archive.addfile(_entry(name, len(data), mtime), io.BytesIO(data))
