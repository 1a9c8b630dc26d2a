"""A real API server with its etcd, on loopback, in a directory of a test's own: no nodes, no controllers."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from vpcbox.cluster import certs, commands, config, files
from vpcbox.cluster.api import Api
from vpcbox.cluster.components import ensure

LOOPBACK = IPv4Address("127.0.0.1")
_PATIENCE = 90.0


@dataclass(frozen=True)
class ApiServer:
    """Where it is, and how to be somebody there."""

    directory: Path
    port: int
    authority: certs.Authority
    pid: int

    def kubeconfig(self, user: str, *groups: str) -> Path:
        """A kubeconfig of a user, by certificate."""
        path = self.directory / f"{user.replace(':', '-')}.conf"
        pair = self.authority.issue(user, groups=groups)
        server = f"https://127.0.0.1:{self.port}"
        path.write_text(config.kubeconfig(server, user, self.authority.pair.certificate, pair))
        return path

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """It takes connections and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """As the administrator."""
        program = ensure(["kubernetes"]).path("kubectl")
        argv = [str(program), f"--kubeconfig={self.directory / 'admin.conf'}", *words]
        environment = {"HOME": str(self.directory)}
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout


@contextlib.contextmanager
def apiserver(directory: Path) -> Iterator[ApiServer]:
    """Up, and gone with everything it started. Skips where the components are not built."""
    cached = Path(os.environ.get("ENIWAY_CACHE") or Path.home() / ".cache/eniway") / "components"
    if not any(cached.glob("kubernetes-*")) or not any(cached.glob("etcd-*")):
        pytest.skip("the Kubernetes components are not built: `make components` builds them")
    components = ensure(["kubernetes", "etcd"])
    etcd_port, peer_port, api_port = free_ports(3)
    ca = certs.authority("test", now=datetime.now(UTC))
    pki = directory / "pki"
    pki.mkdir()
    for name, content in files.control_plane(ca, LOOPBACK).items():
        (pki / name).write_bytes(content)
    etcd_url = f"http://127.0.0.1:{etcd_port}"
    etcd = _changed(
        commands.etcd(directory / "etcd"),
        {
            "--listen-client-urls": etcd_url,
            "--advertise-client-urls": etcd_url,
            "--listen-peer-urls": f"http://127.0.0.1:{peer_port}",
        },
    )
    api = _changed(
        commands.kube_apiserver(pki, LOOPBACK),
        {
            "--etcd-servers": etcd_url,
            "--secure-port": str(api_port),
            "--bind-address": "127.0.0.1",
            # The endpoint of the Service must not be a loopback address; nobody uses it here
            "--advertise-address": "192.0.2.1",
        },
    )
    with contextlib.ExitStack() as stack:
        _, pid = (
            stack.enter_context(_running([str(components.path(argv[0])), *argv[1:]], directory / f"{argv[0]}.log"))
            for argv in (etcd, api)
        )
        server = ApiServer(directory, api_port, ca, pid)
        asyncio.run(_ready(server, pki))
        server.kubeconfig("admin", "system:masters")
        yield server


async def _ready(server: ApiServer, pki: Path) -> None:
    url = f"https://127.0.0.1:{server.port}"
    async with Api(url, pki / "ca.crt", pki / "admin.crt", pki / "admin.key") as api, asyncio.timeout(_PATIENCE):
        while not await api.ready():  # noqa: ASYNC110 -- another process
            await asyncio.sleep(0.2)


@contextlib.contextmanager
def _running(argv: list[str], log: Path) -> Iterator[int]:
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _changed(argv: list[str], options: Mapping[str, str]) -> list[str]:
    kept = [word for word in argv if re.sub("=.*", "", word) not in options]
    return [*kept, *(f"{name}={value}" for name, value in options.items())]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
