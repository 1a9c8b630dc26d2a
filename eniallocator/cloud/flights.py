"""One Describe for all who ask the same while it waits to be sent.

Who comes when it is out already gets one of his own: an answer may not be older than the question, or a card would be
judged by how it was before its own last call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

_T = TypeVar("_T")


class Flights:
    """``await share(what, call)``: ``call`` gets a function to call when it leaves."""

    def __init__(self) -> None:
        self._boarding: dict[Hashable, asyncio.Future[tuple[Any] | None]] = {}

    async def share(self, what: Hashable, call: Callable[[Callable[[], None]], Awaitable[_T]]) -> _T:
        """The answer to ``what``, or the error; where who asked first gives up, another one asks."""
        while (other := self._boarding.get(what)) is not None:
            answer = await asyncio.shield(other)
            if answer is not None:
                told: _T = answer[0]
                return told
        done: asyncio.Future[tuple[Any] | None] = asyncio.get_running_loop().create_future()
        self._boarding[what] = done

        def leave() -> None:
            if self._boarding.get(what) is done:
                del self._boarding[what]

        try:
            said = await call(leave)
        except asyncio.CancelledError:
            done.set_result(None)
            raise
        except Exception as error:
            done.set_exception(error)
            # Nobody may have joined.
            done.exception()
            raise
        finally:
            leave()
        done.set_result((said,))
        return said
