import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from image import oci

SETTINGS = oci.Settings(
    name="eniway.io/eniway:1.2.3",
    architecture="amd64",
    entrypoint=("/usr/bin/eniway",),
    environment={"PATH": "/bin", "LANG": "C.UTF-8"},
    labels={"b": "2", "a": "1"},
    created=1_735_689_600,
)


@pytest.fixture
def layers(tmp_path: Path) -> list[oci.Layer]:
    made = []
    for name in ("low", "high"):
        path = tmp_path / name
        path.write_bytes(name.encode() * 1000)
        made.append(oci.Layer(path, oci.hash_file(path), name))
    return made


def blobs(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {entry.name: opened.extractfile(entry).read() for entry in opened.getmembers()}  # type: ignore[union-attr]


def follow(held: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    """The blob of a descriptor, after its size and digest were checked against it."""
    data = held["blobs/" + descriptor["digest"].replace(":", "/")]
    assert len(data) == descriptor["size"]
    assert "sha256:" + hashlib.sha256(data).hexdigest() == descriptor["digest"]
    return data


def test_index_manifest_config_and_layers_form_one_chain(tmp_path: Path, layers: list[oci.Layer]) -> None:
    """From the index every blob is reached by a descriptor that states its size and digest, layers lowest first."""
    target = tmp_path / "image.tar"
    digest, _ = oci.write(target, SETTINGS, layers)
    held = blobs(target)
    assert json.loads(held["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(held["index.json"])["manifests"]
    assert entry["digest"] == digest
    manifest = json.loads(follow(held, entry))
    config = json.loads(follow(held, manifest["config"]))
    assert [follow(held, layer) for layer in manifest["layers"]] == [layer.path.read_bytes() for layer in layers]
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert len(held) == 2 + 2 + len(layers)


def test_the_image_is_named_as_a_pod_names_it(tmp_path: Path, layers: list[oci.Layer]) -> None:
    """The runtime reads the whole name, other tools the tag."""
    target = tmp_path / "image.tar"
    oci.write(target, SETTINGS, layers)
    annotations = json.loads(blobs(target)["index.json"])["manifests"][0]["annotations"]
    assert annotations["io.containerd.image.name"] == "eniway.io/eniway:1.2.3"
    assert annotations["org.opencontainers.image.ref.name"] == "1.2.3"


def test_same_layers_and_settings_give_the_same_bytes(tmp_path: Path, layers: list[oci.Layer]) -> None:
    """Nothing of the machine or the moment is in the archive."""
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    assert oci.write(first, SETTINGS, layers) == oci.write(second, SETTINGS, layers)
    assert first.read_bytes() == second.read_bytes()


def test_an_archive_of_the_same_content_is_left_alone(tmp_path: Path, layers: list[oci.Layer]) -> None:
    """Written once, again when it is gone, again when a layer changed; else not."""
    target = tmp_path / "image.tar"
    assert oci.write(target, SETTINGS, layers)[1]
    assert not oci.write(target, SETTINGS, layers)[1]
    target.unlink()
    assert oci.write(target, SETTINGS, layers)[1]
    assert oci.write(target, SETTINGS, layers[:1])[1]


def test_a_layer_used_twice_is_stored_once(tmp_path: Path, layers: list[oci.Layer]) -> None:
    """A blob's name is its digest: two of one name would be two files of one name in the archive."""
    target = tmp_path / "image.tar"
    oci.write(target, SETTINGS, [layers[0], layers[0]])
    with tarfile.open(target) as opened:
        names = opened.getnames()
    assert len(names) == len(set(names))


def test_a_failed_write_leaves_the_old_archive(tmp_path: Path, layers: list[oci.Layer]) -> None:
    """The archive is replaced whole or not at all."""
    target = tmp_path / "image.tar"
    oci.write(target, SETTINGS, layers)
    before = target.read_bytes()
    gone = oci.Layer(tmp_path / "gone", layers[0].digest, "gone")
    with pytest.raises(FileNotFoundError):
        oci.write(target, SETTINGS, [gone])
    assert target.read_bytes() == before
