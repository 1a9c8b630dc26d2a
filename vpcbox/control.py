"""How the command line talks to a running box: a line of JSON asks, lines of JSON answer, on a socket in its directory.

The question is {"verb": …, …}; the answer is any number of {"stage": …, "elapsed": …} and then {"result": …} or
{"error": …}.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpcbox.state import CONTROL

Verb = Callable[[Mapping[str, Any], Callable[[str], None]], Awaitable[Any]]
_log = logging.getLogger(__name__)


class RefusedError(Exception):
    """The box does not do what was asked; the text says why."""


@contextmanager
def _short_path(state: Path) -> Iterator[str]:
    """Name the socket by a path that fits into a socket address, however long the directory's is."""
    directory = os.open(state, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{CONTROL}"
    finally:
        os.close(directory)


def ask(state: Path, verb: str, *, progress: Callable[[float, str], None] | None = None, **fields: Any) -> Any:
    """Ask the directory's running box and wait for the answer; RefusedError is the box's, OSError the machine's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        with _short_path(state) as path:
            connection.connect(path)
        connection.sendall(json.dumps({"verb": verb, **fields}).encode() + b"\n")
        with connection.makefile("rb") as answers:
            for line in answers:
                answer = json.loads(line)
                if "error" in answer:
                    raise RefusedError(answer["error"])
                if "result" in answer:
                    return answer["result"]
                if progress:
                    progress(answer["elapsed"], answer["stage"])
    raise RefusedError("the box ended before it answered; its log is in its directory")


def listener(state: Path) -> socket.socket:
    """Listen for questions; only root may ask."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with _short_path(state) as path:
            listening.bind(path)
    finally:
        os.umask(before)
    listening.listen()
    return listening


async def serve(listening: socket.socket, verbs: Mapping[str, Verb]) -> None:
    """Answer questions until cancelled. A verb gets the question and a way to say what it is doing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(**fields: Any) -> None:
            writer.write(json.dumps(fields).encode() + b"\n")

        began = time.monotonic()
        try:
            question = json.loads(await reader.readline())
            verb = verbs.get(question["verb"], _unknown(verbs))
            answered = await verb(question, lambda stage: say(stage=stage, elapsed=time.monotonic() - began))
            say(result=answered)
        except Exception as error:  # noqa: BLE001 - whatever it is, who asked is told, and the box lives on
            _log.info("refused", exc_info=True)
            say(error=reason(error))
        finally:
            writer.close()

    async with await asyncio.start_unix_server(answer, sock=listening) as server:
        await server.serve_forever()


def _unknown(verbs: Mapping[str, Verb]) -> Verb:
    async def refuse(question: Mapping[str, Any], _say: Callable[[str], None]) -> Any:
        raise RefusedError(f"verb: expected one of {', '.join(verbs)}, got {question['verb']!r}")

    return refuse


def reason(error: BaseException) -> str:
    """Say in one line what went wrong; of a group of errors, each."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(reason(inner) for inner in error.exceptions))
    return str(error) or type(error).__name__
