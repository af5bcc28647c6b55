"""Who carries a bearer token: honest ones are known, and of the forged ones none is."""

import asyncio
import base64
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import pytest
from attrs import define, evolve
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import RSAAlgorithm

from experiment_adapters.auth.jwt import REMEMBERED, JwtSettings, JwtVerifier
from experiment_adapters.auth.keys import BadKey, FixedKeys, VerificationKey, keys_from_setting
from experiment_adapters.auth.local import LocalKeys, LocalKeysError
from experiment_adapters.auth.tokens import BearerTokens
from experiment_domain.kernel.access import Principal, Role, SensorToken, User
from experiment_domain.kernel.clock import Clock
from experiment_domain.kernel.errors import Invalid, Unauthenticated

NOW = datetime(2026, 3, 9, 10, 0, tzinfo=UTC)
STAMP = int(NOW.timestamp())
ISSUER, AUDIENCE = "https://identity.example", "experiment-service"
SECRET = b"0123456789abcdef0123456789abcdef"
PROJECT = "0190a2c4-0000-7000-8000-000000000001"
CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": STAMP + 600, "iat": STAMP}
PEM = {"encoding": Encoding.PEM, "format": PublicFormat.SubjectPublicKeyInfo}


@define
class SetClock(Clock):
    moment: datetime = NOW

    def now(self) -> datetime:
        return self.moment


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


@cache
def other_rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def p384_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@cache
def ed_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@cache
def keys() -> tuple[VerificationKey, ...]:
    """One key of every kind, as a service with several issuers' keys has them."""
    return (
        VerificationKey(algorithm="HS256", kid="hs", key=SECRET),
        VerificationKey(algorithm="HS512", kid="hs512", key=SECRET * 2),
        VerificationKey(algorithm="RS256", kid="rs", key=rsa_key().public_key()),
        VerificationKey(algorithm="PS384", kid="ps", key=rsa_key().public_key()),
        VerificationKey(algorithm="ES256", kid="es", key=ec_key().public_key()),
        VerificationKey(algorithm="ES384", kid="es384", key=p384_key().public_key()),
        VerificationKey(algorithm="EdDSA", kid="ed", key=ed_key().public_key()),
    )


def tokens(*, clock: Clock | None = None, only: Sequence[str] | None = None) -> BearerTokens:
    chosen = tuple(key for key in keys() if only is None or key.kid in only)
    settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE, keys=chosen)
    return BearerTokens(JwtVerifier(settings, clock=clock or SetClock()))


def authenticate(token: str, **chosen: Any) -> Principal:
    return asyncio.run(tokens(**chosen).authenticate(token))


def b64(data: bytes | str) -> str:
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


def raw(header: Any, claims: Any, sign: Callable[[bytes], bytes] | None = None) -> str:
    """A token of exactly these texts, signed as they are; objects become JSON."""
    texts = (part if isinstance(part, str | bytes) else json.dumps(part) for part in (header, claims))
    signed = ".".join(b64(text) for text in texts)
    return f"{signed}.{b64((sign or hs256(SECRET))(signed.encode()))}"


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda data: hmac.digest(secret, data, hashlib.sha256)


def rs256(key: rsa.RSAPrivateKey) -> Callable[[bytes], bytes]:
    return lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())


HS = {"alg": "HS256", "kid": "hs", "typ": "JWT"}


def signed(changes: dict[str, Any], header: dict[str, Any] | None = None) -> str:
    """A properly signed token with something wrong in it; None takes a claim away."""
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}
    return raw({**HS, **(header or {})}, claims)


def mangled(token: str, part: int, change: Callable[[str], str]) -> str:
    parts = token.split(".")
    parts[part] = change(parts[part])
    return ".".join(parts)


def public_pem() -> bytes:
    return rsa_key().public_key().public_bytes(**PEM)


def public_der() -> bytes:
    return rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def jwk_of(key: rsa.RSAPrivateKey) -> dict[str, Any]:
    return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)


