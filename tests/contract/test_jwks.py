"""Keys of an identity provider: fetched rarely, whatever is asked; kept while it is away; nothing hostile is taken."""

import asyncio
import base64
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from experiment_adapters.auth import jwks
from experiment_adapters.auth.jwks import FRESH, LARGEST, PAUSE, JwksKeys
from experiment_adapters.auth.jwt import JwtSettings, JwtVerifier
from experiment_domain.kernel.errors import Unauthenticated, Unavailable

ISSUER, AUDIENCE = "https://identity.example", "experiment-service"


@cache
def key(kid: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


def public(kid: str) -> dict[str, Any]:
    return {**OKPAlgorithm.to_jwk(key(kid).public_key(), as_dict=True), "kid": kid, "use": "sig"}


def document(*kids: str) -> bytes:
    return json.dumps({"keys": [public(kid) for kid in kids]}).encode()


def token(kid: str, named: str | None = None, **claims: Any) -> str:
    """A token that `kid` signed and that names `named`."""
    expires = int(datetime.now(UTC).timestamp()) + 3_600
    content = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": expires, **claims}
    return jwt.encode(content, key(kid), algorithm="EdDSA", headers={"kid": named or kid})


Answer = Callable[[BaseHTTPRequestHandler], None]


class Provider(ThreadingHTTPServer):
    """An identity provider that can misbehave."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.fetches: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Answer = publishing("one")
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Provider  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.fetches.append(self.path)
        self.server.headers.append(dict(self.headers))
        self.server.answer(self)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
        pass


def sending(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def publishing(*kids: str) -> Answer:
    return sending(document(*kids), Content_Type="application/json")


@contextmanager
def serving(provider: Provider) -> Iterator[None]:
    thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        provider.shutdown()
        thread.join()
        provider.server_close()


class Time:
    """A clock that goes only when told."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


class Setup:
    """A verifier of tokens that asks `provider` for its keys."""

    def __init__(self, provider: Provider) -> None:
        self.time = Time()
        self.url = f"http://127.0.0.1:{provider.server_port}/keys"
        self.keys = JwksKeys(self.url, monotonic=self.time)
        settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=self.url)
        self.verifier = JwtVerifier(settings, keys=self.keys)

    async def accepts(self, offered: str) -> bool:
        try:
            await self.verifier.verify(offered)
        except (Unauthenticated, Unavailable):
            return False
        return True

    async def settle(self) -> None:
        """Let a fetch in the background end."""
        if self.keys._fetching is not None:
            await asyncio.wait([self.keys._fetching])


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    with serving(provider):
        yield provider


def test_keys_are_fetched_once_for_everybody_who_waits(provider: Provider):
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.2)
        publishing("one")(handler)

    async def scenario() -> None:
        provider.answer = slowly
        setup = Setup(provider)
        assert all(await asyncio.gather(*(setup.accepts(token("one", jti=str(n))) for n in range(100))))
        assert provider.fetches == ["/keys"]

    asyncio.run(scenario())


def test_a_caller_who_goes_away_does_not_end_the_fetch_of_the_others(provider: Provider):
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.2)
        publishing("one")(handler)

    async def scenario() -> None:
        provider.answer = slowly
        setup = Setup(provider)
        impatient = asyncio.create_task(setup.accepts(token("one")))
        patient = asyncio.create_task(setup.accepts(token("one", jti="2")))
        await asyncio.sleep(0.05)
        impatient.cancel()
        assert await patient
        assert len(provider.fetches) == 1

    asyncio.run(scenario())


