"""What a `WebhookSender` makes of receivers: those that behave, those that do not, those that must not be reached."""

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from experiment_adapters.webhooks.addresses import is_public
from experiment_adapters.webhooks.sender import HttpWebhookSender, Resolve
from experiment_adapters.webhooks.settings import WebhookSettings
from experiment_domain.webhooks.sending import ANSWER_LENGTH, Outcome, WebhookMessage
from receiver import (
    Answer,
    Receiver,
    endless_head,
    garbage,
    hang,
    megabyte,
    reset,
    status,
    trickle,
    trickle_body,
)

PATIENT: dict[str, Any] = {"timeout": 1.0, "connect_timeout": 0.5}
REFUSED = (
    "its host has an address that webhooks are not sent to"
    " (public ones only, unless the service is set up otherwise: EXPERIMENT_WEBHOOK_ALLOW_PRIVATE)"
)


def message(url: str) -> WebhookMessage:
    return WebhookMessage(url=url, message_id="evt-1", timestamp=1_773_051_273, signature="v1,c2ln", body=b'{"a":1}')


def sender(**settings: Any) -> HttpWebhookSender:
    return _sender(WebhookSettings(allow_private=True, **{**PATIENT, **settings}))


def _sender(settings: WebhookSettings, resolve: Resolve | None = None) -> HttpWebhookSender:
    return HttpWebhookSender(settings, resolve=resolve, ssl_context=_trusting())


@cache
def _trusting() -> ssl.SSLContext:
    return ssl.create_default_context()  # it takes its time: once is enough


async def sent(receiver: Receiver, answer: Answer, **settings: Any) -> Outcome:
    async with receiver.serving():
        receiver.answers["/hook?to=7"] = answer
        return await sender(**settings).send(message(receiver.url("/hook?to=7")))


async def test_a_message_arrives_as_it_is(runner: asyncio.Runner):
    receiver = Receiver()
    outcome = await sent(receiver, status(200, b"thanks"))
    assert (outcome.status_code, outcome.error, outcome.answer) == (200, None, "thanks")
    assert outcome.is_delivered
    assert 0 < outcome.latency < 10
    (received,) = receiver.received
    assert (received.path, received.body) == ("/hook?to=7", b'{"a":1}')
    assert received.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "user-agent": "Experiment-Service-Webhooks/1.0",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
        "content-type": "application/cloudevents+json",
        "content-length": "7",
        "webhook-id": "evt-1",
        "webhook-timestamp": "1773051273",
        "webhook-signature": "v1,c2ln",
    }


@pytest.mark.parametrize(
    ("answer", "code", "delivered"),
    [
        (status(201), 201, True),
        (status(299, b"\xff\x00"), 299, True),
        (status(301, location="/elsewhere"), 301, False),
        (status(307, location="http://127.0.0.1/"), 307, False),
        (status(304), 304, False),
        (status(410), 410, False),
        (status(500, b"oops"), 500, False),
        (megabyte, 500, False),
    ],
)
async def test_answers(runner: asyncio.Runner, answer: Answer, code: int, delivered: bool):
    receiver = Receiver()
    outcome = await sent(receiver, answer)
    assert (outcome.status_code, outcome.is_delivered, outcome.is_gone) == (code, delivered, code == 410)
    assert len(outcome.answer) <= ANSWER_LENGTH
    assert "\0" not in outcome.answer
    assert receiver.connections == 1  # redirects are not followed


async def test_the_beginning_of_a_long_answer_is_kept(runner: asyncio.Runner):
    assert (await sent(Receiver(), megabyte)).answer == "x" * ANSWER_LENGTH


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (hang, "there was no answer within 1 seconds"),
        (trickle, "there was no answer within 1 seconds"),
        (reset, ""),
        (garbage, ""),
        (endless_head, ""),
    ],
    ids=["hang", "trickle", "reset", "garbage", "endless head"],
)
async def test_receivers_that_give_no_answer(runner: asyncio.Runner, answer: Answer, error: str):
    receiver, began = Receiver(), time.monotonic()
    outcome = await sent(receiver, answer)
    assert time.monotonic() - began < 8
    assert (outcome.status_code, outcome.is_delivered) == (None, False)
    assert outcome.error
    assert error in outcome.error
    assert len(receiver.received) == 1


async def test_a_status_counts_whatever_becomes_of_the_body(runner: asyncio.Runner):
    began = time.monotonic()
    outcome = await sent(Receiver(), trickle_body, timeout=20.0)
    assert time.monotonic() - began < 10
    assert (outcome.status_code, outcome.is_delivered) == (200, True)
    assert set(outcome.answer) == {"x"}


async def test_nobody_listens(runner: asyncio.Runner):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outcome = await sender().send(message(f"http://127.0.0.1:{port}/"))
    assert (outcome.status_code, bool(outcome.error)) == (None, True)
    assert (await sender().send(message("http://nowhere.invalid/"))).error == "its host is not known"
    assert (await sender().send(message(f"http://{'x' * 70}.example/"))).error == "its host is not known"


async def test_a_full_queue_of_connections_is_not_waited_for(runner: asyncio.Runner):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        outcome = await sender(timeout=20.0).send(message(f"http://127.0.0.1:{server.getsockname()[1]}/"))
        for filler in fillers:
            filler.close()
    assert outcome.error == "there was no connection within 0.5 seconds"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120", 120.0), ("0", 0.0), ("9" * 400, 86_400.0), ("soon", None), ("-5", None), ("", None)],
)
async def test_retry_after_in_seconds(runner: asyncio.Runner, text: str, seconds: float | None):
    outcome = await sent(Receiver(), status(503, Retry_After=text))
    assert outcome.retry_after == (None if seconds is None else timedelta(seconds=seconds))