def forged() -> dict[str, str]:
    """Hostile tokens by name. Most of them are right but for one thing."""
    good, other = signed({}), b"another secret of enough bytes!!"
    thief = {"alg": "RS256", "kid": "rs"}
    attacker = rs256(other_rsa_key())
    half = len(good.split(".")[2]) // 2
    es = jwt.encode(CLAIMS, ec_key(), algorithm="ES256", headers={"kid": "es"})
    foreign_es = ec.generate_private_key(ec.SECP256R1())
    claims_text = json.dumps(CLAIMS)
    forgeries: dict[str, str] = {}
    for name in ("none", "None", "NONE", "nOnE", "", "null", "NoNe "):
        forgeries[f"alg {name!r} unsigned"] = raw({"alg": name, "typ": "JWT"}, CLAIMS, lambda _: b"")
        forgeries[f"alg {name!r} signed"] = raw({"alg": name, "kid": "hs"}, CLAIMS)
    for value in (None, 0, True, ["HS256"], {"HS256": 1}):
        forgeries[f"alg {value!r}"] = raw({"alg": value, "kid": "hs"}, CLAIMS)
    forgeries |= {
        "no alg": raw({"typ": "JWT", "kid": "hs"}, CLAIMS),
        "alg in lower case": raw({"alg": "hs256", "kid": "hs"}, CLAIMS),
        "alg that no key has": raw({"alg": "HS384", "kid": "hs"}, CLAIMS, lambda d: hmac.digest(SECRET, d, "sha384")),
        "public key in PEM as the secret": raw({"alg": "HS256", "kid": "rs"}, CLAIMS, hs256(public_pem())),
        "the same without kid": raw({"alg": "HS256"}, CLAIMS, hs256(public_pem())),
        "the same without the last newline": raw({"alg": "HS256"}, CLAIMS, hs256(public_pem().rstrip())),
        "public key in DER as the secret": raw({"alg": "HS256", "kid": "rs"}, CLAIMS, hs256(public_der())),
        "public modulus as the secret": raw({"alg": "HS256"}, CLAIMS, hs256(jwk_of(rsa_key())["n"].encode())),
        "public JWK as the secret": raw({"alg": "HS256"}, CLAIMS, hs256(json.dumps(jwk_of(rsa_key())).encode())),
        "empty secret": raw(HS, CLAIMS, hs256(b"")),
        "another secret": raw(HS, CLAIMS, hs256(other)),
        "RS256 header over an HMAC": raw({"alg": "RS256", "kid": "rs"}, CLAIMS, hs256(SECRET)),
        "RS256 with the kid of a secret": raw({"alg": "RS256", "kid": "hs"}, CLAIMS, rs256(rsa_key())),
        "PS384 key, RS384 header": jwt.encode(CLAIMS, rsa_key(), algorithm="RS384", headers={"kid": "ps"}),
        "the right kid, another key": raw(thief, CLAIMS, attacker),
        "no kid, another key": raw({"alg": "RS256"}, CLAIMS, attacker),
        "unknown kid": raw({**HS, "kid": "unheard of"}, CLAIMS),
        "embedded jwk": raw({**thief, "jwk": jwk_of(other_rsa_key())}, CLAIMS, attacker),
        "embedded jwk without kid": raw({"alg": "RS256", "jwk": jwk_of(other_rsa_key())}, CLAIMS, attacker),
        "jku": raw({**thief, "jku": "http://127.0.0.1:9/keys", "kid": "theirs"}, CLAIMS, attacker),
        "x5u": raw({**thief, "x5u": "http://127.0.0.1:9/cert"}, CLAIMS, attacker),
        "x5c": raw({**thief, "x5c": [b64(public_der())]}, CLAIMS, attacker),
        "kid as a path": raw({**HS, "kid": "../../../../dev/null"}, CLAIMS, hs256(b"")),
        "kid as SQL": raw({**HS, "kid": "x' UNION SELECT 'secret"}, CLAIMS, hs256(b"secret")),
        "kid with NUL": raw({**HS, "kid": "hs\x00"}, CLAIMS, hs256(SECRET)),
        "kid as a list": raw({**HS, "kid": ["hs"]}, CLAIMS),
        "kid as a number": raw({**HS, "kid": 0}, CLAIMS),
        "crit of something unknown": signed({}, {"crit": ["exp"]}),
        "crit empty": signed({}, {"crit": []}),
        "crit b64": signed({}, {"crit": ["b64"], "b64": True}),
        "b64 false": signed({}, {"crit": ["b64"], "b64": False}),
        "nested": raw({**HS, "cty": "JWT"}, good),
        "nested without saying so": raw(HS, json.dumps(good)),
        "made for something else": signed({}, {"typ": "logout+jwt"}),
        "a DPoP proof": raw({"typ": "dpop+jwt", "alg": "RS256", "jwk": jwk_of(rsa_key())}, CLAIMS, rs256(rsa_key())),
        "typ as a number": signed({}, {"typ": 7}),
        "unsigned": ".".join(good.split(".")[:2]) + ".",
        "two segments": ".".join(good.split(".")[:2]),
        "four segments": good + ".x",
        "an encrypted one": "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..aaaa.bbbb.cccc",
        "signature cut": mangled(good, 2, lambda s: s[:half]),
        "signature without the last": mangled(good, 2, lambda s: s[:-1]),
        "signature padded": good + "=",
        "signature longer": good + "AAAA",
        "signature's spare bits": mangled(good, 2, lambda s: s[:-1] + chr(ord(s[-1]) + 1)),
        "signature in the standard alphabet": mangled(good, 2, lambda _: "+/" * 21 + "a"),
        "signature of zeros": mangled(good, 2, lambda s: b64(bytes(32))),
        "ES256 of zeros": mangled(es, 2, lambda s: b64(bytes(64))),
        "ES256 by another key": jwt.encode(CLAIMS, foreign_es, algorithm="ES256", headers={"kid": "es"}),
        "ES256 key, ES384 header": raw({"alg": "ES384", "kid": "es"}, CLAIMS, lambda _: bytes(96)),
        "EdDSA of zeros": raw({"alg": "EdDSA", "kid": "ed"}, CLAIMS, lambda _: bytes(64)),
        "other claims under the signature": mangled(good, 1, lambda _: b64(json.dumps({**CLAIMS, "sub": "root"}))),
        "other header over the signature": mangled(good, 0, lambda _: b64(json.dumps({**HS, "x": 1}))),
        "blank before": " " + good,
        "newline after": good + "\n",
        "blanks inside": good.replace(".", ". "),
        "the scheme once more": "Bearer " + good,
        "not ASCII": good + "é",
        "full-width dots": good.replace(".", "．"),
        "lone surrogate": good + "\ud800",
        "huge": good + "A" * 10_000,
        "huge claim": signed({"name": "A" * 10_000}),
        "nested too deeply": raw(HS, "[" * 6_000),
        "an object nested too deeply": raw(HS, '{"a":' * 1_100 + "1" + "}" * 1_100),
        "header nested too deeply": raw('{"a":' * 1_100 + "1" + "}" * 1_100, CLAIMS),
        "claims as a list": raw(HS, [CLAIMS]),
        "claims as null": raw(HS, "null"),
        "claims not JSON": raw(HS, "claims"),
        "claims in UTF-16": raw(HS, claims_text.encode("utf-16")),
        "claims with a byte-order mark": raw(HS, b"\xef\xbb\xbf" + claims_text.encode()),
        "claims not UTF-8": raw(HS, claims_text.replace("ada", "\udcff").encode(errors="surrogateescape")),
        "header as a list": raw([HS], CLAIMS),
        "header twice alg": raw('{"alg":"none","alg":"HS256","kid":"hs"}', CLAIMS),
        "twice sub": raw(HS, claims_text[:-1] + ', "sub": "root"}'),
        "twice exp": raw(HS, '{"exp": 1, ' + claims_text[1:]),
        "twice, the second spelt with an escape": raw(HS, claims_text[:-1] + ', "su\\u0062": "root"}'),
        "nothing at all": "",
        "two dots": "..",
        "NUL": "\x00",
    }
    for claim in ("iss", "aud", "sub", "exp"):
        forgeries[f"without {claim}"] = signed({claim: None})
        forgeries[f"{claim} null"] = raw(HS, {**CLAIMS, claim: None})
    for issuer in ("https://evil.example", ISSUER + "/", ISSUER.upper(), [ISSUER], 1, ""):
        forgeries[f"iss {issuer!r}"] = signed({"iss": issuer})
    for audience in ("other", "", [], ["other"], [[AUDIENCE]], [AUDIENCE, 1], {AUDIENCE: 1}, AUDIENCE + " ", 7, True):
        forgeries[f"aud {audience!r}"] = signed({"aud": audience})
    for exp in (
        STAMP - 31,
        0,
        -1,
        True,
        False,
        str(STAMP + 600),
        [STAMP + 600],
        {},
        1e300,
        10**30,
        STAMP * 1000 * 1000,
    ):
        forgeries[f"exp {exp!r}"] = signed({"exp": exp})
    for exp in ("NaN", "Infinity", "-Infinity", "1e400", "9" * 5_000):
        forgeries[f"exp {exp[:9]} as it stands"] = raw(HS, claims_text.replace(str(STAMP + 600), exp))
    for name in ("nbf", "iat"):
        for moment in (STAMP + 31, STAMP + 86_400, "soon", True, [], 1e300):
            forgeries[f"{name} {moment!r}"] = signed({name: moment})
    for subject in (
        *(0, 1, True, [], ["ada"], {"id": "ada"}, "", " ", " ada", "ada\n", "a\x00b", "a\x1bb", "a\x7fb", "\u202eada"),
        *("a\u200bda", "\ud800", "a\u2028b", "x" * 256, "system", "System", "SYSTEM", "ｓystem", "sensor"),
        *("sensor:1", "sensor:" + PROJECT, "SENSOR:x", "ｓensor：x"),
        *("integration", "integration:artifact-service", "Integration:x", "ｉntegration：x"),
    ):
        forgeries[f"sub {subject!r:.30}"] = signed({"sub": subject})
    for name in (1, True, [], {}, "x" * 256, "a\x00", "line\nbreak"):
        forgeries[f"name {name!r:.30}"] = signed({"name": name})
    for projects in (
        *(False, 0, "", "owner", [], [PROJECT], [[PROJECT, "owner"]], {PROJECT: "admin"}, {PROJECT: "Owner"}),
        *({PROJECT: None}, {PROJECT: ["owner"]}, {PROJECT: {"role": "owner"}}, {PROJECT: 1}, {PROJECT: True}),
        *({PROJECT: "sensor"}, {PROJECT: "system"}, {PROJECT: ""}, {"*": "owner"}, {"": "owner"}, {"all": "owner"}),
        *({PROJECT.upper(): "owner"}, {"{" + PROJECT + "}": "owner"}, {"urn:uuid:" + PROJECT: "owner"}),
        *({PROJECT.replace("-", ""): "owner"}, {PROJECT + " ": "owner"}, {PROJECT: "viewer", "x": "owner"}),
    ):
        forgeries[f"projects {json.dumps(projects)}"] = signed({"projects": projects})
    forgeries["projects null"] = raw(HS, {**CLAIMS, "projects": None})
    forgeries["projects twice the same"] = raw(
        HS, claims_text[:-1] + f', "projects": {{"{PROJECT}": "viewer", "{PROJECT}": "owner"}}}}'
    )
    return forgeries


