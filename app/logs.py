"""How this process logs: one line an event, JSON unless a person watches, never a secret or a body."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from sql.errors import forget_values

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")


def configure_logging(level: str) -> None:
    """Send structlog's lines and those of libraries to standard error, in one form."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_values,
    ]
    if sys.stderr.isatty():
        # the plain traceback: the pretty one prints local variables, and tokens are among them
        last: list[structlog.types.Processor] = [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    # Of libraries only warnings, whatever the level: httpx prints whole URLs at INFO, hpack the headers of HTTP/2 with
    # their tokens at DEBUG, and uvicorn's access log would hold the handshake's token and every PSID asked for.
    quiet = max(logging.WARNING, number)
    logging.basicConfig(handlers=[handler], level=quiet, force=True)
    for name in _UVICORN:  # started without `serve`, it has brought handlers of its own
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(quiet if name == "uvicorn.access" else number)


def _without_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Take out of errors what they quote, before they are printed."""
    info = event.get("exc_info")
    if info:
        forget_values(
            info[1] if isinstance(info, tuple) else info if isinstance(info, BaseException) else sys.exception()
        )
    return event
