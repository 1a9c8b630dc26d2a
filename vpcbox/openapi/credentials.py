"""The access keys the OpenAPI knows: lasting ones, and sessions of RAM roles as the metadata service hands out."""

import secrets
from dataclasses import dataclass, field

from vpcbox.world.clock import Clock

SESSION_SECONDS = 6 * 3600.0
RENEWED_BEFORE = 1800.0  # a new session is there this long before the old one ends


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key; one of a session has a token and an end (machine time, as its user's clock shows)."""

    id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    issued: float = 0.0
    expires: float | None = None


class Credentials:
    """Who may call."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._keys: dict[str, AccessKey] = {}
        self._sessions: dict[str, AccessKey] = {}

    def add(self, access_key_id: str, secret: str) -> None:
        """Know a lasting key."""
        self._keys[access_key_id] = AccessKey(access_key_id, secret)

    def find(self, access_key_id: str) -> AccessKey | None:
        """The key of that id, of an ended session too."""
        return self._keys.get(access_key_id)

    def session(self, role: str) -> AccessKey:
        """The role's current session, a fresh one where the last is about to end."""
        now = self._clock.wall()
        held = self._sessions.get(role)
        if held is None or held.expires is None or held.expires - RENEWED_BEFORE <= now:
            held = AccessKey(
                id=f"STS.{secrets.token_hex(12)}",
                secret=secrets.token_urlsafe(32),
                token=secrets.token_urlsafe(96),
                issued=now,
                expires=now + SESSION_SECONDS,
            )
            self._sessions[role] = self._keys[held.id] = held
        return held
