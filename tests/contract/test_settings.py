"""The settings: every one is documented, a wrong one is named at start, and no secret is ever shown."""

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from experiment_adapters.auth.jwt import JwtSettings
from experiment_adapters.auth.keys import VerificationKey
from experiment_adapters.exports.settings import ExportSettings
from experiment_adapters.logs import LogSettings
from experiment_adapters.postgres.settings import DatabaseSettings
from experiment_adapters.settings import (
    SETTINGS,
    ApiSettings,
    Settings,
    SettingsError,
    WorkerSettings,
    settings_markdown,
)
from experiment_adapters.spool.settings import SpoolSettings
from experiment_adapters.webhooks.settings import WebhookSettings

CANARY = "c4n4ry-c4n4ry-c4n4ry-c4n4ry-c4n4ry-c4n4ry"
WEBHOOK_SECRET = "whsec_" + b64encode(CANARY.encode()).decode()
URL = f"postgresql://ada:{CANARY}@one:5432,two:5433/experiments?sslmode=require"
NO_PORTS = ["0", "65536", "-1", "8_0", "８０", "1e3", "x"]
NO_SECONDS = ["0", "nan", "inf", "-1", "1e1", "ten", "61"]
JWT = {"EXPERIMENT_JWT_ISSUER": "https://id.example/", "EXPERIMENT_JWT_AUDIENCE": "experiment-service"}
BAD_WEBHOOK_SECRETS = [
    *(CANARY, "whsec_", f"whsec_{CANARY}", WEBHOOK_SECRET[6:], WEBHOOK_SECRET + ",", "," + WEBHOOK_SECRET),
    *(f"{WEBHOOK_SECRET} {WEBHOOK_SECRET}", WEBHOOK_SECRET.upper(), WEBHOOK_SECRET[:-1], WEBHOOK_SECRET + "ä"),
    *("whsec_" + b64encode(CANARY.encode() * 2)[: 4 * length].decode() for length in (7, 22)),
    WEBHOOK_SECRET.replace("Y", "_", 1),
]
EVERYTHING = {
    "EXPERIMENT_DATABASE_URL": URL,
    "EXPERIMENT_DATABASE_READ_URL": "postgres://replica/experiments",
    "EXPERIMENT_DATABASE_POOL_MIN": "1",
    "EXPERIMENT_DATABASE_POOL_MAX": "20",
    "EXPERIMENT_DATABASE_POOL_TIMEOUT": "2.5",
    "EXPERIMENT_DATABASE_CONNECT_TIMEOUT": "2",
    "EXPERIMENT_DATABASE_STATEMENT_TIMEOUT": "4",
    "EXPERIMENT_REDIS_URL": f"rediss://:{CANARY}@redis:6380/1",
    "EXPERIMENT_REDIS_STREAMS_KEPT_FOR": "86400",
    "EXPERIMENT_KAFKA_BROKERS": "kafka-1:9092, [::1]:9093",
    "EXPERIMENT_KAFKA_TOPIC": "lab.events",
    "EXPERIMENT_KAFKA_OPTIONS": f"security.protocol=sasl_ssl, sasl.password={CANARY}",
    **JWT,
    "EXPERIMENT_JWT_KEYS": f"HS256:{CANARY}",
    "EXPERIMENT_JWT_LEEWAY": "0",
    "EXPERIMENT_SECRET_KEY": CANARY,
    "EXPERIMENT_FORMER_SECRET_KEYS": f"{CANARY}, {'k' * 32}",
    "EXPERIMENT_WEBHOOK_ALLOW_PRIVATE": "True",
    "EXPERIMENT_WEBHOOK_TIMEOUT": "7.5",
    "EXPERIMENT_WEBHOOK_CONNECT_TIMEOUT": "2",
    "EXPERIMENT_WEBHOOK_RETRY_DELAYS": "1, 60.5",
    "EXPERIMENT_WEBHOOK_CONCURRENCY": "8",
    "EXPERIMENT_ARTIFACT_WEBHOOK_SECRETS": f"{WEBHOOK_SECRET}, whsec_{b64encode(bytes(64)).decode()}",
    "EXPERIMENT_TRUSTED_PROXIES": "10.0.0.7, 10.1.0.0/16,fd00::/8",
    "EXPERIMENT_SPOOL_DIR": "/var/lib/experiment-service/spool",
    "EXPERIMENT_SPOOL_MAX_BYTES": "20000000000",
    "EXPERIMENT_SPOOL_MAX_AGE": "7200",
    "EXPERIMENT_EXPORTS_URL": "s3://exports/of/the-rig",
    "EXPERIMENT_EXPORTS_KEEP": "3600",
    "EXPERIMENT_EXPORTS_PER_USER": "2",
    "EXPERIMENT_EXPORTS_MAX_READINGS": "1000000",
    "EXPERIMENT_LOG_FORMAT": "console",
    "EXPERIMENT_LOG_LEVEL": "DEBUG",
    "EXPERIMENT_API_HOST": "0.0.0.0",
    "EXPERIMENT_API_PORT": "8080",
    "EXPERIMENT_API_PROCESSES": "4",
    "EXPERIMENT_WORKER_METRICS_HOST": "10.0.0.9",
    "EXPERIMENT_WORKER_METRICS_PORT": "9100",
    "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={CANARY}",
    "OTEL_SERVICE_NAME": "all",
    "EXPERIMENT_OTEL_SERVICE_NAME": "experiment-service",
}


