"""JSON Web Tokens of users: verified with pinned algorithms, their claims read strictly."""

import hashlib
import math
import re
import unicodedata
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from attrs import field, frozen
from jwt import PyJWS
from jwt.exceptions import PyJWTError

from experiment_adapters.auth.keys import ALGORITHMS, FixedKeys, Keys, VerificationKey, strict_json
from experiment_domain.kernel.access import MEMBER_ROLES, USER_ID_LENGTH, Role, User, user_id_problem
from experiment_domain.kernel.clock import Clock, SystemClock
from experiment_domain.kernel.errors import Unauthenticated

LONGEST_TOKEN = 8_192
LAST_MOMENT = 253_402_300_799
"""The end of the year 9999: what lies behind it is no date but an attempt."""
REMEMBERED = 1_024
TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_ROLES: Mapping[str, Role] = {role.value: role for role in MEMBER_ROLES}


@frozen(kw_only=True)
class JwtSettings:
    """Whose tokens are accepted, and with which keys they are verified: fixed ones, or those at a URL."""

    issuer: str
    audience: str
    keys: tuple[VerificationKey, ...] = ()
    jwks_url: str | None = None
    leeway: float = 30.0

    def __attrs_post_init__(self) -> None:
        if bool(self.keys) == bool(self.jwks_url):
            raise ValueError("either keys or the URL of a JWK set, and not both")
        if not self.issuer or not self.audience:
            raise ValueError("an issuer and an audience are needed")

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What a token may be signed with: as the keys are; with published keys never a shared secret."""
        if self.keys:
            return tuple(name for name in ALGORITHMS if any(key.algorithm == name for key in self.keys))
        return tuple(name for name in ALGORITHMS if not name.startswith("HS"))


def _keys_of(settings: JwtSettings) -> Keys:
    if not settings.jwks_url:
        return FixedKeys(settings.keys)
    from experiment_adapters.auth.jwks import JwksKeys  # noqa: PLC0415 - its HTTP client takes a while to import

    return JwksKeys(settings.jwks_url)


@frozen
class _Verified:
    user: User
    expires: float
    key: VerificationKey = field(repr=False)


class JwtVerifier:
    """Tells which user a JWT was issued to.

    Raises `Unauthenticated` with what helps an honest client; `Unavailable` while no keys could be fetched yet.
    """

    def __init__(self, settings: JwtSettings, *, keys: Keys | None = None, clock: Clock | None = None) -> None:
        self._settings = settings
        self._algorithms = frozenset(settings.algorithms)
        self._clock = clock or SystemClock()
        self._keys = keys or _keys_of(settings)
        self._jws = PyJWS(algorithms=settings.algorithms, options={"enforce_minimum_key_length": True})
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, token: str) -> User:
        """The user behind `token`."""
        if len(token) > LONGEST_TOKEN:
            raise Unauthenticated("The token is too long.")
        if not token.isascii():
            raise _malformed()
        digest = hashlib.sha256(token.encode()).digest()
        if user := self._remembered(digest):
            return user
        header, claims = _parsed(token)
        key = await self._signed_with(token, header)
        expires = self._check_claims(claims)
        user = _user(claims)
        self._verified[digest] = _Verified(user, expires, key)
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)
        return user

    def _remembered(self, digest: bytes) -> User | None:
        """The user of a token that was verified before: until it expires or its key is withdrawn."""
        verified = self._verified.get(digest)
        if verified is None:
            return None
        if verified.expires <= self._clock.now().timestamp() - self._settings.leeway:
            del self._verified[digest]
            raise _expired()
        if verified.key not in self._keys.current():
            del self._verified[digest]
            return None
        self._verified.move_to_end(digest)
        return verified.user

    async def _signed_with(self, token: str, header: Mapping[str, Any]) -> VerificationKey:
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise Unauthenticated("The token is signed with an algorithm that is not accepted here.")
        if kid is not None and not isinstance(kid, str):
            raise _malformed()
        # Extensions that must be understood (crit) are none that we know; b64 changes what is signed; and a token
        # in a token, or a token made for something else, is none for us.
        if "crit" in header or "b64" in header or "cty" in header:
            raise Unauthenticated("The token's header asks for extensions that are not supported.")
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in TYPES:
            raise Unauthenticated("The token is not of the type JWT or at+jwt.")
        # Keys and addresses of keys in the header (jwk, jku, x5c, x5u) are the sender's word and never looked at.
        keys = await self._keys.find(kid, algorithm)
        if not keys:
            raise Unauthenticated("The token is signed with a key that is not known here.")
        for key in keys:
            try:
                self._jws.decode_complete(token, key.key, algorithms=[key.algorithm])
            except (PyJWTError, ValueError):
                continue
            return key
        raise Unauthenticated("The token's signature is not valid.")

    def _check_claims(self, claims: Mapping[str, Any]) -> float:
        """Check whose token it is and when it holds; the moment at which it expires."""
        missing = [name for name in ("exp", "sub", "iss", "aud") if claims.get(name) is None]
        if missing:
            raise Unauthenticated(f"The token lacks {', '.join(missing)}.")
        if claims["iss"] != self._settings.issuer:
            raise Unauthenticated("The token comes from another issuer.")
        audience = claims["aud"]
        audiences = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(one, str) for one in audiences) or self._settings.audience not in audiences:
            raise Unauthenticated("The token is for another audience.")
        now, leeway = self._clock.now().timestamp(), self._settings.leeway
        expires = _moment(claims, "exp")
        if expires <= now - leeway:
            raise _expired()
        for name in ("nbf", "iat"):
            if name in claims and _moment(claims, name) > now + leeway:
                raise Unauthenticated(f"The token is not valid yet: its {name} lies in the future.")
        return expires


def _parsed(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    segments = token.split(".")
    if len(segments) != 3 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise _malformed()
    try:
        # PyJWT decodes once more and strictly; here, what it would let pass is refused: names that occur twice.
        header, claims = (strict_json(_decoded(segment)) for segment in segments[:2])
    except ValueError:
        raise _malformed() from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise _malformed()
    return header, claims


def _decoded(segment: str) -> str:
    return urlsafe_b64decode(segment + "=" * (-len(segment) % 4)).decode()


def _user(claims: Mapping[str, Any]) -> User:
    if problem := user_id_problem(claims["sub"]):
        raise Unauthenticated(f"The token's sub {problem}.")
    name = claims.get("name")
    if name is not None and (
        not isinstance(name, str)
        or len(name) > USER_ID_LENGTH
        or any(unicodedata.category(char) in {"Cc", "Cs"} for char in name)
    ):
        raise Unauthenticated(f"The token's name must be at most {USER_ID_LENGTH} printable characters.")
    return User(id=claims["sub"], name=name or None, projects=_projects(claims.get("projects", {})))


def _projects(claim: Any) -> Mapping[UUID, Role]:
    if not isinstance(claim, dict):
        raise _bad_projects()
    projects: dict[UUID, Role] = {}
    for text, role in claim.items():
        if not isinstance(role, str) or role not in _ROLES:
            raise _bad_projects()
        try:
            project_id = UUID(text)
        except ValueError:
            raise _bad_projects() from None
        if str(project_id) != text:  # UUID() also takes braces, URNs and upper case: several names for one project
            raise _bad_projects()
        projects[project_id] = _ROLES[role]
    return projects


def _moment(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unauthenticated(f"The token's {name} is not a number.")
    if not 0 <= value <= LAST_MOMENT or not math.isfinite(value):
        raise Unauthenticated(f"The token's {name} is out of range.")
    return float(value)


def _malformed() -> Unauthenticated:
    return Unauthenticated("The token is malformed: it is neither a JWT nor a sensor's token.")


def _expired() -> Unauthenticated:
    return Unauthenticated("The token has expired.")


def _bad_projects() -> Unauthenticated:
    return Unauthenticated('The token\'s projects must be {"<project id>": "owner|editor|viewer"}.')
