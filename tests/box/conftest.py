"""Boxes for the tests: each is brought up once, by the command a user types, when the first test asks for it."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from demo.box import VPCBOX, Box
from tests.box import allocator_world
from tests.box.apiserver import ApiServer, apiserver
from tests.box.scheduling import MANIFESTS, prepare
from tests.box.virtual_time import VirtualLoop
from vpcbox.cluster.components import ensure

Kubectl = Callable[..., str]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Time is virtual where an allocator lives with its cloud in the test's own process."""
    alone = getattr(item.module, "rig", None) is allocator_world.rig  # type: ignore[attr-defined]  # any test has one
    return {"virtual": VirtualLoop} if alone else {"real": asyncio.new_event_loop}


def _boxed(state: Path, install: str) -> Iterator[Box]:
    if os.geteuid() != 0:
        pytest.skip("a box is made of namespaces, mounts and cgroups: it needs root")
    if not VPCBOX.exists():
        pytest.skip(f"no {VPCBOX}: the checkout is not installed")
    box = Box(state)
    try:
        box.run("up", "--nodes", "3", "--install", install)
        yield box
    finally:
        box.run("down")


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Three nodes with eniway on them, Ready."""
    yield from _boxed(tmp_path_factory.mktemp("eniway") / "box", "eniway")


@pytest.fixture(scope="module")
def bare_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Three nodes without a pod network, for a module's tests: three nodes more are a load for all that follow."""
    yield from _boxed(tmp_path_factory.mktemp("bare") / "box", "none")


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server alone, with what operator and extender need there; whoever makes Nodes ends them."""
    with apiserver(tmp_path_factory.mktemp("apiserver")) as server:
        prepare(server)
        for name in ("base/operator.yaml", "control-plane/bind.yaml"):
            server.kubectl("apply", "--filename", str(MANIFESTS / name))
        yield server


@pytest.fixture(scope="session")
def kubectl_of() -> Callable[[Box], Kubectl]:
    """Given a box, the real kubectl on it: kubectl(*words, stdin="") returns what it prints."""
    program = ensure(["kubernetes"]).path("kubectl")

    def of(box: Box) -> Kubectl:
        kubeconfig = box.status().kubeconfig

        def kubectl(*words: str, stdin: str = "") -> str:
            argv = [str(program), f"--kubeconfig={kubeconfig}", *words]
            done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
            return done.stdout

        return kubectl

    return of