def test_an_empty_environment_gives_the_defaults():
    settings = Settings.from_environment({"PATH": "/bin", "EXPERIMENTS": "x", "EXPERIMENT_TEST_POSTGRES_URL": "x"})
    assert settings == Settings()
    assert settings.database is None
    assert settings.jwt is None
    assert settings.secret_key is None
    assert not settings.webhooks.allow_private
    assert settings.api == ApiSettings(host="127.0.0.1", port=8000, processes=1)
    assert settings.worker == WorkerSettings(metrics_host="127.0.0.1", metrics_port=0)


def test_every_setting_is_read():
    assert Settings.from_environment(EVERYTHING) == Settings(
        api=ApiSettings(host="0.0.0.0", port=8080, processes=4),
        log=LogSettings(format="console", level="debug"),
        database=DatabaseSettings(
            url=URL,
            read_url="postgres://replica/experiments",
            pool_min=1,
            pool_max=20,
            pool_timeout=2.5,
            connect_timeout=2,
            statement_timeout=4.0,
        ),
        jwt=JwtSettings(
            issuer="https://id.example/",
            audience="experiment-service",
            keys=(VerificationKey(algorithm="HS256", key=CANARY.encode()),),
            leeway=0.0,
        ),
        redis_url=f"rediss://:{CANARY}@redis:6380/1",
        redis_streams_kept_for=86_400.0,
        kafka_brokers=("kafka-1:9092", "[::1]:9093"),
        kafka_topic="lab.events",
        kafka_options={"security.protocol": "sasl_ssl", "sasl.password": CANARY},
        secret_key=CANARY.encode(),
        former_secret_keys=(CANARY.encode(), b"k" * 32),
        webhooks=WebhookSettings(
            allow_private=True, timeout=7.5, connect_timeout=2.0, retry_delays=(1.0, 60.5), per_endpoint=8
        ),
        artifact_webhook_secrets=(CANARY.encode(), bytes(64)),
        trusted_proxies=(ip_network("10.0.0.7/32"), ip_network("10.1.0.0/16"), ip_network("fd00::/8")),
        spool=SpoolSettings(
            directory=Path("/var/lib/experiment-service/spool"), max_bytes=20_000_000_000, max_age=7200.0
        ),
        exports=ExportSettings(url="s3://exports/of/the-rig", keep=3_600.0, per_user=2, max_readings=1_000_000),
        worker=WorkerSettings(metrics_host="10.0.0.9", metrics_port=9100),
        otel={"OTEL_EXPORTER_OTLP_HEADERS": f"authorization={CANARY}", "OTEL_SERVICE_NAME": "experiment-service"},
    )


