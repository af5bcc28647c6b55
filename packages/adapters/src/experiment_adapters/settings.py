"""The settings: the one place where the environment is read.

Every setting is one row of `SETTINGS`, which drives the parsing and the documentation alike. The values end in frozen
classes that lie beside what they configure and hold the defaults.
"""

import difflib
import math
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import field, fields_dict, frozen

from experiment_adapters.auth.jwt import JwtSettings
from experiment_adapters.auth.keys import keys_from_setting
from experiment_adapters.exports.settings import ExportSettings
from experiment_adapters.logs import LogSettings
from experiment_adapters.postgres.settings import DatabaseSettings, checked_postgres_url
from experiment_adapters.spool.settings import SpoolSettings
from experiment_adapters.webhooks.settings import LONGEST_TIMEOUT, WebhookSettings

PREFIX = "EXPERIMENT_"
IGNORED = "EXPERIMENT_TEST_"
"""What begins like this is for the tests."""
OTEL = "OTEL_"
SHORTEST_SECRET_KEY = 32
WEBHOOK_SECRET = "whsec_"  # noqa: S105 - what secrets of Standard Webhooks begin with, not one of them
WEBHOOK_SECRET_BYTES = range(24, 65)


class SettingsError(Exception):
    """A setting is missing, unknown or malformed. The text is one line that names it and quotes no secret."""

    def __init__(self, name: str, problem: str) -> None:
        # A name may be anything that a process can be given, line breaks included.
        shown = name if name.isascii() and name.isprintable() else ascii(name)
        super().__init__(f"{shown[:100]} {problem}")
        self.name = name


@frozen(kw_only=True)
class ApiSettings:
    """Where the API listens, and with how many processes."""

    host: str = "127.0.0.1"
    port: int = 8000
    processes: int = 1


@frozen(kw_only=True)
class WorkerSettings:
    """Where a worker tells its metrics; port 0: nowhere."""

    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0


@frozen(kw_only=True)
class Settings:
    """Everything that the environment says. A group is None where it says nothing of it."""

    api: ApiSettings = field(factory=ApiSettings)
    log: LogSettings = field(factory=LogSettings)
    database: DatabaseSettings | None = None
    jwt: JwtSettings | None = None
    redis_url: str | None = field(default=None, repr=False)
    redis_streams_kept_for: float = 604_800.0
    kafka_brokers: tuple[str, ...] = ()
    kafka_topic: str = "experiment.events"
    kafka_options: Mapping[str, str] = field(factory=dict[str, str], repr=False)
    secret_key: bytes | None = field(default=None, repr=False)
    former_secret_keys: tuple[bytes, ...] = field(default=(), repr=False)
    webhooks: WebhookSettings = field(factory=WebhookSettings)
    artifact_webhook_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
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
        values = groups.setdefault(Settings, {"otel": _otel(given)})
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


@frozen(kw_only=True)
class Setting:
    """One setting: its name without the prefix, what it means, and where its value ends."""

    name: str
    meaning: str
    of: type
    attribute: str
    parse: Callable[[str], Any]

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return PREFIX + self.name

    @property
    def default(self) -> str:
        """What holds if it is not set, as it would be written; empty where there is nothing."""
        default = fields_dict(self.of)[self.attribute].default
        match default:
            case bool():
                return str(default).lower()
            case int():
                return str(default)
            case float():
                return f"{default:g}"
            case str():
                return default
            case tuple():
                return ",".join(f"{part:g}" for part in default)
            case _:
                return ""


def settings_markdown() -> str:
    """All settings as a table in Markdown."""
    rows = [(f"`{row.variable}`", f"`{row.default}`" if row.default else "", row.meaning) for row in SETTINGS]
    rows.append((f"`{OTEL}*`", "", OTEL_MEANING))
    lines = ["| name | default | meaning |", "| --- | --- | --- |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


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


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and lowest <= int(text) <= highest):
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def _seconds(lowest: float, highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) else math.nan
        if not lowest <= number <= highest:
            raise ValueError(f"must be a number of seconds from {lowest:g} to {highest:g}")
        return number

    return parse


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("must be an absolute path: a program may be started anywhere")
    return path


