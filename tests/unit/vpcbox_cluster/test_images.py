"""The laws of images made without a registry."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from vpcbox.cluster.images import AGNHOST, PAUSE, box_images, write_archive


def test_an_archive_holds_every_image_with_its_layer(tmp_path: Path) -> None:
    """What manifest.json names is in the archive, under the digests the configs say."""
    with tarfile.open(_archive(tmp_path, "one.tar")) as archive:
        manifest = json.loads(_read(archive, "manifest.json"))
        assert [image["RepoTags"] for image in manifest] == [[PAUSE], [AGNHOST]]
        for image in manifest:
            config = _read(archive, image["Config"])
            assert image["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"
            (layer,) = [_read(archive, name) for name in image["Layers"]]
            assert json.loads(config)["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
            with tarfile.open(fileobj=io.BytesIO(layer)) as root:
                program = json.loads(config)["config"]["Entrypoint"][0].removeprefix("/")
                assert root.getmember(program).mode & 0o111


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """A second box's images have the digests of the first's."""
    assert _archive(tmp_path, "one.tar").read_bytes() == _archive(tmp_path, "two.tar").read_bytes()


def _archive(folder: Path, name: str) -> Path:
    (folder / "agnhost").write_bytes(b"\x7fELF")
    write_archive(folder / name, [folder / "agnhost"], box_images())
    return folder / name


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None
    return member.read()
