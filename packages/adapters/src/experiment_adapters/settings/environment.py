"""What the environment says, in the frozen classes that lie beside what they configure and hold the defaults."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from experiment_adapters.auth.jwt import JwtSettings
from experiment_adapters.exports.settings import ExportSettings
from experiment_adapters.logs import LogSettings
from experiment_adapters.postgres.settings import DatabaseSettings
from experiment_adapters.settings.formats import one_of, pairs, truth, url, whole
from experiment_adapters.settings.table import OTEL, PREFIX, SETTINGS
from experiment_adapters.settings.values import ApiSettings, UngroupedSettings, WorkerSettings
from experiment_adapters.spool.settings import SpoolSettings
from experiment_adapters.webhooks.settings import WebhookSettings

IGNORED = "EXPERIMENT_TEST_"
"""What begins like this is for the tests."""
_OTEL_FORMATS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"OTEL_SDK_DISABLED"), truth),
    (re.compile(r"OTEL_RESOURCE_ATTRIBUTES|OTEL_EXPORTER_OTLP_([A-Z]+_)?HEADERS"), pairs),
    (re.compile(r"OTEL_EXPORTER_OTLP_([A-Z]+_)?ENDPOINT"), url("https", "http")),
    (re.compile(r"OTEL_EXPORTER_OTLP_([A-Z]+_)?PROTOCOL"), one_of("grpc", "http/protobuf", "http/json")),
    (re.compile(r"OTEL_EXPORTER_OTLP_([A-Z]+_)?TIMEOUT"), whole(0, 999_999_999)),
)


class SettingsError(Exception):
    """A setting is missing, unknown or malformed. The text is one line that names it and quotes no secret."""

    def __init__(self, name: str, problem: str) -> None:
        # A name may be anything that a process can be given, line breaks included.
        shown = name if name.isascii() and name.isprintable() else ascii(name)
        super().__init__(f"{shown[:100]} {problem}")
        self.name = name


@frozen(kw_only=True)
class Settings(UngroupedSettings):
    """Everything that the environment says. A group is None where it says nothing of it."""

    api: ApiSettings = field(factory=ApiSettings)
    log: LogSettings = field(factory=LogSettings)
    database: DatabaseSettings | None = None
    jwt: JwtSettings | None = None
    webhooks: WebhookSettings = field(factory=WebhookSettings)
    spool: SpoolSettings = field(factory=SpoolSettings)
    exports: ExportSettings = field(factory=ExportSettings)
    worker: WorkerSettings = field(factory=WorkerSettings)
    otel: Mapping[str, str] = field(factory=dict[str, str], repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """The settings in `environ`. Raises `SettingsError`; an empty variable counts as one that is not set."""
        kinds = (
            ApiSettings,
            LogSettings,
            DatabaseSettings,
            ExportSettings,
            JwtSettings,
            SpoolSettings,
            WebhookSettings,
            WorkerSettings,
        )
        groups: dict[type, dict[str, Any]] = {kind: {} for kind in kinds}
        given = {name: value for name, value in sorted(environ.items()) if value.strip()}
        values = groups.setdefault(UngroupedSettings, {"otel": _otel(given)})
        rows = {row.variable: row for row in SETTINGS}
        for name, value in given.items():
            if not name.startswith(PREFIX) or name.startswith((IGNORED, PREFIX + OTEL)):
                continue
            row = rows.get(name)
            if row is None:
                nearest = difflib.get_close_matches(name, rows, n=1, cutoff=0)
                raise SettingsError(name, f"is not a setting of this service; the nearest one is {nearest[0]}")
            groups[row.of][row.attribute] = _parsed(name, row.parse, value)
        values["api"] = ApiSettings(**groups[ApiSettings])
        values["log"] = LogSettings(**groups[LogSettings])
        values["database"] = _database(groups[DatabaseSettings])
        values["jwt"] = _jwt(groups[JwtSettings])
        values["spool"] = _spool(groups[SpoolSettings])
        values["exports"] = ExportSettings(**groups[ExportSettings])
        values["worker"] = WorkerSettings(**groups[WorkerSettings])
        values["webhooks"] = WebhookSettings(**groups[WebhookSettings])
        return cls(**values)

    def need_database(self) -> DatabaseSettings:
        """The database. Raises `SettingsError` where none is named."""
        if self.database is None:
            raise SettingsError(
                PREFIX + "DATABASE_URL",
                "is not set: it names the PostgreSQL database; `experiment-service up` brings its own",
            )
        return self.database

    def need_jwt(self) -> JwtSettings:
        """Whose tokens are accepted. Raises `SettingsError` where nothing says so."""
        if self.jwt is None:
            raise SettingsError(
                PREFIX + "JWT_ISSUER",
                f"is not set: it, {PREFIX}JWT_AUDIENCE, and {PREFIX}JWT_KEYS or {PREFIX}JWT_JWKS_URL say whose tokens"
                " are accepted; `experiment-service up` makes its own keys",
            )
        return self.jwt

    def need_secret_key(self) -> bytes:
        """The secret key. Raises `SettingsError` where there is none.

        One made up here would differ between processes, and be gone with them: no retry after a crash would be given
        its first answer.
        """
        if self.secret_key is None:
            raise SettingsError(
                PREFIX + "SECRET_KEY",
                "is not set: it seals what the service keeps and hands out; `openssl rand -hex 32` makes one",
            )
        return self.secret_key


def _parsed(name: str, parse: Callable[[str], Any], value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SettingsError(name, "is not UTF-8") from None
    try:
        return parse(value)
    except ValueError as error:
        # Not `from error`: a traceback must not show what the value was.
        raise SettingsError(name, " ".join(str(error).split())) from None


def _database(values: dict[str, Any]) -> DatabaseSettings | None:
    if not values:
        return None
    if "url" not in values:
        raise SettingsError(PREFIX + "DATABASE_URL", f"is not set, but {_variable(DatabaseSettings, values)} is")
    try:
        return DatabaseSettings(**values)
    except ValueError as error:
        given = "pool_max" if "pool_max" in values else "pool_min"
        raise SettingsError(_variable(DatabaseSettings, [given]), f"does not fit: {error}") from None


def _jwt(values: dict[str, Any]) -> JwtSettings | None:
    if not values:
        return None
    for needed in ("issuer", "audience"):
        if needed not in values:
            raise SettingsError(
                _variable(JwtSettings, [needed]), f"is not set, but {_variable(JwtSettings, values)} is"
            )
    if "keys" in values and "jwks_url" in values:
        raise SettingsError(PREFIX + "JWT_KEYS", f"is set, and {PREFIX}JWT_JWKS_URL too: only one may be")
    if "keys" not in values and "jwks_url" not in values:
        raise SettingsError(PREFIX + "JWT_JWKS_URL", f"or {PREFIX}JWT_KEYS must be set, as {PREFIX}JWT_ISSUER is")
    return JwtSettings(**values)


def _spool(values: dict[str, Any]) -> SpoolSettings:
    if values and "directory" not in values:
        raise SettingsError(PREFIX + "SPOOL_DIR", f"is not set, but {_variable(SpoolSettings, values)} is")
    return SpoolSettings(**values)


def _variable(of: type, attributes: "Mapping[str, Any] | list[str]") -> str:
    """The variable of the first of `attributes`."""
    attribute = next(iter(attributes))
    return next(row.variable for row in SETTINGS if row.of is of and row.attribute == attribute)


def _otel(given: Mapping[str, str]) -> dict[str, str]:
    """OpenTelemetry's own settings under their own names; with our prefix, they are for this service alone."""
    found: dict[str, str] = {}
    for start in ("", PREFIX):  # the second time, what is for us alone replaces what is for all
        for name, value in given.items():
            if name.startswith(start + OTEL):
                short = name.removeprefix(start)
                parse = next((parse for pattern, parse in _OTEL_FORMATS if pattern.fullmatch(short)), str)
                _parsed(name, parse, value)
                found[short] = value
    return found