def test_every_setting_is_in_the_test_above_and_in_the_table():
    table = settings_markdown()
    for setting in SETTINGS:
        assert setting.variable in EVERYTHING or setting.variable == "EXPERIMENT_JWT_JWKS_URL"
        assert f"| `{setting.variable}` |" in table
        assert setting.meaning
    assert "| `EXPERIMENT_DATABASE_POOL_MAX` | `10` |" in table
    assert "| `EXPERIMENT_JWT_LEEWAY` | `30` |" in table
    assert "| `EXPERIMENT_WEBHOOK_ALLOW_PRIVATE` | `false` |" in table
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


@pytest.mark.parametrize("setting", [row for row in SETTINGS if row.default], ids=lambda row: row.name)
def test_a_documented_default_means_what_is_the_default(setting: Any):
    environment = {setting.variable: setting.default}
    if setting.of is DatabaseSettings:
        environment["EXPERIMENT_DATABASE_URL"] = "postgresql://localhost/x"
    if setting.of is SpoolSettings:
        environment["EXPERIMENT_SPOOL_DIR"] = "/spool"
    if setting.of is JwtSettings:
        environment |= {**JWT, "EXPERIMENT_JWT_JWKS_URL": "https://id.example/keys"}
    without = {name: value for name, value in environment.items() if name != setting.variable}
    assert Settings.from_environment(environment) == Settings.from_environment(without)


def test_an_empty_variable_is_one_that_is_not_set():
    assert Settings.from_environment({setting.variable: " " for setting in SETTINGS}) == Settings()


