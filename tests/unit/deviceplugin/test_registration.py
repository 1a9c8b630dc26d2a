from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from deviceplugin.allocations import Allocations
from deviceplugin.registration import DevicePlugin
from eniway import names


@contextlib.asynccontextmanager
async def running(plugin: DevicePlugin) -> AsyncIterator[DevicePlugin]:
    """Run a plugin for the length of the context."""
    task = asyncio.ensure_future(plugin.run())
    try:
        yield plugin
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def plugin_in(directory: Path, slots: Any, seed: int = 1) -> DevicePlugin:
    """A plugin with sockets of its own in ``directory``."""
    return DevicePlugin(slots, Allocations(now=0.0), directory=directory, random=Random(seed))


@pytest.fixture
def slots(make_slots: Any) -> Any:
    """Two slots, the second warm."""
    return make_slots((1, True, False), (2, True, True))


async def test_registers_and_lists(kubelet: Any, slots: Any) -> None:
    """A running kubelet gets the resource, the options and the whole list."""
    async with running(plugin_in(kubelet.directory, slots)) as plugin:
        known = await kubelet.registered()
        assert known.request.resource_name == names.RESOURCE_ENI
        assert known.request.version == "v1beta1"
        assert "/" not in known.request.endpoint
        assert known.options.get_preferred_allocation_available
        assert await known.lists.get() == {"eni-slot-1": "Healthy", "eni-slot-2": "Healthy"}
        assert plugin.registered


async def test_waits_for_a_kubelet_that_comes_later(root: Path, kubelet_class: Any, slots: Any) -> None:
    """Neither the directory nor the socket has to exist at the start."""
    async with running(plugin_in(root / "device-plugins", slots)):
        await asyncio.sleep(0)
        async with kubelet_class(root) as kubelet:
            known = await kubelet.registered()
            assert known.request.resource_name == names.RESOURCE_ENI


async def test_a_restarted_kubelet_is_told_again_within_two_seconds(root: Path, kubelet_class: Any, slots: Any) -> None:
    """It wipes the directory and makes a new socket: a new server under a new name is registered."""
    async with running(plugin_in(root / "device-plugins", slots)):
        async with kubelet_class(root) as kubelet:
            first = await kubelet.registered()
        async with kubelet_class(root) as kubelet:
            second = await asyncio.wait_for(kubelet.registrations.get(), 2)
            assert second.request.endpoint != first.request.endpoint
            assert await second.lists.get() == {"eni-slot-1": "Healthy", "eni-slot-2": "Healthy"}
            assert sorted(path.name for path in kubelet.directory.iterdir()) == sorted(
                ["kubelet.sock", second.request.endpoint]
            )


async def test_a_removed_directory_is_watched_again(root: Path, kubelet_class: Any, slots: Any) -> None:
    """The directory itself may go and come back as another one."""
    async with running(plugin_in(root / "device-plugins", slots)):
        async with kubelet_class(root) as kubelet:
            await kubelet.registered()
        shutil.rmtree(root / "device-plugins")
        async with kubelet_class(root) as kubelet:
            await asyncio.wait_for(kubelet.registrations.get(), 2)


async def test_a_wiped_socket_alone_is_noticed(kubelet: Any, slots: Any) -> None:
    """Somebody removed our socket while kubelet's is the same: serve anew, register anew."""
    async with running(plugin_in(kubelet.directory, slots)):
        first = await kubelet.registered()
        (kubelet.directory / first.request.endpoint).unlink()
        second = await kubelet.registered()
        assert second.request.endpoint != first.request.endpoint


async def test_an_older_plugin_of_the_name_that_goes_takes_the_new_one_along_and_it_comes_back(
    kubelet: Any, slots: Any, make_slots: Any
) -> None:
    """Two plugins on one name: the end of the first throws out the second, which registers again."""
    other = make_slots((7, True, False))
    async with contextlib.AsyncExitStack() as old:
        await old.enter_async_context(running(plugin_in(kubelet.directory, other, seed=1)))
        await kubelet.registered()
        async with running(plugin_in(kubelet.directory, slots, seed=2)):
            second = await kubelet.registered()
            await old.aclose()
            third = await kubelet.registered()
            while third.request.endpoint == second.request.endpoint or "eni-slot-7" in await third.lists.get():
                third = await kubelet.registered()
            assert kubelet.plugins[names.RESOURCE_ENI] is third


async def test_the_list_is_sent_only_on_change(kubelet: Any, slots: Any, device: Any) -> None:
    """A change that changes nothing for kubelet sends nothing; one that does is sent whole."""
    async with running(plugin_in(kubelet.directory, slots)):
        known = await kubelet.registered()
        await known.lists.get()
        slots.become(device(1), device(2))
        slots.become(device(1, warm=True), device(2))
        slots.become(device(1, healthy=False), device(2))
        assert await asyncio.wait_for(known.lists.get(), 5) == {"eni-slot-1": "Unhealthy", "eni-slot-2": "Healthy"}
        assert known.lists.empty()
