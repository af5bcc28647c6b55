"""The values of settings that lie beside nothing else that they configure."""

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network

from attrs import field, frozen


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
class UngroupedSettings:
    """What is a setting alone, and in no group."""

    redis_url: str | None = field(default=None, repr=False)
    redis_streams_kept_for: float = 604_800.0
    kafka_brokers: tuple[str, ...] = ()
    kafka_topic: str = "experiment.events"
    kafka_options: Mapping[str, str] = field(factory=dict[str, str], repr=False)
    secret_key: bytes | None = field(default=None, repr=False)
    former_secret_keys: tuple[bytes, ...] = field(default=(), repr=False)
    artifact_webhook_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