def test_no_secret_is_in_a_representation():
    assert CANARY not in repr(Settings.from_environment(EVERYTHING))
    assert CANARY not in str(Settings.from_environment(EVERYTHING))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"EXPERIMENT_DATABSE_URL": CANARY}, "EXPERIMENT_DATABSE_URL * nearest one is EXPERIMENT_DATABASE_URL"),
        ({"EXPERIMENT_PORT": "80"}, "EXPERIMENT_PORT * nearest one is EXPERIMENT_API_PORT"),
        ({"EXPERIMENT_": "80"}, "EXPERIMENT_ is not a setting"),
        ({"EXPERIMENT_JWT_KEY": CANARY}, "EXPERIMENT_JWT_KEY * nearest one is EXPERIMENT_JWT_KEYS"),
        ({"EXPERIMENT_X\nY": "1"}, r"'EXPERIMENT_X\nY' is not a setting"),
        ({"EXPERIMENT_api_port": "80"}, "EXPERIMENT_api_port is not a setting"),
        ({"EXPERIMENT_DATABASE_URL": f"mysql://u:{CANARY}@h/d"}, "EXPERIMENT_DATABASE_URL is not a PostgreSQL URL"),
        ({"EXPERIMENT_DATABASE_URL": f"host=h password={CANARY}"}, "EXPERIMENT_DATABASE_URL is not a PostgreSQL URL"),
        ({"EXPERIMENT_DATABASE_URL": f"postgresql://u:{CANARY}@h:x/d"}, "EXPERIMENT_DATABASE_URL is not"),
        ({"EXPERIMENT_DATABASE_URL": f"postgresql://u:{CANARY}@h/d?nonsense=1"}, "EXPERIMENT_DATABASE_URL is not"),
        ({"EXPERIMENT_DATABASE_URL": f"postgresql://u:{CANARY}%zz@h/d"}, "EXPERIMENT_DATABASE_URL is not"),
        ({"EXPERIMENT_DATABASE_READ_URL": URL}, "EXPERIMENT_DATABASE_URL is not set, but EXPERIMENT_DATABASE_READ_URL"),
        (
            {"EXPERIMENT_DATABASE_URL": URL, "EXPERIMENT_DATABASE_POOL_MAX": "1"},
            "EXPERIMENT_DATABASE_POOL_MAX does not fit",
        ),
        (
            {"EXPERIMENT_DATABASE_URL": URL, "EXPERIMENT_DATABASE_POOL_MIN": "11"},
            "EXPERIMENT_DATABASE_POOL_MIN does not fit",
        ),
        *(({"EXPERIMENT_API_PORT": text}, "EXPERIMENT_API_PORT must be a whole number") for text in NO_PORTS),
        ({"EXPERIMENT_WORKER_METRICS_PORT": "65536"}, "EXPERIMENT_WORKER_METRICS_PORT must be a whole number"),
        *(({"EXPERIMENT_DATABASE_POOL_TIMEOUT": text}, "must be a number of seconds") for text in NO_SECONDS),
        ({"EXPERIMENT_REDIS_URL": f"http://{CANARY}"}, "EXPERIMENT_REDIS_URL is not a URL"),
        ({"EXPERIMENT_REDIS_URL": f"redis://:{CANARY}@h:port"}, "EXPERIMENT_REDIS_URL is not a URL"),
        ({"EXPERIMENT_REDIS_URL": f"redis://:{CANARY}@[h"}, "EXPERIMENT_REDIS_URL is not a URL"),
        ({"EXPERIMENT_REDIS_URL": f"redis://h /{CANARY}"}, "EXPERIMENT_REDIS_URL must not hold blanks"),
        ({"EXPERIMENT_KAFKA_BROKERS": "kafka"}, "EXPERIMENT_KAFKA_BROKERS must be host:port"),
        ({"EXPERIMENT_KAFKA_BROKERS": "kafka:1,,x:2"}, "EXPERIMENT_KAFKA_BROKERS must be host:port"),
        ({"EXPERIMENT_KAFKA_BROKERS": "kafka:99999"}, "EXPERIMENT_KAFKA_BROKERS has a port"),
        ({"EXPERIMENT_KAFKA_TOPIC": "lab events"}, "EXPERIMENT_KAFKA_TOPIC must be the name of a topic"),
        ({"EXPERIMENT_KAFKA_TOPIC": ".."}, "EXPERIMENT_KAFKA_TOPIC must be the name of a topic"),
        ({"EXPERIMENT_KAFKA_OPTIONS": f"sasl.password {CANARY}"}, "EXPERIMENT_KAFKA_OPTIONS must be name=value"),
        ({"EXPERIMENT_REDIS_STREAMS_KEPT_FOR": "-1"}, "EXPERIMENT_REDIS_STREAMS_KEPT_FOR must be a number"),
        ({"EXPERIMENT_JWT_ISSUER": "x"}, "EXPERIMENT_JWT_AUDIENCE is not set, but EXPERIMENT_JWT_ISSUER is"),
        ({"EXPERIMENT_JWT_KEYS": f"HS256:{CANARY}"}, "EXPERIMENT_JWT_ISSUER is not set, but EXPERIMENT_JWT_KEYS is"),
        (JWT, "EXPERIMENT_JWT_JWKS_URL or EXPERIMENT_JWT_KEYS must be set"),
        (
            {**JWT, "EXPERIMENT_JWT_KEYS": f"HS256:{CANARY}", "EXPERIMENT_JWT_JWKS_URL": "https://id.example/keys"},
            "EXPERIMENT_JWT_KEYS is set, and EXPERIMENT_JWT_JWKS_URL too",
        ),
        ({**JWT, "EXPERIMENT_JWT_KEYS": f"HS512:{CANARY}"}, "EXPERIMENT_JWT_KEYS is too short"),
        ({**JWT, "EXPERIMENT_JWT_KEYS": CANARY}, "EXPERIMENT_JWT_KEYS is neither"),
        ({**JWT, "EXPERIMENT_JWT_KEYS": f"/nowhere/{CANARY}"}, "EXPERIMENT_JWT_KEYS names a file that cannot be read"),
        ({**JWT, "EXPERIMENT_JWT_JWKS_URL": "file:///etc/passwd"}, "EXPERIMENT_JWT_JWKS_URL is not a URL"),
        ({**JWT, "EXPERIMENT_JWT_JWKS_URL": f"https://u:{CANARY}@h/k"}, "EXPERIMENT_JWT_JWKS_URL must be a URL with"),
        ({"EXPERIMENT_SECRET_KEY": "c4n4ry"}, "EXPERIMENT_SECRET_KEY must have at least 32 characters"),
        ({"EXPERIMENT_SECRET_KEY": CANARY + "\udcff"}, "EXPERIMENT_SECRET_KEY is not UTF-8"),
        ({"EXPERIMENT_FORMER_SECRET_KEYS": f"{CANARY},c4n4ry"}, "EXPERIMENT_FORMER_SECRET_KEYS must have at least 32"),
        ({"EXPERIMENT_WEBHOOK_RETRY_DELAYS": "1,,2"}, "EXPERIMENT_WEBHOOK_RETRY_DELAYS must be a number of seconds"),
        ({"EXPERIMENT_WEBHOOK_RETRY_DELAYS": "0"}, "EXPERIMENT_WEBHOOK_RETRY_DELAYS must be a number of seconds"),
        ({"EXPERIMENT_WEBHOOK_RETRY_DELAYS": ",".join("1" * 51)}, "EXPERIMENT_WEBHOOK_RETRY_DELAYS must be at most 50"),
        ({"EXPERIMENT_WEBHOOK_TIMEOUT": "26"}, "EXPERIMENT_WEBHOOK_TIMEOUT must be a number of seconds from 0.1 to 25"),
        ({"EXPERIMENT_WEBHOOK_CONCURRENCY": "0"}, "EXPERIMENT_WEBHOOK_CONCURRENCY must be a whole number from 1 to 64"),
        ({"EXPERIMENT_WEBHOOK_ALLOW_PRIVATE": "maybe"}, "EXPERIMENT_WEBHOOK_ALLOW_PRIVATE must be true or false"),
        *(
            ({"EXPERIMENT_ARTIFACT_WEBHOOK_SECRETS": text}, "EXPERIMENT_ARTIFACT_WEBHOOK_SECRETS must be whsec_ and 24")
            for text in BAD_WEBHOOK_SECRETS
        ),
        ({"EXPERIMENT_SPOOL_DIR": "spool"}, "EXPERIMENT_SPOOL_DIR must be an absolute path"),
        ({"EXPERIMENT_SPOOL_MAX_AGE": "60"}, "EXPERIMENT_SPOOL_DIR is not set, but EXPERIMENT_SPOOL_MAX_AGE is"),
        (
            {"EXPERIMENT_SPOOL_DIR": "/spool", "EXPERIMENT_SPOOL_MAX_BYTES": "1"},
            "EXPERIMENT_SPOOL_MAX_BYTES must be a whole number from 1048576",
        ),
        ({"EXPERIMENT_TRUSTED_PROXIES": "proxy.example"}, "EXPERIMENT_TRUSTED_PROXIES must be addresses"),
        ({"EXPERIMENT_TRUSTED_PROXIES": "10.0.0.1/8"}, "EXPERIMENT_TRUSTED_PROXIES must be addresses"),
        ({"EXPERIMENT_TRUSTED_PROXIES": "0.0.0.0/0"}, "EXPERIMENT_TRUSTED_PROXIES must not trust every address"),
        ({"EXPERIMENT_LOG_FORMAT": "xml"}, "EXPERIMENT_LOG_FORMAT must be one of json, console"),
        ({"EXPERIMENT_LOG_LEVEL": "loud"}, "EXPERIMENT_LOG_LEVEL must be one of debug"),
        ({"EXPERIMENT_API_HOST": "a b"}, "EXPERIMENT_API_HOST must not hold blanks"),
        ({"OTEL_SDK_DISABLED": "perhaps"}, "OTEL_SDK_DISABLED must be true or false"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not a URL"),
        ({"EXPERIMENT_OTEL_EXPORTER_OTLP_PROTOCOL": "x"}, "EXPERIMENT_OTEL_EXPORTER_OTLP_PROTOCOL must be one of"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": CANARY}, "OTEL_EXPORTER_OTLP_HEADERS must be name=value"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_in_one_line_without_its_value(environment: Mapping[str, str], said: str):
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment(environment)
    text = str(refused.value)
    for part in said.split(" * "):
        assert part in text
    assert "\n" not in text
    assert len(text) < 250
    assert "c4n4ry" not in text
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_the_environment_is_read_in_one_place():
    package = Path(__file__).parents[2] / "packages"
    for path in package.rglob("auth/*.py"):
        assert "environ" not in path.read_text().replace("environment", "")


def test_settings_are_read_from_a_real_environment():
    program = (
        "import os; from experiment_adapters.settings import Settings; print(Settings.from_environment(os.environ))"
    )
    environment = {**os.environ, "EXPERIMENT_API_PORT": "8080", "EXPERIMENT_SECRET_KEY": CANARY}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert "port=8080" in done.stdout
    assert CANARY not in done.stdout + done.stderr