FORGED = forged()


def test_the_forged_set_is_large_and_its_tokens_differ():
    assert len(FORGED) >= 150
    assert len(set(FORGED.values())) >= len(FORGED) - 5  # a few are the same under two names


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_is_refused(name: str):
    with pytest.raises(Unauthenticated) as refused:
        authenticate(FORGED[name])
    said = f"{refused.value.detail} {refused.value.facts} {refused.value}"
    assert SECRET.decode() not in said
    assert ISSUER not in said
    assert "\n" not in said


@pytest.mark.parametrize("kid", [key.kid for key in keys()])
def test_a_forged_token_is_refused_by_each_key_alone(kid: str):
    bearer = tokens(only=[kid])

    async def accepted() -> list[str]:
        names = []
        for name, token in FORGED.items():
            try:
                await bearer.authenticate(token)
            except Unauthenticated:
                continue
            names.append(name)
        return names

    assert asyncio.run(accepted()) == []


@pytest.mark.parametrize(
    ("algorithm", "kid", "key"),
    [
        ("HS256", "hs", lambda: SECRET),
        ("HS512", "hs512", lambda: SECRET * 2),
        ("RS256", "rs", rsa_key),
        ("PS384", "ps", rsa_key),
        ("ES256", "es", ec_key),
        ("ES384", "es384", p384_key),
        ("EdDSA", "ed", ed_key),
    ],
)
@pytest.mark.parametrize("named", [True, False], ids=["with kid", "without kid"])
def test_an_honest_token_is_accepted(algorithm: str, kid: str, key: Callable[[], Any], named: bool):
    claims = {**CLAIMS, "name": "Ada Lovelace", "projects": {PROJECT: "editor"}}
    token = jwt.encode(claims, key(), algorithm=algorithm, headers={"kid": kid} if named else None)
    expected = User(id="ada", name="Ada Lovelace", projects={UUID(PROJECT): Role.EDITOR})
    assert authenticate(token) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": [AUDIENCE]},
        {"aud": ["account", AUDIENCE]},
        {"exp": STAMP + 600.25},
        {"exp": STAMP - 29},
        {"nbf": STAMP + 29},
        {"iat": None},
        {"sub": "auth0|5f7c8ec7c33c6c004bbafe82"},
        {"sub": "x" * 255},
        {"sub": "Ærøskøbing 北京"},
        {"sub": "sensors-admin"},
        {"projects": {}},
        {"jti": 5},
        {"scope": "anything"},
        {"name": ""},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_what_honest_issuers_do_is_accepted(changes: dict[str, Any]):
    user = authenticate(signed(changes))
    assert isinstance(user, User)
    assert user.id == (changes.get("sub") or "ada")
    assert user.name is None


