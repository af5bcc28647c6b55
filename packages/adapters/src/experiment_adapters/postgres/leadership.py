"""Leadership: one of many processes at a time, told by an advisory lock of PostgreSQL."""

from contextlib import suppress
from hashlib import blake2b
from typing import LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict

from experiment_adapters.postgres.settings import DatabaseSettings

_TRY: LiteralString = "SELECT pg_try_advisory_lock(%s)"
# A connection that broke without a word is given up by both ends within seconds, and the lock with it.
_KEEPALIVES = "-c tcp_keepalives_idle=3 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3 -c tcp_user_timeout=6000"

SILENT_FOR = 5.5
"""Seconds without a question after which the lead is lost: whoever leads asks every four, unless it is stopped."""


class Leadership:
    """Whether this process leads in what is called `name`: it does while a connection of its own has the lock.

    The lock falls with the connection, and the connection with the process, or where nothing has been asked for
    `silent_for` seconds: a process that is stopped leaves its connection open. The questions block. It needs a session
    of its own with the server: a pooler in between that shares sessions among transactions will not do.
    """

    def __init__(self, settings: DatabaseSettings, name: str, *, silent_for: float = SILENT_FOR) -> None:
        self._settings = settings
        self._name = name
        self._silent_for = silent_for
        self._key = int.from_bytes(blake2b(name.encode(), digest_size=8, person=b"leadership").digest(), signed=True)
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._holds = False

    def holds(self) -> bool:
        """Take the lead where nobody has it, and tell whether it is had. False where the database is away."""
        try:
            connection = self._connection = self._connection or self._connect()
            if self._holds:
                connection.execute("SELECT")
            else:
                row = connection.execute(_TRY, [self._key]).fetchone()
                self._holds = row is not None and row[0] is True
        except psycopg.Error:
            self.close()
        return self._holds

    def close(self) -> None:
        """Leave it to others."""
        connection, self._connection, self._holds = self._connection, None, False
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        settings = self._settings
        return psycopg.connect(
            settings.url,
            autocommit=True,
            connect_timeout=settings.connect_timeout,
            tcp_user_timeout=int(settings.statement_timeout * 1000),
            keepalives_idle=3,
            keepalives_interval=1,
            keepalives_count=3,
            target_session_attrs="read-write",
            application_name=f"experiment-service: {self._name}",
            options=_options(settings, self._silent_for),
        )


def _options(settings: DatabaseSettings, silent_for: float) -> str:
    own = conninfo_to_dict(settings.url).get("options") or ""
    timeouts = {"statement_timeout": settings.statement_timeout, "idle_session_timeout": silent_for}
    ours = " ".join(f"-c {name}={int(seconds * 1000)}" for name, seconds in timeouts.items())
    return f"{own} {ours} {_KEEPALIVES}"
