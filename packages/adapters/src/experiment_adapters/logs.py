"""Logs: one line per event on standard error, those of the libraries in the same form as the service's own."""

import logging
import sys
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from structlog.typing import Processor


@frozen(kw_only=True)
class LogSettings:
    """How and what is logged."""

    format: str = "json"
    level: str = "info"


def configure_logs(settings: LogSettings) -> None:
    """Send what this process logs from now on to standard error, as JSON or for people."""
    import structlog  # noqa: PLC0415 - takes a while, and help needs the settings' names alone
    from structlog.stdlib import ProcessorFormatter  # noqa: PLC0415

    level = logging.getLevelNamesMapping()[settings.level.upper()]
    found: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.format == "json"
        else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[*found, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    # Some libraries give their loggers a level of their own, which would let pass what the root's forbids.
    handler.setLevel(level)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*found, structlog.stdlib.add_logger_name],
            processors=[ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)
