"""Schema migrations: Alembic keeps the order, the SQL is plain."""

from importlib.resources import files
from pathlib import Path

from alembic import command, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

MIGRATION_LOCK = 0x6578_7065_7269_6D65  # "experime": one migration at a time, whoever starts it


def run_sql(name: str) -> None:
    """Run one of the SQL files beside the revisions, as it is."""
    sql = (files(__name__) / "versions" / name).read_text(encoding="utf-8")
    if op.get_context().as_sql:
        # Printed as it stands: compiled for a driver, each percent sign would be doubled.
        op.get_context().impl.static_output(sql)
        return
    # Colons are SQL here (casts, labels), never SQLAlchemy's parameters.
    op.execute(text(sql.replace(":", r"\:")))


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at a libpq `url` to `revision`; waits for a migration that is under way elsewhere."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: _connect(url), poolclass=NullPool)
    with engine.connect() as lock:
        lock.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        with engine.connect() as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    engine.dispose()


def as_sql(revision: str = "head") -> None:
    """Print the SQL that brings an empty database to `revision`."""
    command.upgrade(_config(), revision, sql=True)


def head() -> str:
    """The newest revision."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None  # noqa: S101 - there is always a first one
    return newest


def _connect(url: str):  # noqa: ANN202 - psycopg's own type, imported late
    import psycopg  # noqa: PLC0415 - the command line asks for help without it

    return psycopg.connect(url, connect_timeout=10)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(str(files(__name__)))).replace("%", "%%"))
    return config
