"""gRPC with types: the one file that touches the untyped library.

Services are tables of method name → handler instead of generated classes, so a handler's request and response are
checked. Sockets are unix sockets only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import grpc
from google.protobuf.message import Message

from eniway.errors import EniwayError

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Handler = Any
"""A grpc.RpcMethodHandler: made by ``unary`` and ``stream`` and passed on unseen."""

_CHANNEL: Final = (
    # A socket that kubelet has just made again is tried at once, not after gRPC's own back-off of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 16 << 20),
)


class RpcFailed(Exception):
    """A call ended with another status than OK; ``code`` is gRPC's name for it, such as UNAVAILABLE."""

    def __init__(self, method: str, code: str, details: str) -> None:
        super().__init__(f"{method}: {code}: {details}")
        self.code = code
        self.details = details


def unary(request: type[Request], answer: Callable[[Request], Awaitable[Message]]) -> Handler:
    """A method with one answer; an EniwayError becomes FAILED_PRECONDITION with its text, which kubelet shows."""

    async def behaviour(message: Request, context: Any) -> Message:
        try:
            return await answer(message)
        except EniwayError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            raise

    return grpc.unary_unary_rpc_method_handler(
        behaviour, request_deserializer=request.FromString, response_serializer=_serialize
    )


def stream(
    request: type[Request], answer: Callable[[Request, Callable[[Message], Awaitable[None]]], Awaitable[None]]
) -> Handler:
    """A method that sends messages until ``answer`` returns or the caller goes, which cancels it."""

    async def behaviour(message: Request, context: Any) -> None:
        await answer(message, context.write)

    return grpc.unary_stream_rpc_method_handler(
        behaviour, request_deserializer=request.FromString, response_serializer=_serialize
    )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


class Server:
    """Serves one service on a unix socket while in its context; at exit calls are cut and the socket is gone."""

    def __init__(self, path: Path, service: str, methods: Mapping[str, Handler]) -> None:
        self._path = path
        self._server: Any = grpc.aio.server()
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, dict(methods)),))

    async def __aenter__(self) -> Self:
        try:
            self._server.add_insecure_port(f"unix://{self._path}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._path}: {error}") from error
        self._path.chmod(0o600)
        await self._server.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._server.stop(grace=None)
        self._path.unlink(missing_ok=True)


class Channel:
    """A connection to a server on a unix socket, made at the first call and again after each loss."""

    def __init__(self, path: Path) -> None:
        self._channel: Any = grpc.aio.insecure_channel(f"unix://{path}", options=_CHANNEL)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cut all calls and the connection."""
        await self._channel.close()

    async def call(self, method: str, request: Message, response: type[Response], *, seconds: float) -> Response:
        """Call ``/package.Service/Method``; RpcFailed otherwise, with DEADLINE_EXCEEDED after ``seconds``."""
        call = self._channel.unary_unary(
            method, request_serializer=_serialize, response_deserializer=response.FromString
        )
        try:
            answer: Response = await call(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise RpcFailed(method, error.code().name, error.details() or "") from error
        return answer
