"""The keys that verify JWTs: each is pinned to one algorithm, so a token can never choose how it is verified.

`JWT_KEYS` gives them in one of these forms; the service needs public keys and shared secrets, never private ones:

- `HS256:<secret>` (or HS384, HS512): one shared secret, its characters as they stand;
- a JWK set, `{"keys": […]}`; beside JWKs (RFC 7517) it may hold `{"kid", "alg", "key"}`, `key` being a public key
  in PEM, or for HS* a secret in base64url. A bare list of keys, or a single key, means the same;
- the path of a file with one of these: `/path` or `file:/path`.

A JWK without `alg` gets RS256, ES256, ES384 or EdDSA by its type; a secret must say its `alg`.
"""

import base64
import binascii
import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK, PyJWS
from jwt.exceptions import PyJWTError

SHORTEST_SECRET = {"HS256": 32, "HS384": 48, "HS512": 64}
"""In bytes: RFC 7518 asks for as many as the hash has."""
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVES = {"ES256": SECP256R1, "ES384": SECP384R1}
ALGORITHMS = (*SHORTEST_SECRET, *RSA_ALGORITHMS, *CURVES, "EdDSA")
RSA_BITS = (2_048, 8_192)
MOST_KEYS = 64
LONGEST_FILE = 1 << 20
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_SECRET = re.compile(r"(HS256|HS384|HS512):(.*)", re.DOTALL)

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class BadKey(ValueError):  # noqa: N818 - what the person who configures it is told
    """A key cannot be used. The text says why and holds nothing of the key."""


@frozen(kw_only=True)
class VerificationKey:
    """One key and the one algorithm that it verifies."""

    algorithm: str
    kid: str | None = None
    key: PublicKey | bytes = field(repr=False)

    def __attrs_post_init__(self) -> None:
        match self.key:
            case bytes():
                fits = self.algorithm in SHORTEST_SECRET
            case RSAPublicKey():
                fits = self.algorithm in RSA_ALGORITHMS
            case EllipticCurvePublicKey():
                curve = CURVES.get(self.algorithm)
                fits = curve is not None and isinstance(self.key.curve, curve)
            case Ed25519PublicKey():
                fits = self.algorithm == "EdDSA"
            case _:
                fits = False
        if not fits:
            raise BadKey(f"is not a key for {self.algorithm}")
        if isinstance(self.key, bytes):
            shortest = SHORTEST_SECRET[self.algorithm]
            if len(self.key) < shortest:
                raise BadKey(f"is too short: {self.algorithm} needs a secret of at least {shortest} bytes")
        if isinstance(self.key, RSAPublicKey) and not RSA_BITS[0] <= self.key.key_size <= RSA_BITS[1]:
            raise BadKey(f"is an RSA key of {self.key.key_size} bits; {RSA_BITS[0]} to {RSA_BITS[1]} are accepted")
        try:
            # PyJWT refuses secrets that are public keys in disguise; better now than with the first token.
            PyJWS().get_algorithm_by_name(self.algorithm).prepare_key(self.key)
        except PyJWTError:
            raise BadKey(f"is not a key for {self.algorithm}") from None


class Keys(Protocol):
    """Where the keys come from."""

    @abstractmethod
    def current(self) -> Sequence[VerificationKey]:
        """The keys that are valid now, as far as is known without asking anybody."""

    @abstractmethod
    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """The keys that may have signed a token with this header; none if it is signed with an unknown key."""


class FixedKeys(Keys):
    """Keys from the configuration."""

    def __init__(self, keys: Sequence[VerificationKey]) -> None:
        self._keys = tuple(keys)

    def current(self) -> Sequence[VerificationKey]:
        return self._keys

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        return fitting(self._keys, kid, algorithm)


