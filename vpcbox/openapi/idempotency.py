"""ClientToken: the same request sent twice is carried out once.

https://help.aliyun.com/zh/ecs/developer-reference/how-to-ensure-idempotence
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vpcbox.world.clock import Clock
from vpcbox.world.errors import Refused

LIFETIME = 24 * 3600.0

Answer = Mapping[str, Any]


@dataclass(slots=True)
class _Sent:
    params: Mapping[str, str]
    at: float
    answer: Answer | None = None


class Tokens:
    """The answers given under tokens; a failed request leaves none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent: dict[tuple[str, str, str], _Sent] = {}

    async def once(
        self, key: tuple[str, str, str], params: Mapping[str, str], work: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """The answer of ``work``, or the one it gave before; ``key`` is caller, Action and token."""
        token = key[2]
        if len(token) > 64 or not token.isascii():
            raise Refused("InvalidParameter", 'The specified parameter "ClientToken" is not valid: at most 64 ASCII.')
        now = self._clock.now()
        self._sent = {k: sent for k, sent in self._sent.items() if sent.at > now - LIFETIME}
        before = self._sent.get(key)
        if before is not None:
            if before.params != params:
                raise Refused(
                    "IdempotentParameterMismatch",
                    "The request uses the same client token as a previous, but non-identical request.",
                )
            if before.answer is None:
                raise Refused("LastTokenProcessing", "The last token request is processing.")
            return before.answer
        sent = self._sent[key] = _Sent(dict(params), now)
        try:
            sent.answer = await work()
        except BaseException:
            del self._sent[key]
            raise
        return sent.answer
