"""All settings: each is one row, which drives the parsing and the documentation alike."""

from collections.abc import Callable
from typing import Any

from attrs import fields_dict, frozen

from experiment_adapters.auth.jwt import JwtSettings
from experiment_adapters.auth.keys import keys_from_setting
from experiment_adapters.exports.settings import ExportSettings
from experiment_adapters.logs import LogSettings
from experiment_adapters.postgres.settings import DatabaseSettings, checked_postgres_url
from experiment_adapters.settings.formats import (
    brokers,
    directory,
    export_url,
    many_seconds,
    one_of,
    options,
    proxies,
    public_url,
    seconds,
    secret_key,
    secret_keys,
    topic,
    truth,
    url,
    webhook_secrets,
    whole,
    word,
)
from experiment_adapters.settings.values import ApiSettings, UngroupedSettings, WorkerSettings
from experiment_adapters.spool.settings import SpoolSettings
from experiment_adapters.webhooks.settings import LONGEST_TIMEOUT, WebhookSettings

PREFIX = "EXPERIMENT_"
OTEL = "OTEL_"
RESERVED = "reserved: accepted and checked, used by nothing yet"
OTEL_MEANING = (
    f"{RESERVED}; what OpenTelemetry reads, under its own names: `OTEL_SERVICE_NAME`, `OTEL_EXPORTER_OTLP_ENDPOINT` …; "
    "with the prefix `EXPERIMENT_`, for this service alone"
)


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
        parse=whole(0, 1_000),
    ),
    Setting(
        name="DATABASE_POOL_MAX",
        meaning="connections that each process opens at most",
        of=DatabaseSettings,
        attribute="pool_max",
        parse=whole(1, 1_000),
    ),
    Setting(
        name="DATABASE_POOL_TIMEOUT",
        meaning="seconds that a request waits for a connection of the pool",
        of=DatabaseSettings,
        attribute="pool_timeout",
        parse=seconds(0.1, 60),
    ),
    Setting(
        name="DATABASE_CONNECT_TIMEOUT",
        meaning="seconds to connect to one host; whole ones, 2 at least, as libpq counts",
        of=DatabaseSettings,
        attribute="connect_timeout",
        parse=whole(2, 60),
    ),
    Setting(
        name="DATABASE_STATEMENT_TIMEOUT",
        meaning="seconds after which PostgreSQL ends a statement",
        of=DatabaseSettings,
        attribute="statement_timeout",
        parse=seconds(0.1, 3_600),
    ),
    Setting(
        name="REDIS_URL",
        meaning="Redis, for events (Redis Streams) and for nudges among workers: `redis://host:port/0`, `rediss://` "
        "for TLS; without one, each worker nudges itself",
        of=UngroupedSettings,
        attribute="redis_url",
        parse=url("redis", "rediss", "unix"),
    ),
    Setting(
        name="REDIS_STREAMS_KEPT_FOR",
        meaning="seconds that events stay in Redis Streams, longer where a consumer group has not read them; 0: events "
        "do not go to Redis",
        of=UngroupedSettings,
        attribute="redis_streams_kept_for",
        parse=seconds(0, 315_360_000),
    ),
    Setting(
        name="KAFKA_BROKERS",
        meaning="`host:port[,host:port]` of the Kafka to which events go; without it, they do not",
        of=UngroupedSettings,
        attribute="kafka_brokers",
        parse=brokers,
    ),
    Setting(
        name="KAFKA_TOPIC",
        meaning="the topic to which events go",
        of=UngroupedSettings,
        attribute="kafka_topic",
        parse=topic,
    ),
    Setting(
        name="KAFKA_OPTIONS",
        meaning="further properties of librdkafka, `name=value[,name=value]`: `security.protocol=sasl_ssl,…`",
        of=UngroupedSettings,
        attribute="kafka_options",
        parse=options,
    ),
    Setting(
        name="JWT_ISSUER",
        meaning="the `iss` that users' tokens must carry",
        of=JwtSettings,
        attribute="issuer",
        parse=word,
    ),
    Setting(
        name="JWT_AUDIENCE",
        meaning="the `aud` that users' tokens must carry",
        of=JwtSettings,
        attribute="audience",
        parse=word,
    ),
    Setting(
        name="JWT_JWKS_URL",
        meaning="where the identity provider publishes its keys (a JWK set); this or `JWT_KEYS`",
        of=JwtSettings,
        attribute="jwks_url",
        parse=public_url,
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
        parse=seconds(0, 300),
    ),
    Setting(
        name="SECRET_KEY",
        meaning="at least 32 random characters, the same in all processes; signs and encrypts what the service itself "
        "hands out and keeps",
        of=UngroupedSettings,
        attribute="secret_key",
        parse=secret_key,
    ),
    Setting(
        name="FORMER_SECRET_KEYS",
        meaning="secret keys that `SECRET_KEY` has replaced, separated by commas: the secrets of webhooks that were "
        "sealed under them are still opened, until each has been rotated",
        of=UngroupedSettings,
        attribute="former_secret_keys",
        parse=secret_keys,
    ),
    Setting(
        name="WEBHOOK_ALLOW_PRIVATE",
        meaning="whether webhooks may go to private and local addresses, for tests and closed networks only",
        of=WebhookSettings,
        attribute="allow_private",
        parse=truth,
    ),
    Setting(
        name="WEBHOOK_TIMEOUT",
        meaning="seconds in which a receiver must have answered a webhook",
        of=WebhookSettings,
        attribute="timeout",
        parse=seconds(0.1, LONGEST_TIMEOUT),
    ),
    Setting(
        name="WEBHOOK_CONNECT_TIMEOUT",
        meaning="seconds in which a receiver must be connected to",
        of=WebhookSettings,
        attribute="connect_timeout",
        parse=seconds(0.1, LONGEST_TIMEOUT),
    ),
    Setting(
        name="WEBHOOK_RETRY_DELAYS",
        meaning="seconds after each failed attempt until the next one, a tenth more or less; after the last, a "
        "delivery is dead",
        of=WebhookSettings,
        attribute="retry_delays",
        parse=many_seconds(0.01, 7 * 86_400, 50),
    ),
    Setting(
        name="WEBHOOK_CONCURRENCY",
        meaning="how many deliveries to one webhook are under way at once",
        of=WebhookSettings,
        attribute="per_endpoint",
        parse=whole(1, 64),
    ),
    Setting(
        name="ARTIFACT_WEBHOOK_SECRETS",
        meaning="the secret that the Artifact Service signs its callbacks with, `whsec_<base64>` of 24 to 64 bytes; "
        "several, separated by commas, are all accepted, for a change of secrets; without one, callbacks are refused",
        of=UngroupedSettings,
        attribute="artifact_webhook_secrets",
        parse=webhook_secrets,
    ),
    Setting(
        name="TRUSTED_PROXIES",
        meaning="addresses and networks of proxies whose `X-Forwarded-For` is believed, separated by commas",
        of=UngroupedSettings,
        attribute="trusted_proxies",
        parse=proxies,
    ),
    Setting(
        name="SPOOL_DIR",
        meaning="a directory on a disk of this machine in which the API keeps batches of readings while PostgreSQL is "
        "away, answering 202 instead of 503; all its processes on the machine share it; without one, it keeps none",
        of=SpoolSettings,
        attribute="directory",
        parse=directory,
    ),
    Setting(
        name="SPOOL_MAX_BYTES",
        meaning="the room that the spool takes at most, batches that were refused later included",
        of=SpoolSettings,
        attribute="max_bytes",
        parse=whole(1 << 20, 1 << 50),
    ),
    Setting(
        name="SPOOL_MAX_AGE",
        meaning="seconds that the oldest batch may have waited: the spool then takes no more, and keeps what it has",
        of=SpoolSettings,
        attribute="max_age",
        parse=seconds(1, 31 * 86_400),
    ),
    Setting(
        name="EXPORTS_URL",
        meaning="where exports are kept: `file:///directory`, or `s3://bucket/prefix` of an S3-compatible storage, "
        "whose credentials, region and endpoint are those of `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, "
        "`AWS_REGION`, `AWS_ENDPOINT_URL` and their like. The API and all workers must see the same place; "
        "`up` takes a directory of its own if it is not set; without one, there are no exports",
        of=ExportSettings,
        attribute="url",
        parse=export_url,
    ),
    Setting(
        name="EXPORTS_KEEP",
        meaning="seconds that the file of an export is kept",
        of=ExportSettings,
        attribute="keep",
        parse=seconds(1, 366 * 86_400),
    ),
    Setting(
        name="EXPORTS_PER_USER",
        meaning="how many exports a user may have under way in a project",
        of=ExportSettings,
        attribute="per_user",
        parse=whole(1, 1_000),
    ),
    Setting(
        name="EXPORTS_MAX_READINGS",
        meaning="how many readings one export may hold",
        of=ExportSettings,
        attribute="max_readings",
        parse=whole(1, 10**15),
    ),
    Setting(
        name="LOG_FORMAT",
        meaning="`json`, one object a line, or `console`, for people",
        of=LogSettings,
        attribute="format",
        parse=one_of("json", "console"),
    ),
    Setting(
        name="LOG_LEVEL",
        meaning="the least that is logged: `debug`, `info`, `warning` or `error`",
        of=LogSettings,
        attribute="level",
        parse=one_of("debug", "info", "warning", "error"),
    ),
    Setting(
        name="API_HOST",
        meaning="the address on which `api` listens; `0.0.0.0` for all",
        of=ApiSettings,
        attribute="host",
        parse=word,
    ),
    Setting(
        name="API_PORT",
        meaning="the port on which `api` listens",
        of=ApiSettings,
        attribute="port",
        parse=whole(1, 65_535),
    ),
    Setting(
        name="API_PROCESSES",
        meaning="how many processes `api` starts; `/metrics` counts for the one that answers",
        of=ApiSettings,
        attribute="processes",
        parse=whole(1, 256),
    ),
    Setting(
        name="WORKER_METRICS_HOST",
        meaning="the address on which a worker tells its metrics; `0.0.0.0` for all",
        of=WorkerSettings,
        attribute="metrics_host",
        parse=word,
    ),
    Setting(
        name="WORKER_METRICS_PORT",
        meaning="the port on which a worker tells its metrics, under `/metrics`: one of its own for each worker of a "
        "machine; 0: none",
        of=WorkerSettings,
        attribute="metrics_port",
        parse=whole(0, 65_535),
    ),
)