def fitting(keys: Iterable[VerificationKey], kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
    """The keys for `algorithm` under the name `kid`; a key or a token without a name fits any."""
    return [key for key in keys if key.algorithm == algorithm and (kid is None or key.kid is None or key.kid == kid)]


def strict_json(text: str) -> Any:
    """JSON without what the standard library lets pass: NaN, Infinity and names that occur twice. ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("not a number of JSON")


def keys_from_setting(text: str) -> tuple[VerificationKey, ...]:
    """What `JWT_KEYS` says. Raises `BadKey`."""
    path = text.removeprefix("file:")
    if path.startswith("/") or path != text:
        try:
            with Path(path).open("rb") as file:
                text = file.read(LONGEST_FILE + 1).decode().strip()
        except UnicodeDecodeError:
            raise BadKey("names a file that is not UTF-8 text") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            raise BadKey(f"names a file that cannot be read: {reason}") from None
        if len(text) > LONGEST_FILE:
            raise BadKey("names a file that is too large")
    if secret := _SECRET.fullmatch(text):
        return (VerificationKey(algorithm=secret[1], key=secret[2].encode()),)
    try:
        document = strict_json(text)
    except ValueError:
        raise BadKey("is neither HS256:<secret>, nor a JWK set in JSON, nor the path of a file with one") from None
    if isinstance(document, dict):
        document = document.get("keys", [document])
    if not isinstance(document, list) or not 1 <= len(document) <= MOST_KEYS:
        raise BadKey(f"must hold 1 to {MOST_KEYS} keys")
    keys: list[VerificationKey] = []
    for index, entry in enumerate(document):
        try:
            keys.append(_configured_key(entry))
        except BadKey as error:
            raise BadKey(f"has a bad key: keys[{index}] {error}") from None
    return tuple(keys)


def published_keys(document: Any) -> tuple[VerificationKey, ...]:
    """The usable keys of a JWK set that an identity provider publishes; none if it is no JWK set.

    What is published to everybody can only be a public key: secrets and private keys are passed over.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    keys: list[VerificationKey] = []
    for entry in entries[:MOST_KEYS] if isinstance(entries, list) else ():
        try:
            key = key_from_jwk(entry)
        except BadKey:
            continue
        if not isinstance(key.key, bytes):
            keys.append(key)
    return tuple(keys)


def key_from_jwk(jwk: Any) -> VerificationKey:
    """The key in a JWK. Raises `BadKey`."""
    if not isinstance(jwk, dict) or not isinstance(jwk.get("kty"), str):
        raise BadKey("is not a JWK: it has no kty")
    if any(isinstance(value, str) and len(value) > LONGEST_FILE // 64 for value in jwk.values()):
        raise BadKey("is too long")
    if jwk.get("use", "sig") != "sig" or "verify" not in _listed(jwk.get("key_ops", ["verify"])):
        raise BadKey("is not for verifying signatures")
    if jwk["kty"] != "oct" and "d" in jwk:
        raise BadKey("is a private key; only the public one is needed here")
    algorithm = _algorithm(jwk.get("alg", _usual_algorithm(jwk)))
    if jwk["kty"] == "oct":
        return VerificationKey(algorithm=algorithm, kid=_kid(jwk), key=_base64url(jwk.get("k")))
    try:
        key = PyJWK(jwk, algorithm).key
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, LookupError, ArithmeticError):
        # PyJWT's messages quote the whole key.
        raise BadKey("is not a well-formed key for its alg") from None
    return VerificationKey(algorithm=algorithm, kid=_kid(jwk), key=key)


def _configured_key(entry: Any) -> VerificationKey:
    if not isinstance(entry, dict) or "key" not in entry:
        return key_from_jwk(entry)
    if unknown := set(entry) - {"kid", "alg", "key"}:
        raise BadKey(f"has {len(unknown)} unknown members beside kid, alg and key")
    algorithm = _algorithm(entry.get("alg"))
    key = entry["key"]
    if algorithm in SHORTEST_SECRET:
        return VerificationKey(algorithm=algorithm, kid=_kid(entry), key=_base64url(key))
    if isinstance(key, str) and "PRIVATE KEY" in key:
        raise BadKey("is a private key; only the public one is needed here")
    try:
        public = load_pem_public_key(key.encode())
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        raise BadKey("is not a public key in PEM") from None
    if not isinstance(public, PublicKey):
        raise BadKey(f"is not a key for {algorithm}")
    return VerificationKey(algorithm=algorithm, kid=_kid(entry), key=public)


def _usual_algorithm(jwk: Mapping[str, Any]) -> str | None:
    match jwk.get("kty"), jwk.get("crv"):
        case "RSA", _:
            return "RS256"
        case "EC", "P-256":
            return "ES256"
        case "EC", "P-384":
            return "ES384"
        case "OKP", "Ed25519":
            return "EdDSA"
        case _:
            return None


def _algorithm(value: Any) -> str:
    if not isinstance(value, str) or value not in ALGORITHMS:
        raise BadKey(f"needs an alg, one of {', '.join(ALGORITHMS)}")
    return value


def _kid(entry: Mapping[str, Any]) -> str | None:
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise BadKey("has a kid that is not a string")
    return kid


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _base64url(value: Any) -> bytes:
    # A secret that is not base64url would lose characters silently, and with them its strength.
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value.rstrip("=")):
        raise BadKey("is not a secret in base64url")
    try:
        return base64.urlsafe_b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4))
    except (binascii.Error, ValueError):
        raise BadKey("is not a secret in base64url") from None
