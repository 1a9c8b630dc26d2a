"""One call by the official SDK (V1: small, synchronous), and what its errors mean. Only ``cloud.ecs`` and this know it.

What the SDK does by itself is switched off or worked around: its retry (it re-sends a Create without a token), plain
http (https unless the endpoint says otherwise), and HTTP_PROXY without NO_PROXY (no proxy at all). Clients are shared
by threads, requests are not.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Final

from aliyunsdkcore.acs_exception.exceptions import ClientException, ServerException
from aliyunsdkcore.auth.credentials import StsTokenCredential
from aliyunsdkcore.client import AcsClient

from eniallocator.cloud.credentials import AccessKey
from eniallocator.cloud.errors import CLOCK_CODES, Transient, classify
from eniway.errors import BadConfig

LONGEST_MESSAGE: Final = 400
NO_ANSWER: Final = "SDK.HttpError"
_UNHEARD: Final = re.compile(
    "Connection refused|Connection reset|Connection aborted|timed out|Name or service not known|No route to host"
    "|Network is unreachable|Temporary failure in name resolution|certificate verify failed",
    re.IGNORECASE,
)
_SIGNED_URL: Final = re.compile(r"\S*AccessKeyId(?:=|%3D)\S*")

# The SDK ignores NO_PROXY and would send even loopback calls to HTTP_PROXY; a true value that names no proxy stops
# that.
_NO_PROXY: Final = {"http": None, "https": None}


class Sdk:
    """``endpoint``: URL that serves ECS and VPC, or "" for the region's own VPC endpoints over https.

    ``connections``: as many as there are threads.
    """

    def __init__(self, *, region: str, endpoint: str, connections: int) -> None:
        scheme, separator, host = endpoint.partition("://")
        if endpoint and (not separator or scheme not in ("http", "https") or not host.strip("/")):
            raise BadConfig(f"`$.cloud.endpoint`: expected a URL such as https://ecs.example.com, got {endpoint!r}")
        self._scheme = scheme or "https"
        self._host = host.strip("/")
        self._region = region
        self._connections = connections
        self._client: tuple[AccessKey, Any] | None = None
        self._ahead = 0.0
        """Seconds by which this node's clock was ahead of the server's at the last answer."""

    def close(self) -> None:
        """Let go of its connections."""
        if self._client is not None:
            self._client[1].session.close()

    def send(self, action: str, key: AccessKey, build: Callable[[], Any]) -> dict[str, Any]:
        """Sign, send, and map the answer; one of ``cloud.errors``. Blocks; for any thread."""
        client = self._client_for(key)
        request = build()
        request.set_accept_format("json")
        request.set_protocol_type(self._scheme)
        if self._host:
            request.set_endpoint(self._host)
        else:
            request.request_network = "vpc"
        try:
            answer = json.loads(client.do_action_with_exception(request))
        except ServerException as error:
            status = error.get_http_status()
            code, message = str(error.get_error_code()), _scrubbed(error.get_error_msg())
            raise classify(
                action,
                code,
                f"{message} {self._clocks()}" if code in CLOCK_CODES else message,
                status=status if isinstance(status, int) else None,
                request_id=error.get_request_id(),
            ) from error
        except ClientException as error:
            code = str(error.get_error_code())
            message = self._unheard(error.get_error_msg()) if code == NO_ANSWER else _scrubbed(error.get_error_msg())
            raise classify(action, code, message, status=None) from error
        except ValueError as error:
            raise Transient(action, "NotJson", str(error)) from error
        if not isinstance(answer, dict):
            raise Transient(action, "NotJson", "expected an object")
        return answer

    def _hear(self, response: Any, **_: Any) -> None:
        """Each answer tells the server's time (RFC 9110, 6.6.1); in a thread."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            # The machine's own time is what the SDK signs with.
            self._ahead = time.time() - parsedate_to_datetime(response.headers["Date"]).timestamp()

    def _clocks(self) -> str:
        """By how much this node's clock is off, in whole minutes: the same words each time."""
        minutes = round(self._ahead / 60)
        where = "ahead of" if minutes > 0 else "behind"
        return f"This node's clock is {abs(minutes)} min {where} the OpenAPI's."

    def _unheard(self, message: object) -> str:
        """Why there was no answer, from what the SDK makes of its HTTP library's exception."""
        why = _UNHEARD.search(str(message))
        where = f"{self._scheme}://{self._host}" if self._host else f"the VPC endpoints of {self._region}"
        return f"cannot reach {where}: {why[0].lower() if why else 'no answer'}"

    def _client_for(self, key: AccessKey) -> Any:
        """The client for ``key``; a new one when it is another than before."""
        if self._client is None or self._client[0] != key:
            session = StsTokenCredential(key.key_id, key.secret, key.token) if key.token else None
            client = AcsClient(
                None if session else key.key_id,
                None if session else key.secret,
                self._region,
                credential=session,
                auto_retry=False,
                pool_size=self._connections,
                proxy=_NO_PROXY,
            )
            client.session.hooks["response"].append(self._hear)
            self._client = key, client
        return self._client[1]


def _scrubbed(message: object) -> str:
    """What the SDK says of an error, without the signed URL it likes to quote, and of bearable length."""
    text = _SIGNED_URL.sub("(signed URL)", str(message)).strip()
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…"
