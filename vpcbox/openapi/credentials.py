"""The access keys the OpenAPI knows: lasting ones, and sessions of RAM roles as the metadata service hands out."""

import secrets
from dataclasses import dataclass, field, replace

from vpcbox.world.clock import Clock

SESSION_SECONDS = 6 * 3600.0
RENEWED_BEFORE = 1800.0  # a new session is there this long before the old one ends


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key; one of a session has a token and an end (machine time, as its user's clock shows)."""

    id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    role: str | None = None
    issued: float = 0.0
    expires: float | None = None


class Credentials:
    """Who may call."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._keys: dict[str, AccessKey] = {}
        self._sessions: dict[str, AccessKey] = {}

    def add(self, access_key_id: str, secret: str) -> None:
        """Know a lasting key."""
        self._keys[access_key_id] = AccessKey(access_key_id, secret)

    def find(self, access_key_id: str) -> AccessKey | None:
        """The key of that id, of an ended session too."""
        return self._keys.get(access_key_id)

    def session(self, role: str) -> AccessKey:
        """What an instance of the role finds in its metadata: a fresh session where the last is about to end."""
        held = self._sessions.get(role)
        if held is None or held.expires is None or held.expires - RENEWED_BEFORE <= self.clock.wall():
            held = self._sessions[role] = self.issue(role, SESSION_SECONDS)
        return held

    def issue(self, role: str, seconds: float) -> AccessKey:
        """A new session of a role, good for so long."""
        now = self.clock.wall()
        key = AccessKey(
            id=f"STS.{secrets.token_hex(12)}",
            secret=secrets.token_urlsafe(32),
            token=secrets.token_urlsafe(96),
            role=role,
            issued=now,
            expires=now + seconds,
        )
        self._keys[key.id] = key
        return key

    def end(self, access_key_id: str) -> None:
        """A session is over before its time; the next one asked for is another."""
        key = replace(self._keys[access_key_id], expires=self.clock.wall())
        self._keys[key.id] = key
        if key.role is not None and (held := self._sessions.get(key.role)) is not None and held.id == key.id:
            del self._sessions[key.role]
