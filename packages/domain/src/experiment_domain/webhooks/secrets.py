"""Secrets that webhooks are signed with: shown once, kept sealed, and used by Standard Webhooks 1.0."""

import hmac
import secrets
from abc import abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Protocol

from experiment_domain.kernel.errors import Refusal

SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets of Standard Webhooks begin with, not one of them
SECRET_BYTES = 32


class SecretBox(Protocol):
    """Seals what must be kept and read again, but by nobody who has only a copy of the database."""

    @abstractmethod
    def seal(self, secret: str, about: bytes) -> bytes:
        """The secret, sealed; it opens only for what it is `about`."""

    @abstractmethod
    def open(self, sealed: bytes, about: bytes) -> str:
        """The secret. Raises `Unreadable` where it was sealed under a key that is not known, or for something else."""


class Unreadable(Refusal):
    """What is kept cannot be opened: the key that it was sealed under is not among those that are known."""

    def __init__(self) -> None:
        super().__init__("secret_unreadable", "This secret was sealed under a key that is not known here: rotate it.")


class NoSecretBox(SecretBox):
    """What there is where no key was given: nothing can be sealed."""

    def seal(self, secret: str, about: bytes) -> bytes:  # noqa: ARG002
        """Refuse."""
        raise Refusal("no_secret_key", "This service was given no key to seal secrets with.")

    def open(self, sealed: bytes, about: bytes) -> str:  # noqa: ARG002
        """Refuse."""
        raise Unreadable


def new_secret() -> str:
    """A secret of 256 random bits, as Standard Webhooks writes them."""
    return SECRET_PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signatures(secrets_: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of a message: one for each secret, any of which is enough to whoever checks it.

    HMAC-SHA256 over id, timestamp (whole seconds since the Unix epoch) and body, joined by full stops.
    """
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    keys = (b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets_)
    return " ".join(f"v1,{b64encode(hmac.digest(key, content, 'sha256')).decode()}" for key in keys)
