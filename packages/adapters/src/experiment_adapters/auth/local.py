"""Keys and tokens for use on one machine, kept in its data directory.

The data directory itself is somebody else's business: where `up` may find it later, it has to be prepared first.
"""

import contextlib
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from experiment_adapters.auth.jwt import JwtSettings
from experiment_adapters.auth.keys import VerificationKey
from experiment_domain.kernel.access import MEMBER_ROLES, Role, user_id_problem
from experiment_domain.kernel.errors import Invalid

ISSUER = "experiment-service-local"
AUDIENCE = "experiment-service"
SECRET_BYTES = 32


class LocalKeysError(Exception):
    """The local keys cannot be had; the text is one line for the person at the terminal."""


class LocalKeys:
    """The signing key and the secret key of one data directory, made when they are first asked for.

    The signing key is Ed25519: what the API holds in memory can then verify tokens but not make any.
    """

    def __init__(self, data_dir: Path) -> None:
        folder = data_dir / "keys"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            signing = _kept(folder / "signing-key.pem", _new_signing_key)
            secret = _kept(folder / "secret-key", lambda: secrets.token_bytes(SECRET_BYTES))
        except OSError as error:
            raise LocalKeysError(f"{folder} cannot be used: {error.strerror}") from error
        try:
            private_key = load_pem_private_key(signing, password=None)
        except (ValueError, TypeError):
            private_key = None
        if not isinstance(private_key, Ed25519PrivateKey):
            raise LocalKeysError(f"{folder / 'signing-key.pem'} is damaged; without it, a new one is made")
        if len(secret) != SECRET_BYTES:
            raise LocalKeysError(f"{folder / 'secret-key'} is damaged; without it, a new one is made")
        public_key = private_key.public_key()
        self._private_key = private_key
        self._kid = hashlib.sha256(public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]
        self.secret_key = secret
        self.jwt_settings = JwtSettings(
            issuer=ISSUER,
            audience=AUDIENCE,
            keys=(VerificationKey(algorithm="EdDSA", kid=self._kid, key=public_key),),
        )

    def issue(self, user: str, expires_seconds: float, projects: Mapping[UUID, Role] | None = None) -> str:
        """A token that says its bearer is `user`. Raises `Invalid`."""
        if problem := user_id_problem(user):
            raise Invalid.at("user", problem)
        if not 0 < expires_seconds <= 100 * 366 * 86_400:
            raise Invalid.at("expires", "must be more than 0 seconds and at most 100 years")
        if any(role not in MEMBER_ROLES for role in (projects or {}).values()):
            raise Invalid.at("projects", "a role is owner, editor or viewer")
        now = time.time()
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user,
            "name": user,
            "iat": int(now),
            "exp": now + expires_seconds,
        }
        if projects:
            claims["projects"] = {str(project_id): role.value for project_id, role in projects.items()}
        return jwt.encode(claims, self._private_key, algorithm="EdDSA", headers={"kid": self._kid})


def _new_signing_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """What the file holds; if there is none, what `make` makes, kept for the next time.

    A hard link puts the whole file in its place or fails: of two processes at once both end with the same.
    """
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        pass
    else:
        if path.stat().st_mode & 0o077:
            # A copy of the directory may have opened it to others. Whose it is not, need not be able to close it.
            with contextlib.suppress(PermissionError):
                path.chmod(0o600)
        return kept
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()
    return path.read_bytes()