def _many_seconds(lowest: float, highest: float, most: int) -> Callable[[str], tuple[float, ...]]:
    one = _seconds(lowest, highest)

    def parse(text: str) -> tuple[float, ...]:
        parts = text.split(",")
        if len(parts) > most:
            raise ValueError(f"must be at most {most} numbers, separated by commas")
        return tuple(one(part.strip()) for part in parts)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text.lower()

    return parse


def _truth(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise ValueError("must be true or false")
    return text.lower() in {"true", "1", "yes", "on"}


def _word(text: str) -> str:
    if any(char.isspace() or not char.isprintable() for char in text):
        raise ValueError("must not hold blanks or control characters")
    return text


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        _word(text)
        try:
            parts = urlsplit(text)
            host, _port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(f"is not a URL: {schemes[0]}://host…") from None
        if parts.scheme not in schemes or not (host or parts.scheme == "unix"):
            raise ValueError(f"is not a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return text

    return parse


def _public_url(text: str) -> str:
    _url("https", "http")(text)
    parts = urlsplit(text)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must be a URL without a user, a password and a fragment")
    return text


def _export_url(text: str) -> str:
    _word(text)
    parts = urlsplit(text)
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ValueError("must be a URL without a user, a password, a query and a fragment")
    is_directory = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
    if not is_directory and not (parts.scheme == "s3" and parts.netloc):
        raise ValueError("must be file:///directory or s3://bucket/prefix")
    return text


def _brokers(text: str) -> tuple[str, ...]:
    brokers = tuple(broker.strip() for broker in text.split(","))
    for broker in brokers:
        host, _, port = broker.rpartition(":")
        if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host) or not re.fullmatch(r"[0-9]{1,5}", port):
            raise ValueError("must be host:port[,host:port]")
        if not 1 <= int(port) <= 65_535:
            raise ValueError("has a port beyond 65535")
    return brokers


def _topic(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", text) or text in {".", ".."}:
        raise ValueError("must be the name of a topic: letters, digits, '.', '_' and '-'")
    return text


def _options(text: str) -> Mapping[str, str]:
    _pairs(text)
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _proxies(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    networks: list[IPv4Network | IPv6Network] = []
    for part in text.split(","):
        try:
            network = ip_network(part.strip())
        except ValueError:
            raise ValueError("must be addresses or networks: 10.0.0.7,10.1.0.0/16,fd00::/8") from None
        if network.prefixlen == 0:
            # Whoever is believed may choose the address that limits and the audit log see.
            raise ValueError("must not trust every address")
        networks.append(network)
    return tuple(networks)


def _secret_key(text: str) -> bytes:
    secret = text.encode()
    if len(secret) < SHORTEST_SECRET_KEY:
        raise ValueError(f"must have at least {SHORTEST_SECRET_KEY} characters; `openssl rand -hex 32` makes one")
    return secret


def _secret_keys(text: str) -> tuple[bytes, ...]:
    return tuple(_secret_key(part.strip()) for part in text.split(","))


def _webhook_secrets(text: str) -> tuple[bytes, ...]:
    secrets: list[bytes] = []
    for part in text.split(","):
        prefix, encoded = part.strip()[: len(WEBHOOK_SECRET)], part.strip()[len(WEBHOOK_SECRET) :]
        try:
            secret = b64decode(encoded, validate=True)
        except ValueError:
            secret = b""
        if prefix != WEBHOOK_SECRET or len(secret) not in WEBHOOK_SECRET_BYTES:
            raise ValueError(
                f"must be {WEBHOOK_SECRET} and {WEBHOOK_SECRET_BYTES[0]} to {WEBHOOK_SECRET_BYTES[-1]} bytes in base64,"
                f" several separated by commas; `echo {WEBHOOK_SECRET}$(openssl rand -base64 32)` makes one"
            ) from None
        secrets.append(secret)
    return tuple(secrets)


def _pairs(text: str) -> str:
    if not all(re.fullmatch(r"\s*[^\s=,]+\s*=[^,]*", pair) for pair in text.split(",") if pair.strip()):
        raise ValueError("must be name=value[,name=value]")
    return text


_OTEL_FORMATS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"OTEL_SDK_DISABLED"), _truth),
    (re.compile(r"OTEL_RESOURCE_ATTRIBUTES|OTEL_EXPORTER_OTLP_([A-Z]+_)?HEADERS"), _pairs),
    (re.compile(r"OTEL_EXPORTER_OTLP_([A-Z]+_)?ENDPOINT"), _url("https", "http")),
    (re.compile(r"OTEL_EXPORTER_OTLP_([A-Z]+_)?PROTOCOL"), _one_of("grpc", "http/protobuf", "http/json")),
    (re.compile(r"OTEL_EXPORTER_OTLP_([A-Z]+_)?TIMEOUT"), _whole(0, 999_999_999)),
)
RESERVED = "reserved: accepted and checked, used by nothing yet"
OTEL_MEANING = (
    f"{RESERVED}; what OpenTelemetry reads, under its own names: `OTEL_SERVICE_NAME`, `OTEL_EXPORTER_OTLP_ENDPOINT` …; "
    "with the prefix `EXPERIMENT_`, for this service alone"
)

SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="DATABASE_URL",
        meaning="PostgreSQL: `postgresql://user:password@host:port/database`; several hosts, separated by commas, are "
        "tried for the one that takes writes. `up` starts its own if it is not set",
        of=DatabaseSettings,
        attribute="url",
        parse=checked_postgres_url,
    ),
    Setting(
        name="DATABASE_READ_URL",
        meaning="a replica for reads that may be a little behind; without one, everything goes to `DATABASE_URL`",
        of=DatabaseSettings,
        attribute="read_url",
        parse=checked_postgres_url,
    ),
    Setting(
        name="DATABASE_POOL_MIN",
        meaning="connections that each process keeps open",
        of=DatabaseSettings,
        attribute="pool_min",
        parse=_whole(0, 1_000),
    ),
    Setting(
        name="DATABASE_POOL_MAX",
        meaning="connections that each process opens at most",
        of=DatabaseSettings,
        attribute="pool_max",
        parse=_whole(1, 1_000),
    ),
    Setting(
        name="DATABASE_POOL_TIMEOUT",
        meaning="seconds that a request waits for a connection of the pool",
        of=DatabaseSettings,
        attribute="pool_timeout",
        parse=_seconds(0.1, 60),
    ),
    Setting(
        name="DATABASE_CONNECT_TIMEOUT",
        meaning="seconds to connect to one host; whole ones, 2 at least, as libpq counts",
        of=DatabaseSettings,
        attribute="connect_timeout",
        parse=_whole(2, 60),
    ),
    Setting(
        name="DATABASE_STATEMENT_TIMEOUT",
        meaning="seconds after which PostgreSQL ends a statement",
        of=DatabaseSettings,
        attribute="statement_timeout",
        parse=_seconds(0.1, 3_600),
    ),
    Setting(
        name="REDIS_URL",
        meaning="Redis, for events (Redis Streams) and for nudges among workers: `redis://host:port/0`, `rediss://` "
        "for TLS; without one, each worker nudges itself",
        of=Settings,
        attribute="redis_url",
        parse=_url("redis", "rediss", "unix"),
    ),
    Setting(
        name="REDIS_STREAMS_KEPT_FOR",
        meaning="seconds that events stay in Redis Streams, longer where a consumer group has not read them; 0: events "
        "do not go to Redis",
        of=Settings,
        attribute="redis_streams_kept_for",
        parse=_seconds(0, 315_360_000),
    ),
    Setting(
        name="KAFKA_BROKERS",
        meaning="`host:port[,host:port]` of the Kafka to which events go; without it, they do not",
        of=Settings,
        attribute="kafka_brokers",
        parse=_brokers,
    ),
    Setting(
        name="KAFKA_TOPIC",
        meaning="the topic to which events go",
        of=Settings,
        attribute="kafka_topic",
        parse=_topic,
    ),
    Setting(
        name="KAFKA_OPTIONS",
        meaning="further properties of librdkafka, `name=value[,name=value]`: `security.protocol=sasl_ssl,…`",
        of=Settings,
        attribute="kafka_options",
        parse=_options,
    ),
    Setting(
        name="JWT_ISSUER",
        meaning="the `iss` that users' tokens must carry",
        of=JwtSettings,
        attribute="issuer",
        parse=_word,
    ),
    Setting(
        name="JWT_AUDIENCE",
        meaning="the `aud` that users' tokens must carry",
        of=JwtSettings,
        attribute="audience",
        parse=_word,
    ),
    Setting(
        name="JWT_JWKS_URL",
        meaning="where the identity provider publishes its keys (a JWK set); this or `JWT_KEYS`",
        of=JwtSettings,
        attribute="jwks_url",
        parse=_public_url,
    ),
    Setting(
        name="JWT_KEYS",
        meaning='the keys themselves: a JWK set (`{"keys": […]}`, also with `{"kid", "alg", "key"}`: PEM or a '
        "secret in base64url), `HS256:<secret>`, or the path of a file with one of these",
        of=JwtSettings,
        attribute="keys",
        parse=keys_from_setting,
    ),
    Setting(
        name="JWT_LEEWAY",
        meaning="seconds by which the identity provider's clock may differ",
        of=JwtSettings,
        attribute="leeway",
        parse=_seconds(0, 300),
    ),
    Setting(
        name="SECRET_KEY",
        meaning="at least 32 random characters, the same in all processes; signs and encrypts what the service itself "
        "hands out and keeps",
        of=Settings,
        attribute="secret_key",
        parse=_secret_key,
    ),
    Setting(
        name="FORMER_SECRET_KEYS",
        meaning="secret keys that `SECRET_KEY` has replaced, separated by commas: the secrets of webhooks that were "
        "sealed under them are still opened, until each has been rotated",
        of=Settings,
        attribute="former_secret_keys",
        parse=_secret_keys,
    ),
    Setting(
        name="WEBHOOK_ALLOW_PRIVATE",
        meaning="whether webhooks may go to private and local addresses, for tests and closed networks only",
        of=WebhookSettings,
        attribute="allow_private",
        parse=_truth,
    ),
    Setting(
        name="WEBHOOK_TIMEOUT",
        meaning="seconds in which a receiver must have answered a webhook",
        of=WebhookSettings,
        attribute="timeout",
        parse=_seconds(0.1, LONGEST_TIMEOUT),
    ),
    Setting(
        name="WEBHOOK_CONNECT_TIMEOUT",
        meaning="seconds in which a receiver must be connected to",
        of=WebhookSettings,
        attribute="connect_timeout",
        parse=_seconds(0.1, LONGEST_TIMEOUT),
    ),
    Setting(
        name="WEBHOOK_RETRY_DELAYS",
        meaning="seconds after each failed attempt until the next one, a tenth more or less; after the last, a "
        "delivery is dead",
        of=WebhookSettings,
        attribute="retry_delays",
        parse=_many_seconds(0.01, 7 * 86_400, 50),
    ),
    Setting(
        name="WEBHOOK_CONCURRENCY",
        meaning="how many deliveries to one webhook are under way at once",
        of=WebhookSettings,
        attribute="per_endpoint",
        parse=_whole(1, 64),
    ),
    Setting(
        name="ARTIFACT_WEBHOOK_SECRETS",
        meaning="the secret that the Artifact Service signs its callbacks with, `whsec_<base64>` of 24 to 64 bytes; "
        "several, separated by commas, are all accepted, for a change of secrets; without one, callbacks are refused",
        of=Settings,
        attribute="artifact_webhook_secrets",
        parse=_webhook_secrets,
    ),
    Setting(
        name="TRUSTED_PROXIES",
        meaning="addresses and networks of proxies whose `X-Forwarded-For` is believed, separated by commas",
        of=Settings,
        attribute="trusted_proxies",
        parse=_proxies,
    ),
    Setting(
        name="SPOOL_DIR",
        meaning="a directory on a disk of this machine in which the API keeps batches of readings while PostgreSQL is "
        "away, answering 202 instead of 503; all its processes on the machine share it; without one, it keeps none",
        of=SpoolSettings,
        attribute="directory",
        parse=_directory,
    ),
    Setting(
        name="SPOOL_MAX_BYTES",
        meaning="the room that the spool takes at most, batches that were refused later included",
        of=SpoolSettings,
        attribute="max_bytes",
        parse=_whole(1 << 20, 1 << 50),
    ),
    Setting(
        name="SPOOL_MAX_AGE",
        meaning="seconds that the oldest batch may have waited: the spool then takes no more, and keeps what it has",
        of=SpoolSettings,
        attribute="max_age",
        parse=_seconds(1, 31 * 86_400),
    ),
    Setting(
        name="EXPORTS_URL",
        meaning="where exports are kept: `file:///directory`, or `s3://bucket/prefix` of an S3-compatible storage, "
        "whose credentials, region and endpoint are those of `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, "
        "`AWS_REGION`, `AWS_ENDPOINT_URL` and their like. The API and all workers must see the same place; "
        "`up` takes a directory of its own if it is not set; without one, there are no exports",
        of=ExportSettings,
        attribute="url",
        parse=_export_url,
    ),
    Setting(
        name="EXPORTS_KEEP",
        meaning="seconds that the file of an export is kept",
        of=ExportSettings,
        attribute="keep",
        parse=_seconds(1, 366 * 86_400),
    ),
    Setting(
        name="EXPORTS_PER_USER",
        meaning="how many exports a user may have under way in a project",
        of=ExportSettings,
        attribute="per_user",
        parse=_whole(1, 1_000),
    ),
    Setting(
        name="EXPORTS_MAX_READINGS",
        meaning="how many readings one export may hold",
        of=ExportSettings,
        attribute="max_readings",
        parse=_whole(1, 10**15),
    ),
    Setting(
        name="LOG_FORMAT",
        meaning="`json`, one object a line, or `console`, for people",
        of=LogSettings,
        attribute="format",
        parse=_one_of("json", "console"),
    ),
    Setting(
        name="LOG_LEVEL",
        meaning="the least that is logged: `debug`, `info`, `warning` or `error`",
        of=LogSettings,
        attribute="level",
        parse=_one_of("debug", "info", "warning", "error"),
    ),
    Setting(
        name="API_HOST",
        meaning="the address on which `api` listens; `0.0.0.0` for all",
        of=ApiSettings,
        attribute="host",
        parse=_word,
    ),
    Setting(
        name="API_PORT",
        meaning="the port on which `api` listens",
        of=ApiSettings,
        attribute="port",
        parse=_whole(1, 65_535),
    ),
    Setting(
        name="API_PROCESSES",
        meaning="how many processes `api` starts; `/metrics` counts for the one that answers",
        of=ApiSettings,
        attribute="processes",
        parse=_whole(1, 256),
    ),
    Setting(
        name="WORKER_METRICS_HOST",
        meaning="the address on which a worker tells its metrics; `0.0.0.0` for all",
        of=WorkerSettings,
        attribute="metrics_host",
        parse=_word,
    ),
    Setting(
        name="WORKER_METRICS_PORT",
        meaning="the port on which a worker tells its metrics, under `/metrics`: one of its own for each worker of a "
        "machine; 0: none",
        of=WorkerSettings,
        attribute="metrics_port",
        parse=_whole(0, 65_535),
    ),
)
