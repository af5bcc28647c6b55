"""How PostgreSQL is reached, and how long anything is waited for."""

from attrs import field, frozen


@frozen(kw_only=True)
class DatabaseSettings:
    """One database, and perhaps a replica of it to read from; times are in seconds.

    A request may wait for a connection of the pool, then for a statement, and must be answered within 10 seconds
    whatever happens to the database: the times are chosen for that.
    """

    url: str = field(repr=False)
    read_url: str | None = field(default=None, repr=False)
    pool_min: int = 2
    pool_max: int = 10
    pool_timeout: float = 3.0
    connect_timeout: int = 3
    statement_timeout: float = 5.0

    @property
    def patience(self) -> float:
        """Seconds after which a server that does not answer is given up: a little more than it may work itself."""
        return self.statement_timeout + 1.0

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.pool_min <= self.pool_max or self.pool_max < 1:
            raise ValueError(f"a pool cannot hold {self.pool_min} to {self.pool_max} connections")


def checked_postgres_url(text: str) -> str:
    """`text`, if libpq understands it as a URL. Raises ValueError without quoting it: it may hold a password."""
    from psycopg import ProgrammingError  # noqa: PLC0415 - takes a while, and help needs the settings' names alone
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    if text.startswith(("postgresql://", "postgres://")):
        try:
            ports = str(conninfo_to_dict(text).get("port", "")).split(",")
        except ProgrammingError:
            ports = ["none"]
        if all(not port or (port.isdecimal() and 1 <= int(port) <= 65_535) for port in ports):
            return text
    raise ValueError("is not a PostgreSQL URL: postgresql://user:password@host:port[,host:port]/database")