def test_ten_thousand_unknown_key_ids_cause_at_most_two_fetches_a_minute(provider: Provider):
    async def scenario() -> None:
        setup = Setup(provider)
        assert await setup.accepts(token("one"))
        forgery = token("thief").split(".", 1)[1]
        at: list[float] = []
        minutes, each = 5, 2_000
        for number in range(minutes * each):
            header = base64.urlsafe_b64encode(json.dumps({"alg": "EdDSA", "kid": f"k{number}"}).encode())
            before = len(provider.fetches)
            assert not await setup.accepts(f"{header.rstrip(b'=').decode()}.{forgery}")
            at += [setup.time.seconds] * (len(provider.fetches) - before)
            setup.time.seconds += 60 / each
        assert len(at) >= minutes  # it does look again
        assert all(sum(start <= moment < start + 60 for moment in at) <= 2 for start in at)
        assert len(provider.fetches) <= 1 + 2 * minutes
        assert await setup.accepts(token("one"))

    asyncio.run(scenario())


def test_unknown_key_ids_at_once_share_one_fetch(provider: Provider):
    async def scenario() -> None:
        setup = Setup(provider)
        results = await asyncio.gather(*(setup.accepts(token("thief", named=f"k{n}")) for n in range(500)))
        assert not any(results)
        assert len(provider.fetches) == 1

    asyncio.run(scenario())


def test_a_new_key_is_found_and_a_withdrawn_one_forgotten(provider: Provider):
    async def scenario() -> None:
        setup = Setup(provider)
        first = token("one")
        assert await setup.accepts(first)
        provider.answer = publishing("one", "two")
        assert not await setup.accepts(token("two"))  # asked for too soon
        setup.time.seconds += PAUSE
        assert await setup.accepts(token("two"))
        assert len(provider.fetches) == 2
        provider.answer = publishing("two")
        assert await setup.accepts(first)  # nobody has told yet
        setup.time.seconds += FRESH
        assert await setup.accepts(first)  # asks in the background
        await setup.settle()
        assert not await setup.accepts(first)
        assert await setup.accepts(token("two"))

    asyncio.run(scenario())


def test_cached_keys_serve_while_the_provider_is_away():
    async def scenario() -> None:
        provider = Provider()
        with serving(provider):
            setup = Setup(provider)
            assert await setup.accepts(token("one"))
        for hour in range(24):
            setup.time.seconds += 3_600
            assert await setup.accepts(token("one", jti=str(hour)))
            await setup.settle()
            assert not await setup.accepts(token("two"))
        back = Provider(("127.0.0.1", provider.server_port))
        back.answer = publishing("two")
        with serving(back):
            setup.time.seconds += PAUSE
            assert await setup.accepts(token("two"))
            assert not await setup.accepts(token("one"))

    asyncio.run(scenario())


def test_a_provider_that_is_away_at_first_is_tried_again():
    async def scenario() -> None:
        provider = Provider()
        setup = Setup(provider)
        provider.server_close()
        for _ in range(3):
            with pytest.raises(Unavailable, match="not available"):
                await setup.verifier.verify(token("one"))
        back = Provider(("127.0.0.1", provider.server_port))
        with serving(back):
            assert not await setup.accepts(token("one"))
            setup.time.seconds += PAUSE
            assert await setup.accepts(token("one"))
            assert len(back.fetches) == 1

    asyncio.run(scenario())


