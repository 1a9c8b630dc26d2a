"""Container images without a registry: archives in the form of `docker save`, made of static binaries.

Form: https://github.com/moby/docker-image-spec/blob/main/spec.md (manifest.json, one config per image, layers as tar).
`ctr -n k8s.io image import` reads it. Pods of these images use imagePullPolicy IfNotPresent or Never.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PAUSE = "registry.k8s.io/pause:3.10"
AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.53"


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the archive: its name with tag, and what it runs."""

    name: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()


def box_images() -> list[Image]:
    """The images every node of a box has: the sandbox's and the one test pods are made of, both out of agnhost."""
    return [Image(PAUSE, ("/agnhost", "pause")), Image(AGNHOST, ("/agnhost",), ("pause",))]


def write_archive(
    target: Path, binaries: Iterable[Path], images: Sequence[Image], *, architecture: str = "amd64"
) -> None:
    """Write an archive of images that share one layer: `binaries`, under their own names, in the root.

    The same input gives the same bytes.
    """
    layer = _layer(binaries)
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    configs = [_config(image, diff_id, architecture) for image in images]
    manifest = [
        {"Config": f"{hashlib.sha256(config).hexdigest()}.json", "RepoTags": [image.name], "Layers": ["layer.tar"]}
        for image, config in zip(images, configs, strict=True)
    ]
    with tarfile.open(target, "w") as archive:
        _add(archive, "layer.tar", layer)
        for entry, config in zip(manifest, configs, strict=True):
            _add(archive, str(entry["Config"]), config)
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def unpack(archive: Path, root: Path) -> None:
    """Make the file system of the one image of an archive: an OCI layout (image-spec, image-layout.md), plain layers.

    Layers that take away what others brought (whiteouts) are not known here.
    """
    with tarfile.open(archive) as layout:

        def blob(digest: str) -> IO[bytes]:
            found = layout.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert found is not None
            return found

        index = layout.extractfile("index.json")
        assert index is not None
        (described,) = json.load(index)["manifests"]
        for layer in json.load(blob(described["digest"]))["layers"]:
            with tarfile.open(fileobj=blob(layer["digest"])) as content:
                # Python 3.11.2, as Debian 12 has it, knows no filters, and no argument for one
                content.extraction_filter = getattr(tarfile, "tar_filter", None)
                content.extractall(root)  # noqa: S202 - an image that was built here


def _layer(binaries: Iterable[Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for binary in binaries:
            _add(layer, binary.name, binary.read_bytes(), mode=0o755)
        # A file system where programs may keep temporary files, as images have it
        tmp = tarfile.TarInfo("tmp")
        tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
        layer.addfile(tmp)
    return buffer.getvalue()


def _config(image: Image, diff_id: str, architecture: str) -> bytes:
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": list(image.entrypoint),
            "Cmd": list(image.command),
            "Env": ["PATH=/"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "vpcbox"}],
    }
    return json.dumps(config, sort_keys=True).encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
