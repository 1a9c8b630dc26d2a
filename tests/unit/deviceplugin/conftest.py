"""What tests of kubelet's door ask for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from eniway.model import Slot
from tests.unit.deviceplugin.kubelet import Device, Kubelet, Slots


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A short path: a unix socket's has at most 107 bytes."""
    short = Path(f"/tmp/eniway-test-{os.getpid()}-{tmp_path.name[-20:]}")
    short.symlink_to(tmp_path)
    yield short
    short.unlink()


@pytest.fixture
async def kubelet(root: Path) -> AsyncIterator[Kubelet]:
    """A kubelet that runs."""
    async with Kubelet(root) as running:
        yield running


@pytest.fixture
def kubelet_class() -> type[Kubelet]:
    """For tests that start and stop it themselves."""
    return Kubelet


@pytest.fixture
def make_slots() -> Callable[..., Slots]:
    """Slots from (slot, healthy, warm)."""
    return lambda *devices: Slots(*(Device(Slot(slot), healthy, warm) for slot, healthy, warm in devices))


@pytest.fixture
def device() -> type[Device]:
    """One slot."""
    return Device