@pytest.mark.parametrize("header", [{"typ": "at+jwt"}, {"typ": "jwt"}, {"jku": "http://127.0.0.1:9/"}, {"x5t": "abc"}])
def test_harmless_headers_are_accepted(header: dict[str, Any]):
    assert isinstance(authenticate(signed({}, header)), User)


def test_refusals_say_what_an_honest_client_can_mend():
    for changes, word in [
        ({"exp": STAMP - 60}, "expired"),
        ({"aud": "other"}, "audience"),
        ({"iss": "other"}, "issuer"),
        ({"nbf": STAMP + 60}, "not valid yet"),
        ({"sub": None, "exp": None}, "exp, sub"),
    ]:
        with pytest.raises(Unauthenticated, match=word):
            authenticate(signed(changes))


def test_a_sensors_token_is_hashed_and_not_looked_into():
    token = "xps_" + "a" * 43
    principal = authenticate(token)
    assert principal == SensorToken(token_hash=hashlib.sha256(token.encode()).digest())
    assert "aaaa" not in repr(principal)


@pytest.mark.parametrize("token", ["xps_" + "a" * 9_000, "xps_é", "xps_\x00", "xps_a b", "xps_a\n", "xps_\ud800"])
def test_a_mangled_sensors_token_is_refused(token: str):
    with pytest.raises(Unauthenticated):
        authenticate(token)


