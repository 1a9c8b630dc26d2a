"""containerd 1.6 of Debian 12 beside a node's own: sandboxes by its CRI. Its CNI is libcni 1.1, at most 1.0.0."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from demo.box import Box, Instance
from tests.conformance import on_node
from tests.conformance.on_node import Finding

NEWEST: Final = "1.0.0"
"""libcni 1.1 fails on a result of 1.1.0."""
_RUN: Final = "/run/containerd-debian"
_PATIENCE: Final = 60.0
_PAUSE: Final = "registry.k8s.io/pause"
_WIRE_BYTES: Final = 2
_VERBOSE: Final = b"\x08\x01"
"""StatusRequest.verbose"""


def findings(box: Box, scratch: Path) -> Iterator[Finding]:
    """A sandbox's life under each version that this containerd has, and by the conflist as eniway installs it."""
    [node] = box.status().nodes
    installed = json.loads(box.sh(node.name, ["cat", str(on_node.CONFLIST)]))
    plain = {key: value for key, value in installed.items() if key != "cniVersions"}
    versions = [version for version in on_node.VERSIONS if version <= NEWEST]
    with _containerd(box, node, scratch) as runtime:
        for version in versions:
            yield version, "Debian's", "a sandbox", runtime.life({**plain, "cniVersion": version})
        yield NEWEST, "Debian's", "as installed", runtime.life(installed)


class _Runtime:
    """The CRI (k8s.io/cri-api runtime/v1) as far as it takes to run a sandbox."""

    def __init__(self, node: Instance, cgroup: str) -> None:
        self._inside = Path(f"/proc/{node.pid}/root")
        self._cgroup = cgroup
        self._channel = grpc.insecure_channel(f"unix:{self._inside}{_RUN}/containerd.sock")
        self._serial = 0

    def life(self, conflist: dict[str, object]) -> str:
        """Run a sandbox, see that it has an address, end it; what was wrong."""
        self._serial += 1
        name = f"debian-{self._serial}"
        (self._inside / _RUN.lstrip("/") / "net.d" / "10-test.conflist").write_text(
            json.dumps({**conflist, "name": name})
        )
        metadata = _text(1, name) + _text(2, f"uid-of-{name}") + _text(3, "conformance")
        annotation = _text(1, "eniway.io/network") + _text(2, "routed")
        config = _field(1, metadata) + _field(7, annotation) + _field(8, _text(1, self._cgroup))
        try:
            self._until_loaded(name)
            sandbox = _first(self._call("RunPodSandbox", _field(1, config)), 1)
            status = _first(self._call("PodSandboxStatus", _field(1, sandbox)), 1)
            address = _first(_first(status, 5), 1).decode()
            for verb in ("StopPodSandbox", "RemovePodSandbox"):
                self._call(verb, _field(1, sandbox))
        except (grpc.RpcError, TimeoutError) as error:
            return str(error)
        return "" if address.startswith("172.20.") else f"the routed sandbox has the address {address!r}"

    def _until_loaded(self, network: str) -> None:
        """It reads the file when the kernel tells it; its verbose status shows what it has read."""
        deadline = time.monotonic() + _PATIENCE
        while network.encode() not in self._call("Status", _VERBOSE):
            if time.monotonic() > deadline:
                raise TimeoutError(f"containerd did not read the network {network}")
            time.sleep(0.1)

    def serves(self) -> bool:
        """Whether it has its network's configuration and answers."""
        try:
            self._call("Version", b"")
        except grpc.RpcError:
            return False
        return True

    def _call(self, method: str, request: bytes) -> bytes:
        answer: bytes = self._channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")(request, timeout=_PATIENCE)
        return answer


@contextmanager
def _containerd(box: Box, node: Instance, scratch: Path) -> Iterator[_Runtime]:
    """Debian's, serving, with nothing of it left at the end but its package."""
    package = scratch / "containerd-debian"
    if not (package / "usr/bin/containerd").exists():
        package.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", "containerd"], cwd=package, check=True)
        [archive] = package.glob("containerd_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, package], check=True)
    programs = package.absolute() / "usr/bin"
    [images] = box.state.rglob("box-images.tar")
    kubelet = next(box.state.rglob(f"{node.name}/kubernetes/kubelet.yaml")).read_text()
    cgroup = next(line.split(": ")[1] for line in kubelet.splitlines() if line.startswith("cgroupRoot: "))
    box.sh(node.name, ["mkdir", "-p", f"{_RUN}/net.d"])
    pause = next(line for line in _config_of(box, node).splitlines() if _PAUSE in line).split('"')[1]
    inside = Path(f"/proc/{node.pid}/root{_RUN}")
    (inside / "config.toml").write_text(_configuration(pause))
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    argv = box.argv("sh", node.name, "--", "env", f"PATH={path['PATH']}", "containerd", f"--config={_RUN}/config.toml")
    with (
        (scratch / "containerd-debian.log").open("wb") as log,
        subprocess.Popen(argv, stdout=log, stderr=log) as process,
    ):
        try:
            runtime = _Runtime(node, cgroup)
            deadline = time.monotonic() + _PATIENCE
            while not runtime.serves():
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"containerd 1.6 does not serve; see {log.name}")
                time.sleep(0.2)
            ctr = [str(programs / "ctr"), f"--address={_RUN}/containerd.sock", "--namespace=k8s.io"]
            box.sh(node.name, [*ctr, "images", "import", "--snapshotter=native", str(images)])
            yield runtime
        finally:
            process.terminate()


def _config_of(box: Box, node: Instance) -> str:
    return next(box.state.rglob(f"{node.name}/kubernetes/containerd.toml")).read_text()


def _configuration(pause: str) -> str:
    """In version 2, the newest that 1.6 reads."""
    return f"""\
version = 2
root = "{_RUN}/root"
state = "{_RUN}/state"
[grpc]
  address = "{_RUN}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "{_RUN}/net.d"
"""


# --- protobuf, of which no more is needed than messages and strings


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _WIRE_BYTES]) + _varint(len(content)) + content


def _text(number: int, content: str) -> bytes:
    return _field(number, content.encode())


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _first(message: bytes, number: int) -> bytes:
    """The first field of that number, a message or string; empty where there is none."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        if tag & 7 == _WIRE_BYTES:
            if tag >> 3 == number:
                return message[at : at + value]
            at += value
    return b""


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
