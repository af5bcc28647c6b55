"""A client of the public API, for the commands that go through it."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import msgspec

from experiment_http.cli.failure import CommandFailed

API = "/api/v1"
TRIES = 4
LONGEST_WAIT = 5.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_TRY_AGAIN = frozenset({429, 503})


class Unreachable(CommandFailed):
    """The service does not answer, or not as Experiment Service does."""


class Refused(CommandFailed):
    """The service answered with a problem."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code

    @property
    def is_passing(self) -> bool:
        """Whether the same request may be answered later."""
        return self.status in _TRY_AGAIN or self.status >= httpx.codes.INTERNAL_SERVER_ERROR


class Remote:
    """Experiment Service at a URL, on behalf of the bearer of a token. Threads may share it.

    Everything that it sends can be sent twice: creations carry an idempotency key, batches are known by what is in
    them. So what gets lost on the way is sent again.
    """

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise CommandFailed(f"{url!r} is not a URL: http://host:port")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise CommandFailed("the token is malformed")
        self.url = url.rstrip("/")
        self._token = token
        self._client = httpx.Client(
            timeout=httpx.Timeout(30.0, connect=5.0),
            trust_env=parts.hostname not in _LOOPBACK,  # a proxy would not find this machine
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str, **params: Any) -> Any:
        """What is at `path`."""
        return self._call("GET", path, params=params)[0]

    def items(self, path: str, **params: Any) -> Iterator[Any]:
        """All items of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.get(path, **params, limit=500, **({} if cursor is None else {"cursor": cursor}))
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def put(self, path: str, body: Any = None) -> Any:
        """Put something where it belongs."""
        return self._call("PUT", path, body=body)[0]

    def act(self, path: str, body: Any = None) -> Any:
        """A command that can be repeated: a transition, for one."""
        return self._call("POST", path, body=body, key=str(uuid4()))[0]

    def create(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        identity: str = "",
        still: Callable[[Mapping[str, Any]], bool] = lambda _current: True,
    ) -> Any:
        """Create something once, however often this is tried within a day; what it is now.

        The key is made of the request itself, and of an `identity` where equal requests mean different things. What an
        earlier attempt created may have been changed or deleted since: where it is not `still` what is meant, another
        one is created in its place.
        """
        replaced: list[str] = []
        while True:
            content = msgspec.json.encode([path, identity, body, replaced], order="sorted")
            key = f"cli-{hashlib.sha256(content).hexdigest()}"
            created, replayed = self._call("POST", path, body=body, key=key)
            if not replayed:
                return created
            current = self._current(path, created)
            if current is not None and still(current):
                return {**created, **current}  # the first answer may hold a token, which is shown only there
            replaced.append(created["id"])

    def send_readings(self, token: str, body: bytes) -> Any:
        """Send a batch with a sensor's token."""
        return self._call("POST", "/telemetry", content=body, token=token)[0]

    def heartbeat(self, sensor_id: str, token: str) -> None:
        """A sign of life with a sensor's token."""
        self._call("POST", f"/sensors/{sensor_id}/heartbeat", token=token)

    def _current(self, path: str, created: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What became of something that was created at `path`; None where it is gone."""
        plural = path.rstrip("/").rpartition("/")[2]
        try:
            return self.get(f"/{plural}/{created['id']}")
        except Refused as refusal:
            if refusal.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        key: str | None = None,
        token: str | None = None,
    ) -> tuple[Any, bool]:
        headers = {"Authorization": f"Bearer {token or self._token}", "Accept": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        if body is not None:
            content = msgspec.json.encode(body)
        if content is not None:
            headers["Content-Type"] = "application/json"
        answer = self._answer(
            self._client.build_request(method, self.url + API + path, params=params, content=content, headers=headers)
        )
        if answer.is_success:
            return (self._parsed(answer) if answer.content else None), "Idempotency-Replayed" in answer.headers
        raise self._refusal(method, path, answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        """An answer, after a few tries where the service is busy or the connection was lost."""
        waited = 0.0
        for attempt in range(TRIES):
            pause = 0.1 * 4**attempt
            try:
                answer = self._client.send(request)
            except httpx.ConnectError as error:
                # Nobody listens: a second try would find the same.
                raise self._unreachable(error) from error
            except httpx.TransportError as error:
                if attempt + 1 == TRIES:
                    raise self._unreachable(error) from error
            except httpx.InvalidURL as error:
                raise CommandFailed(f"{self.url!r} is not a URL: {error}") from error
            else:
                if answer.status_code not in _TRY_AGAIN or attempt + 1 == TRIES:
                    return answer
                pause = _seconds(answer.headers.get("Retry-After"), pause)
            if waited + pause > LONGEST_WAIT:
                pause = max(LONGEST_WAIT - waited, 0.0)
            waited += pause
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _parsed(self, answer: httpx.Response) -> Any:
        try:
            return msgspec.json.decode(answer.content)
        except msgspec.DecodeError as error:
            raise Unreachable(f"what answers at {self.url} is not Experiment Service: it sent no JSON") from error

    def _refusal(self, method: str, path: str, answer: httpx.Response) -> CommandFailed:
        try:
            problem = msgspec.json.decode(answer.content, type=dict[str, Any])
            code, detail = str(problem["code"]), str(problem.get("detail") or problem.get("title") or "")
        except (msgspec.MsgspecError, KeyError):
            return Unreachable(
                f"what answers at {self.url} is not Experiment Service: {method} {path} → {answer.status_code}"
            )
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            return Refused(401, code, f"the service at {self.url} does not accept the token: {detail}")
        return Refused(
            answer.status_code, code, f"the service refused {method} {path}: {answer.status_code} {code}: {detail}"
        )

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = str(error) or type(error).__name__
        return Unreachable(f"the service at {self.url} does not answer: {reason}")


def _seconds(header: str | None, default: float) -> float:
    try:
        return min(max(float(header or default), 0.0), LONGEST_WAIT)
    except ValueError:
        return default