class CountingKeys(FixedKeys):
    """Keys that count how often they are searched, and that can be withdrawn."""

    def __init__(self, known: Sequence[VerificationKey]) -> None:
        super().__init__(known)
        self.searched = 0

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        self.searched += 1
        return await super().find(kid, algorithm)

    def withdraw(self) -> None:
        self._keys = ()


def counting(clock: Clock) -> tuple[CountingKeys, JwtVerifier]:
    counted = CountingKeys(keys())
    return counted, JwtVerifier(JwtSettings(issuer=ISSUER, audience=AUDIENCE, keys=keys()), keys=counted, clock=clock)


def test_a_signature_is_verified_once_and_the_expiry_every_time():
    async def scenario() -> None:
        clock = SetClock()
        counted, verifier = counting(clock)
        token = signed({})
        for _ in range(10):
            assert (await verifier.verify(token)).id == "ada"
        assert counted.searched == 1
        clock.moment += timedelta(seconds=629)
        assert (await verifier.verify(token)).id == "ada"
        clock.moment += timedelta(seconds=1)
        for _ in range(2):
            with pytest.raises(Unauthenticated, match="expired"):
                await verifier.verify(token)

    asyncio.run(scenario())


def test_a_withdrawn_key_ends_tokens_that_were_verified_before():
    async def scenario() -> None:
        counted, verifier = counting(SetClock())
        token = signed({})
        await verifier.verify(token)
        counted.withdraw()
        with pytest.raises(Unauthenticated, match="not known"):
            await verifier.verify(token)

    asyncio.run(scenario())


def test_only_so_many_tokens_are_remembered_and_the_longest_unused_go_first():
    async def scenario() -> None:
        counted, verifier = counting(SetClock())
        hot = signed({})
        await verifier.verify(hot)
        for number in range(REMEMBERED + 10):
            await verifier.verify(signed({"jti": str(number)}))
            await verifier.verify(hot)
        assert counted.searched == REMEMBERED + 11
        assert len(verifier._verified) == REMEMBERED
        await verifier.verify(signed({"jti": "0"}))
        assert counted.searched == REMEMBERED + 12

    asyncio.run(scenario())