def endlessly(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(64):
        handler.wfile.write(b" " * (LARGEST // 8))


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for byte in document("one"):
        handler.wfile.write(bytes([byte]))
        time.sleep(0.05)


def hanging_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def babbling(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\x01 garbage\r\n\r\n")


def secret_jwk() -> bytes:
    secret = base64.urlsafe_b64encode(b"x" * 32).decode()
    return json.dumps({"keys": [{"kty": "oct", "kid": "one", "alg": "HS256", "k": secret}]}).encode()


def private_jwk() -> bytes:
    return json.dumps({"keys": [{**OKPAlgorithm.to_jwk(key("one"), as_dict=True), "kid": "one"}]}).encode()


HOSTILE: dict[str, Answer] = {
    "too large": sending(document("one") + b" " * LARGEST),
    "endless": endlessly,
    "too slow": dripping,
    "hangs up": hanging_up,
    "fewer bytes than announced": sending(b"{", Content_Length="100"),
    "no HTTP": babbling,
    "error": sending(document("one"), status=500),
    "not found, with keys": sending(document("one"), status=404),
    "created, with keys": sending(document("one"), status=201),
    "garbage": sending(b"\xff\xfe\x00garbage"),
    "empty": sending(b""),
    "HTML": sending(b"<html>"),
    "null": sending(b"null"),
    "a list": sending(json.dumps([public("one")]).encode()),
    "no keys": sending(b'{"keys": []}'),
    "keys as an object": sending(json.dumps({"keys": public("one")}).encode()),
    "keys of nothing": sending(
        b'{"keys": [null, 1, "x", [], {}, {"kty": []}, {"kty": "RSA"}, {"kty": "RSA", "n": 1}]}'
    ),
    "nested too deeply": sending(b"[" * 500_000),
    "a huge number": sending(b'{"keys": ' + b"9" * 100_000 + b"}"),
    "twice keys": sending(document("two")[:-1] + b", " + document("one")[1:]),
    "compressed": sending(gzip.compress(document("one")), Content_Encoding="gzip"),
    "a shared secret": sending(secret_jwk()),
    "a private key": sending(private_jwk()),
    "for encryption": sending(json.dumps({"keys": [{**public("one"), "use": "enc"}]}).encode()),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_is_not_taken_and_does_not_displace_good_keys(
    provider: Provider, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jwks, "TIMEOUT", 0.5)

    async def scenario() -> None:
        provider.answer = HOSTILE[name]
        setup = Setup(provider)
        began = time.monotonic()
        assert not await setup.accepts(token("one"))
        assert time.monotonic() - began < 3
        assert len(provider.fetches) == 1
        provider.answer = publishing("one")
        setup.time.seconds += PAUSE
        assert await setup.accepts(token("one"))
        provider.answer = HOSTILE[name]
        setup.time.seconds += FRESH
        assert await setup.accepts(token("one", jti="2"))
        await setup.settle()
        assert len(provider.fetches) == 3
        assert await setup.accepts(token("one", jti="3"))

    asyncio.run(scenario())


def test_redirects_are_not_followed(provider: Provider):
    async def scenario() -> None:
        def redirect(handler: BaseHTTPRequestHandler) -> None:
            if handler.path == "/keys":
                sending(b"", status=302, Location="/elsewhere")(handler)
            else:
                publishing("one")(handler)

        provider.answer = redirect
        setup = Setup(provider)
        assert not await setup.accepts(token("one"))
        assert provider.fetches == ["/keys"]

    asyncio.run(scenario())


def test_published_keys_never_make_a_shared_secret(provider: Provider):
    async def scenario() -> None:
        jwk = RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True)
        provider.answer = sending(json.dumps({"keys": [{**jwk, "kid": "rs"}]}).encode())
        setup = Setup(provider)
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": time.time() + 60}
        assert await setup.accepts(jwt.encode(claims, rsa_key(), algorithm="RS256", headers={"kid": "rs"}))
        assert not await setup.accepts(jwt.encode(claims, rsa_key(), algorithm="PS256", headers={"kid": "rs"}))
        secret = jwk["n"].encode()
        assert not await setup.accepts(jwt.encode(claims, secret, algorithm="HS256", headers={"kid": "rs"}))

    asyncio.run(scenario())


def test_good_keys_beside_unusable_ones_are_taken(provider: Provider):
    async def scenario() -> None:
        entries = [{"kty": "EC", "crv": "P-521", "x": "", "y": ""}, None, public("one"), {"kty": "oct", "k": "x"}]
        provider.answer = sending(json.dumps({"keys": entries}).encode())
        assert await Setup(provider).accepts(token("one"))

    asyncio.run(scenario())


def test_the_environments_proxies_and_passwords_are_not_used(provider: Provider, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert await Setup(provider).accepts(token("one"))
        assert "Authorization" not in provider.headers[0]
        assert provider.headers[0]["Accept-Encoding"] == "identity"

    asyncio.run(scenario())
