"""
How all roles log: one event name and fields, on stderr, for people or for machines.

It is called once, by the program's entry; everybody else says `structlog.get_logger()` and knows nothing of formats.
What libraries log through the standard library comes out the same way, from warnings on.

A stack is logged without the values of variables, which structlog would show: passwords and parameters are among them.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.dev import plain_traceback
from structlog.tracebacks import ExceptionDictTransformer

from mayfly.settings import LogSettings

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

STACK = ExceptionDictTransformer(show_locals=False)


class _LibraryLogs(logging.Handler):
    """Hands a library's log record on as the event `library.log`."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, "library.log", logger=record.name, message=record.getMessage(), exc_info=record.exc_info
        )


def configure_logs(settings: LogSettings, **everywhere: str) -> None:
    """Set up logging for this process; *everywhere* (such as the role) is bound to every event."""
    machine = settings.log_format == "json"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.ExceptionRenderer(STACK)] if machine else []),
            structlog.processors.JSONRenderer()
            if machine
            else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.log_level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**everywhere)
    logging.basicConfig(handlers=[_LibraryLogs()], level=max(LEVELS[settings.log_level], logging.WARNING), force=True)
