"""Keys that an identity provider publishes, fetched rarely and kept while it is away."""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence

import httpx
import structlog

from experiment_adapters.auth.keys import Keys, VerificationKey, fitting, published_keys, strict_json
from experiment_domain.kernel.errors import Unavailable

TIMEOUT = 5.0
LARGEST = 1 << 20
PAUSE = 30.0
"""At least so many seconds lie between two fetches, whoever asks: at most two in a minute."""
FRESH = 600.0
"""After so many seconds the keys are fetched again, so that a key that was withdrawn is not honoured for long."""

log = structlog.get_logger(__name__)


class UnusableKeySet(Exception):  # noqa: N818 - says what the identity provider did
    """The identity provider answered with something that is no set of keys."""


class JwksKeys(Keys):
    """The keys at a URL.

    A key that is not known yet causes a fetch, which everybody who waits for one shares. Between fetches, and while
    they fail, the keys of the last good one serve.
    """

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._monotonic = monotonic
        self._ssl: ssl.SSLContext | None = None
        self._keys: tuple[VerificationKey, ...] = ()
        self._tried_at: float | None = None
        self._fetched_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    def current(self) -> Sequence[VerificationKey]:
        """The keys that are known; if they are old, newer ones are being fetched meanwhile."""
        if self._fetched_at is not None and self._monotonic() - self._fetched_at >= FRESH:
            self._fetch_soon()
        return self._keys

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        found = fitting(self.current(), kid, algorithm)
        if not found and (fetching := self._fetch_soon()):
            # Shielded: a caller who goes away must not cancel the fetch that others wait for.
            await asyncio.shield(fetching)
            found = fitting(self._keys, kid, algorithm)
        if not found and not self._keys:
            # No fault of the caller, whose token may be good: whoever is told 401 throws it away.
            raise Unavailable("The keys of the identity provider are not available right now.")
        return found

    def _fetch_soon(self) -> asyncio.Task[None] | None:
        """The fetch that is under way, or a new one, or None while it is too early for that."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now = self._monotonic()
        if self._tried_at is not None and now - self._tried_at < PAUSE:
            return None
        self._tried_at = now
        self._fetching = asyncio.get_running_loop().create_task(self._fetch(), name="jwks")
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                document = await self._get()
            keys = published_keys(strict_json(document.decode()))
            if not keys:
                raise UnusableKeySet("it holds no usable key")
        except (httpx.HTTPError, httpx.InvalidURL, UnusableKeySet, OSError, ValueError) as error:
            log.warning("jwks_not_fetched", url=self._url, reason=type(error).__name__, detail=_line(error))
        else:
            if keys != self._keys:
                log.info("jwks_fetched", url=self._url, kids=[key.kid for key in keys])
                self._keys = keys
            self._fetched_at = self._monotonic()
        finally:
            # Counted from the end as well: of fetches that take long, no more arrive in a minute.
            self._tried_at = self._monotonic()

    async def _get(self) -> bytes:
        if self._ssl is None:
            # The system's certificates, so that an identity provider may have one of an internal authority.
            self._ssl = ssl.create_default_context()
        # A client per fetch: fetches are rare, and so there is nothing to close and no pool that outlives a loop.
        # Proxies and .netrc of the environment are not asked: what configures the service is read in one place.
        async with (
            httpx.AsyncClient(verify=self._ssl, timeout=TIMEOUT, trust_env=False, follow_redirects=False) as client,
            # Compressed answers are neither asked for nor taken: a small one could unpack to any size.
            client.stream("GET", self._url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise UnusableKeySet(f"it answered {answer.status_code}")
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise UnusableKeySet("it answered compressed")
            document = bytearray()
            async for chunk in answer.aiter_raw():
                document += chunk
                if len(document) > LARGEST:
                    raise UnusableKeySet(f"its answer is larger than {LARGEST} bytes")
            return bytes(document)


def _line(error: Exception) -> str:
    # A decoding error quotes what was received.
    return "not UTF-8" if isinstance(error, UnicodeError) else " ".join(str(error).split())[:200]
