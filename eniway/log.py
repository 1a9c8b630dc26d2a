"""JSON logs, one object a line, with pod, container id and ENI on each line that concerns one.

``bind(**fields)`` attaches fields to everything logged in the current task. The loggers of libraries go through the
same formatter. Values under names that look like secrets are masked, whoever logs them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import structlog

_SECRET: Final = ("secret", "token", "password", "authorization", "signature")


def _mask(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if any(word in key.lower() for word in _SECRET):
            event[key] = "***"
    return event


def _encode(event: Mapping[str, Any], **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def configure(level: str) -> None:
    """Send everything of ``level`` (debug, info, warning, error) and above to standard error as JSON lines."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _mask,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.EventRenamer("message"),
                structlog.processors.JSONRenderer(serializer=_encode),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    # The SDK logs requests, signatures included, at debug.
    logging.getLogger("aliyunsdkcore").setLevel(logging.WARNING)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; bind its name once per module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Attach ``fields`` to all lines logged inside, in this task and those it starts."""
    with structlog.contextvars.bound_contextvars(**{key: str(value) for key, value in fields.items()}):
        yield
