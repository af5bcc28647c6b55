"""Idempotency: the first answer to a POST, sealed and kept with its effect, and given again to the same request."""

import hashlib
import os
import re
from collections.abc import Mapping
from datetime import datetime

import msgspec
from attrs import frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from experiment_domain.idempotency import IdempotencyKey, RememberedAnswer
from experiment_domain.kernel.access import Principal
from experiment_domain.kernel.errors import Conflict
from experiment_domain.spool import Promise
from experiment_domain.usecases import Work
from experiment_http.answers import Answer
from experiment_http.bodies import Buffer
from experiment_http.callers import name_of
from experiment_http.problems import Malformed

NONCE = 12
_VISIBLE = re.compile(rb"[\x21-\x7e]{1,255}")


@frozen
class Attempt:
    """One sending of a request that carries a key."""

    key: IdempotencyKey
    fingerprint: bytes


def attempt(header: bytes | None, principal: Principal, method: str, target: bytes, body: Buffer) -> Attempt | None:
    """The attempt that a request is, None where it carries no key. Raises `Malformed`.

    Two requests are the same if method, path with query and the unpacked body are.
    """
    if header is None:
        return None
    content = hashlib.sha256()
    for part in (method.encode(), target, body):
        content.update(len(part).to_bytes(8) + part)
    return Attempt(IdempotencyKey(principal=name_of(principal), key=header.decode("latin-1")), content.digest())


def check(header: bytes | None) -> None:
    """Refuse a key that is none."""
    if header is not None and not _VISIBLE.fullmatch(header):
        raise Malformed("malformed_header", "Idempotency-Key must have 1 to 255 visible ASCII characters.")


class Answers:
    """Keeps first answers and gives them again.

    They are sealed under a key that is derived from the service's secret and the caller's own key: an answer may
    hold a token that is shown once, which nobody shall read from a copy of the database.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    async def earlier(self, work: Work, attempt: Attempt) -> Answer | None:
        """The answer that was given to this request before; None gives the key to this unit of work.

        The caller must be known now. That it could be refused by now does not matter: it had the effect, and asks
        only what came of it.
        """
        remembered = await work.idempotency.claim(attempt.key, work.now)
        if remembered is None:
            return None
        await work.check_caller()
        remembered.check_same_request(attempt.fingerprint)
        return self._opened(attempt, remembered.content).with_header("Idempotency-Replayed", "true")

    def promise(self, attempt: Attempt, answer: Answer, at: datetime) -> Promise:
        """The answer to a request whose effect is still to come, to be kept with it."""
        content = self._sealed(attempt, answer)
        remembered = RememberedAnswer(fingerprint=attempt.fingerprint, content=content, answered_at=at)
        return Promise(key=attempt.key, answer=remembered)

    def promised(self, attempt: Attempt, promise: Promise) -> Answer:
        """The answer that was given to this request before, whose effect is still to come."""
        return self._opened(attempt, promise.answer.content).with_header("Idempotency-Replayed", "true")

    def keep(self, work: Work, attempt: Attempt, answer: Answer) -> None:
        """Keep the first answer with its effect."""
        work.idempotency.remember(
            attempt.key,
            RememberedAnswer(
                fingerprint=attempt.fingerprint, content=self._sealed(attempt, answer), answered_at=work.now
            ),
        )

    def _sealed(self, attempt: Attempt, answer: Answer) -> bytes:
        nonce = os.urandom(NONCE)
        content = msgspec.msgpack.encode((answer.status, dict(answer.headers), answer.body))
        return nonce + self._cipher(attempt.key).encrypt(nonce, content, attempt.fingerprint)

    def _opened(self, attempt: Attempt, sealed: bytes) -> Answer:
        try:
            content = self._cipher(attempt.key).decrypt(sealed[:NONCE], sealed[NONCE:], attempt.fingerprint)
        except InvalidTag:
            raise Conflict(
                "answer_unreadable", "This request had its effect before; its answer was sealed with another secret."
            ) from None
        status, headers, body = msgspec.msgpack.decode(content, type=tuple[int, Mapping[str, str], bytes])
        return Answer(status, headers, body)

    def _cipher(self, key: IdempotencyKey) -> AESGCM:
        about = msgspec.msgpack.encode(("experiment-service answer", key.principal, key.key))
        return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=about).derive(self._secret))