def test_refused_tokens_are_not_remembered():
    async def scenario() -> None:
        _, verifier = counting(SetClock())
        for token in FORGED.values():
            with pytest.raises(Unauthenticated):
                await verifier.verify(token)
        assert not verifier._verified

    asyncio.run(scenario())


def private_pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def test_keys_are_read_from_every_form_of_the_setting(tmp_path: Path):
    rs = {**jwk_of(rsa_key()), "kid": "a", "use": "sig"}
    es = {"kid": "b", "alg": "ES256", "key": ec_key().public_key().public_bytes(**PEM).decode()}
    hs = {"kid": "c", "alg": "HS256", "key": b64(SECRET)}
    oct_ = {"kid": "d", "kty": "oct", "alg": "HS512", "k": b64(SECRET * 2)}
    document = json.dumps({"keys": [rs, es, hs, oct_]})
    (tmp_path / "keys.json").write_text(document + "\n")
    expected = [("a", "RS256"), ("b", "ES256"), ("c", "HS256"), ("d", "HS512")]
    for text in (
        document,
        json.dumps([rs, es, hs, oct_]),
        str(tmp_path / "keys.json"),
        f"file:{tmp_path}/keys.json",
    ):
        assert [(key.kid, key.algorithm) for key in keys_from_setting(text)] == expected
    assert keys_from_setting(json.dumps(hs)) == (VerificationKey(algorithm="HS256", kid="c", key=SECRET),)
    assert keys_from_setting(f"HS256:{SECRET.decode()}") == (VerificationKey(algorithm="HS256", key=SECRET),)
    assert "0123456789abcdef" not in repr(keys_from_setting(f"HS256:{SECRET.decode()}"))


CANARY = "c4n4ry-c4n4ry-c4n4ry-c4n4ry"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"HS256:{CANARY}", "too short"),
        (f"HS512:{CANARY + CANARY}", "too short"),
        (f"HS1:{CANARY}", "neither"),
        (CANARY, "neither"),
        (f'{{"keys": "{CANARY}"', "neither"),
        (f'{{"keys": "{CANARY}"}}', "1 to 64 keys"),
        ('{"keys": []}', "1 to 64 keys"),
        (f"/nowhere/{CANARY}", "cannot be read"),
        (f"file:{CANARY}", "cannot be read"),
        (f'["{CANARY}"]', r"keys\[0\] is not a JWK"),
        (json.dumps({"kty": "oct", "k": CANARY}), "needs an alg"),
        (json.dumps({"kty": "oct", "k": CANARY, "alg": "none"}), "needs an alg"),
        (json.dumps({"kty": "oct", "k": CANARY, "alg": "HS256"}), "too short"),
        (json.dumps({"kty": "oct", "k": CANARY + "!", "alg": "HS256"}), "base64url"),
        (json.dumps({"kty": "oct", "k": b64(SECRET), "alg": "RS256"}), "not a key for RS256"),
        (json.dumps({"kty": "RSA", "n": CANARY, "e": "AQAB"}), "bits|well-formed"),
        (json.dumps({"kty": "RSA", "n": [CANARY], "e": "AQAB"}), "well-formed"),
        (json.dumps({"kty": "EC", "crv": "P-256", "x": CANARY, "y": CANARY}), "well-formed"),
        (json.dumps({"kty": "EC", "crv": "secp256k1", "x": CANARY, "y": CANARY}), "needs an alg"),
        (json.dumps({"kty": "RSA", "use": "enc", "n": CANARY, "e": "AQAB"}), "not for verifying"),
        (json.dumps({"alg": "RS256", "key": CANARY}), "PEM"),
        (json.dumps({"alg": "RS256", "key": 7}), "PEM"),
        (json.dumps({"alg": "HS256", "key": CANARY, "secret": CANARY}), "unknown members"),
        (json.dumps({"kid": 7, "alg": "HS256", "key": b64(SECRET)}), "kid"),
    ],
)
def test_unusable_keys_are_refused_at_start_and_never_quoted(text: str, problem: str):
    with pytest.raises(BadKey, match=problem) as refused:
        keys_from_setting(text)
    assert CANARY not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_private_weak_and_mistaken_keys_are_refused_at_start():
    private = RSAAlgorithm.to_jwk(rsa_key(), as_dict=True)
    weak = rsa.generate_private_key(65_537, 1_024).public_key().public_bytes(**PEM).decode()
    p384 = p384_key().public_key().public_bytes(**PEM).decode()
    for entry, problem in [
        ({**private, "key_ops": ["verify"]}, "private"),
        ({"alg": "RS256", "key": private_pem(rsa_key())}, "private"),
        ({"alg": "RS256", "key": weak}, "1024 bits"),
        ({"alg": "ES256", "key": p384}, "not a key for ES256"),
        ({"alg": "RS256", "key": p384}, "not a key for RS256"),
        ({"alg": "HS256", "key": public_pem().decode()}, "base64url"),
        ({"alg": "HS256", "key": b64(public_pem())}, "not a key for HS256"),
        ({"alg": "HS256", "key": b64(public_der())}, "not a key for HS256"),
    ]:
        with pytest.raises(BadKey, match=problem):
            keys_from_setting(json.dumps(entry))


