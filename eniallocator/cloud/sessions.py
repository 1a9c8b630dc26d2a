"""Keys that last for hours: sessions of a RAM role, renewed before they end.

- the role of the instance: the metadata service hands out a session, a new one at least half an hour before the old one
  ends (ECS help, "Instance RAM roles"); its client knows the tokens of a hardened instance;
- a role by OIDC (RRSA): AssumeRoleWithOIDC of STS 2015-04-01, the one Action that is not signed. ACK's webhook puts
  role, provider and token file into the environment; the file is rewritten by kubelet, so it is read each time.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp

from eniallocator.clock import Clock
from eniallocator.cloud.credentials import AccessKey
from eniway import log
from eniway.errors import BadConfig, NotReady

RENEW_SECONDS: Final = 1200.0
"""Renewed so long before the end, or in the last fifth of a shorter life."""
RETRY_SECONDS: Final = 30.0
"""Between two tries to renew a session that is still good; and for so long a fresh one is used though it is refused."""
SHORTEST: Final = 60.0
"""A session that seems to have ended when it was handed out is tried all the same: the clock may be wrong."""
OIDC_SECONDS: Final = 3600
OIDC_TIMEOUT: Final = 10.0
SESSION_NAME: Final = "eniway"

ROLE_ARN: Final = "ALIBABA_CLOUD_ROLE_ARN"
PROVIDER_ARN: Final = "ALIBABA_CLOUD_OIDC_PROVIDER_ARN"
TOKEN_FILE: Final = "ALIBABA_CLOUD_OIDC_TOKEN_FILE"  # noqa: S105 -- the name of a variable

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """A key and when it ends (wall time)."""

    key: AccessKey
    ends: float


Fetch = Callable[[], Awaitable[Session]]
"""Ask for a session; NotReady where there is none to be had now, BadConfig where there never will be."""


class Sessions:
    """``cloud.credentials.Keys`` from sessions: one for all who ask, kept until shortly before its end."""

    def __init__(self, fetch: Fetch, *, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._alone = asyncio.Lock()
        self._held: AccessKey | None = None
        # Monotonic: a wall clock that jumps ends no session.
        self._fetched = self._renew = self._end = 0.0

    async def key(self) -> AccessKey:
        """As Keys says."""
        async with self._alone:
            now = self._clock.monotonic()
            if self._held is not None and now < self._renew:
                return self._held
            try:
                session = await self._fetch()
            except (NotReady, BadConfig) as error:
                if self._held is None or now >= self._end:
                    raise
                self._renew = now + RETRY_SECONDS
                _log.warning("the session could not be renewed; the old one is still good", error=str(error))
                return self._held
            left = max(SHORTEST, session.ends - self._clock.wall())
            now = self._clock.monotonic()
            self._fetched, self._end = now, now + left
            self._renew = self._end - min(RENEW_SECONDS, left / 5)
            if self._held != session.key:
                _log.info("a new session", key=session.key.key_id, seconds=round(left))
            self._held = session.key
            return self._held

    def rejected(self, key: AccessKey) -> None:
        """As Keys says."""
        if key == self._held and self._clock.monotonic() - self._fetched >= RETRY_SECONDS:
            self._renew = self._end = 0.0


class Metadata(Protocol):
    """What of the metadata service is needed here."""

    async def get(self, path: str) -> str:
        """The value at ``/latest/meta-data/<path>``; NotReady."""
        ...


def of_instance(metadata: Metadata, *, role: str = "") -> Fetch:
    """Sessions of the instance's RAM role; ``role``: its name, empty: the one there is."""

    async def fetch() -> Session:
        path = "ram/security-credentials/"
        try:
            name = role or (await metadata.get(path)).strip()
            text = await metadata.get(path + name)
        except NotReady as error:
            raise NotReady(f"{error}: has this instance a RAM role?", after=error.after) from error
        return _session(_object(text, "the metadata service"), "the metadata service")

    return fetch


def by_oidc(environ: Mapping[str, str], *, endpoint: str, clock: Clock) -> Fetch:
    """Sessions of a RAM role by the OIDC token that the environment names; ``endpoint``: URL that serves STS."""
    named = {}
    for name in (ROLE_ARN, PROVIDER_ARN, TOKEN_FILE):
        if not environ.get(name):
            raise BadConfig(
                f"{name}: not set in the environment; `$.cloud.authentication: oidc` expects what ACK's pod identity"
                " webhook sets"
            )
        named[name] = environ[name]

    async def fetch() -> Session:
        path = Path(named[TOKEN_FILE])
        try:
            token = (await asyncio.to_thread(path.read_text, encoding="utf-8")).strip()
        except OSError as error:
            raise NotReady(f"{path}: cannot be read: {error.strerror}; expected an OIDC token") from error
        form = {
            "Action": "AssumeRoleWithOIDC",
            "Version": "2015-04-01",
            "Format": "JSON",
            "Timestamp": datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "SignatureNonce": uuid.uuid4().hex,
            "RoleArn": named[ROLE_ARN],
            "OIDCProviderArn": named[PROVIDER_ARN],
            "OIDCToken": token,
            "RoleSessionName": SESSION_NAME,
            "DurationSeconds": str(OIDC_SECONDS),
        }
        answer = _object(await _post(endpoint, form), "STS")
        return _session(answer.get("Credentials") or {}, "STS")

    return fetch


async def _post(endpoint: str, form: Mapping[str, str]) -> str:
    """Body of a good answer; NotReady with Code and message of a bad one, never with what was sent."""
    # trust_env stays off, as for the other calls. A session each hour needs no connection that is kept.
    timeout = aiohttp.ClientTimeout(total=OIDC_TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.post(f"{endpoint.rstrip('/')}/", data=form) as response,
        ):
            text = await response.text()
            if response.status == 200:
                return text
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotReady(f"STS at {endpoint}: {str(error) or type(error).__name__}") from error
    try:
        said = json.loads(text)
        why = f"{said['Code']}: {said['Message']}"
    except (ValueError, KeyError, TypeError):
        why = f"HTTP {response.status}"
    raise NotReady(f"STS refused AssumeRoleWithOIDC: {why}")


def _object(text: str, who: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError as error:
        raise NotReady(f"{who} gave no session: not JSON") from error
    if not isinstance(said, dict):
        raise NotReady(f"{who} gave no session: expected an object")
    return said


def _session(said: Mapping[str, Any], who: str) -> Session:
    try:
        if said.get("Code", "Success") != "Success":
            raise NotReady(f"{who} gave no session: {said['Code']}")
        ends = datetime.strptime(said["Expiration"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
        key = AccessKey(said["AccessKeyId"], said["AccessKeySecret"], said["SecurityToken"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # Not the value: it may be a secret.
        raise NotReady(f"{who} gave no session: not as documented ({type(error).__name__})") from error
    return Session(key, ends)
