"""The life of a daemon's process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from eniway import log

_log = log.get(__name__)


async def until_told(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``work`` and cancel it at SIGTERM or SIGINT."""
    task = asyncio.ensure_future(work())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        _log.info("ended")
