"""Sealed secrets: AES-256-GCM under keys that are derived from the service's secret keys."""

import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from experiment_domain.webhooks.secrets import SecretBox, Unreadable

NONCE = 12
KEY_ID = 8


class AesGcmBox(SecretBox):
    """Seals under the first of the secret keys, and opens what was sealed under any of them.

    What is sealed begins with the id of its key, which tells nothing about the key itself.
    """

    def __init__(self, secret_key: bytes, former: Sequence[bytes] = ()) -> None:
        keys = [_derived(secret) for secret in (secret_key, *former)]
        self._id, self._cipher = keys[0]
        self._ciphers = dict(reversed(keys))

    def seal(self, secret: str, about: bytes) -> bytes:
        nonce = os.urandom(NONCE)
        return self._id + nonce + self._cipher.encrypt(nonce, secret.encode(), about)

    def open(self, sealed: bytes, about: bytes) -> str:
        cipher = self._ciphers.get(sealed[:KEY_ID])
        if cipher is None:
            raise Unreadable
        nonce, content = sealed[KEY_ID : KEY_ID + NONCE], sealed[KEY_ID + NONCE :]
        try:
            return cipher.decrypt(nonce, content, about).decode()
        except (InvalidTag, ValueError):
            raise Unreadable from None


def _derived(secret: bytes) -> tuple[bytes, AESGCM]:
    """The id of a key, and the key, both from one secret."""
    derived = HKDF(algorithm=SHA256(), length=KEY_ID + 32, salt=None, info=b"experiment-service secret box").derive(
        secret
    )
    return derived[:KEY_ID], AESGCM(derived[KEY_ID:])