def test_a_local_token_is_accepted_by_the_service_of_the_same_data_directory(tmp_path: Path):
    async def scenario() -> None:
        local = LocalKeys(tmp_path / "one")
        again = LocalKeys(tmp_path / "one")
        foreign = LocalKeys(tmp_path / "two")
        assert again.secret_key == local.secret_key
        assert again.jwt_settings == local.jwt_settings
        assert len(local.secret_key) == 32
        assert foreign.secret_key != local.secret_key
        assert local.jwt_settings.algorithms == ("EdDSA",)
        token = local.issue("ada", 60, {UUID(PROJECT): Role.OWNER})
        user = await JwtVerifier(again.jwt_settings).verify(token)
        assert user == User(id="ada", name="ada", projects={UUID(PROJECT): Role.OWNER})
        with pytest.raises(Unauthenticated):
            await JwtVerifier(foreign.jwt_settings).verify(token)
        for settings in (
            evolve(local.jwt_settings, issuer="other"),
            evolve(local.jwt_settings, audience="other"),
        ):
            with pytest.raises(Unauthenticated):
                await JwtVerifier(settings).verify(token)
        later = SetClock(datetime.now(UTC) + timedelta(seconds=91))
        with pytest.raises(Unauthenticated, match="expired"):
            await JwtVerifier(local.jwt_settings, clock=later).verify(token)

    asyncio.run(scenario())


def test_local_keys_are_the_owners_alone(tmp_path: Path):
    LocalKeys(tmp_path)
    folder = tmp_path / "keys"
    assert {path.name for path in folder.iterdir()} == {"signing-key.pem", "secret-key"}
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "secret-key").chmod(0o644)
    LocalKeys(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["signing-key.pem", "secret-key"])
def test_damaged_local_keys_are_named_and_not_replaced(tmp_path: Path, name: str):
    LocalKeys(tmp_path)
    path = tmp_path / "keys" / name
    path.write_bytes(b"damaged")
    with pytest.raises(LocalKeysError, match=f"{name} is damaged"):
        LocalKeys(tmp_path)
    assert path.read_bytes() == b"damaged"


@pytest.mark.parametrize(("user", "expires"), [("system", 60), ("sensor:1", 60), ("", 60), ("ada", 0), ("ada", 1e300)])
def test_no_local_token_is_issued_that_would_be_refused(tmp_path: Path, user: str, expires: float):
    with pytest.raises(Invalid):
        LocalKeys(tmp_path).issue(user, expires)


MAKES_LOCAL_KEYS = """
import sys, pathlib
from experiment_adapters.auth.local import LocalKeys
print("ready", flush=True)
sys.stdin.read(1)
local = LocalKeys(pathlib.Path(sys.argv[1]))
print(local.secret_key.hex(), local.jwt_settings.keys[0].kid)
"""


def test_processes_that_make_the_local_keys_at_once_end_with_the_same(tmp_path: Path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAKES_LOCAL_KEYS, str(tmp_path / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("!")
        process.stdin.flush()
    found = {process.communicate(timeout=60)[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(found) == 1
    assert {path.name for path in (tmp_path / "data" / "keys").iterdir()} == {"signing-key.pem", "secret-key"}