async def test_retry_after_as_a_date(runner: asyncio.Runner):
    at = datetime.now(UTC) + timedelta(minutes=5)
    outcome = await sent(Receiver(), status(429, Retry_After=format_datetime(at, usegmt=True)))
    assert outcome.retry_after is not None
    assert timedelta(minutes=4, seconds=30) < outcome.retry_after <= timedelta(minutes=5)
    past = await sent(Receiver(), status(429, Retry_After=format_datetime(at - timedelta(days=1), usegmt=True)))
    assert past.retry_after == timedelta()


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 01 Jan 2024 00:00:00 +99999999999999",
        "Mon, 01 Jan 2024 9:99999999999999999999",
        "1 Jan 99999999999999999999 1:1:1",
        "Mon, 99 Foo 20 99:99",
    ],
)
async def test_retry_after_as_no_date(runner: asyncio.Runner, text: str):
    outcome = await sent(Receiver(), status(503, Retry_After=text))
    assert (outcome.status_code, outcome.retry_after) == (503, None)


async def test_proxies_of_the_environment_are_not_used(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch):
    async with Receiver().serving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        assert (await sent(Receiver(), status(204))).is_delivered
        assert proxy.connections == 0


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server with a certificate for `name`, and of a client that trusts its authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    own = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(own + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "both.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_certificates_are_checked_against_the_name_in_the_url(runner: asyncio.Runner, tmp_path: Path):
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    server, client = certified(tmp_path, "hooks.example")
    settings = WebhookSettings(allow_private=True, timeout=5.0)
    ours = HttpWebhookSender(settings, resolve=resolve, ssl_context=client)
    async with Receiver().serving(ssl=server) as receiver:
        port = receiver.port
        assert (await ours.send(message(f"https://hooks.example:{port}/"))).is_delivered
        assert receiver.received[0].headers["host"] == f"hooks.example:{port}"
        for url in (f"https://other.example:{port}/", f"https://127.0.0.1:{port}/"):
            assert "CERTIFICATE_VERIFY_FAILED" in str((await ours.send(message(url))).error)
        strangers = _sender(settings, resolve)
        assert "CERTIFICATE_VERIFY_FAILED" in str(
            (await strangers.send(message(f"https://hooks.example:{port}/"))).error
        )
        assert len(receiver.received) == 1


HOSTILE = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "169.254.169.254",
    "2852039166",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
]


@pytest.mark.parametrize("host", HOSTILE)
async def test_no_connection_goes_to_private_space(runner: asyncio.Runner, host: str):
    guarded = _sender(WebhookSettings(**PATIENT))
    async with Receiver().serving() as canary:
        outcome = await guarded.send(message(f"http://{host}:{canary.port}/"))
        assert outcome.status_code is None
        # Some resolvers do not know some of these: then there is nothing to refuse.
        assert outcome.error in (REFUSED, "its host is not known")
        assert canary.connections == 0


async def test_a_name_that_leads_inside_is_refused(runner: asyncio.Runner):
    async with Receiver().serving() as canary:
        for found in (["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::1"], ["fe80::1%eth0"], ["no address"]):
            outcome = await _guarded(found).send(message(f"http://hooks.example:{canary.port}/"))
            assert outcome.error == REFUSED
        assert (
            await _guarded([]).send(message(f"http://hooks.example:{canary.port}/"))
        ).error == "its host has no address"
        assert canary.connections == 0


async def test_what_was_checked_is_what_is_connected_to(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch):
    """A name that is public when it is asked for and private a moment later, as a hostile DNS server makes it."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) > 1 else ["203.0.113.7"]

    def system(host: str, *_args: Any, **_more: Any) -> Any:
        raise AssertionError(f"{host} was looked up a second time")

    monkeypatch.setattr("experiment_adapters.webhooks.sender.is_public", lambda text: not text.startswith("127."))
    async with Receiver().serving() as canary:
        url = f"http://rebinding.example:{canary.port}/"
        guarded = _sender(WebhookSettings(**PATIENT), rebinding)
        loop = asyncio.get_running_loop()
        tried: list[str] = []
        connect = loop.create_connection

        async def create_connection(factory: Any, host: Any = None, *args: Any, **more: Any) -> Any:
            tried.append(str(host))
            return await connect(factory, host, *args, **more)

        monkeypatch.setattr(loop, "create_connection", create_connection)
        monkeypatch.setattr(socket, "getaddrinfo", system)
        assert (await guarded.send(message(url))).status_code is None
        assert (tried, asked) == (["203.0.113.7"], ["rebinding.example"])
        assert (await guarded.send(message(url))).error == REFUSED
        assert canary.connections == 0


def _guarded(found: Sequence[str]) -> HttpWebhookSender:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return found

    return _sender(WebhookSettings(**PATIENT), resolve)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001:82f::200e"],
)
def test_public_addresses(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "192.0.0.8",
        "192.88.99.1",
        "203.0.113.1",
        "fec0::1",
        "100::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "2001:20::1",
        "4000::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "",
    ],
)
def test_special_addresses(address: str):
    assert not is_public(address)
