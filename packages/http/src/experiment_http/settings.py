"""What the HTTP side can be told at its start."""

from ipaddress import IPv4Network, IPv6Network

from attrs import field, frozen

SHORTEST_SECRET = 32


@frozen(kw_only=True)
class HttpSettings:
    """How the API behaves. `secret_key` signs cursors and seals kept answers: all processes need the same one.

    With one of the `artifact_webhook_secrets` the Artifact Service signs its callbacks; without any, all are refused.
    An address in `X-Forwarded-For` is believed only from one of the `trusted_proxies`. Durations are in seconds: a
    socket's caller is checked so often, it is closed when nothing came for so long, or when an answer is not taken. A
    stream says so often that it is there, its caller is checked so often, and it ends when nothing is taken for long.
    """

    secret_key: bytes = field(repr=False)
    artifact_webhook_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    documents: bool = True
    body_timeout: float = 30.0
    readiness_timeout: float = 3.0
    socket_check_every: float = 2.5
    socket_idle_timeout: float = 600.0
    socket_send_timeout: float = 30.0
    stream_keep_alive: float = 15.0
    stream_check_every: float = 2.5
    stream_send_timeout: float = 20.0

    def __attrs_post_init__(self) -> None:
        if len(self.secret_key) < SHORTEST_SECRET:
            raise ValueError(f"the secret key needs at least {SHORTEST_SECRET} bytes")
