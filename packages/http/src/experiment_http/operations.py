"""Operations: each is declared once, with its use case, its request and its answer; everything else follows.

A handler is a coroutine whose parameters say what it needs: `work` (a unit of work on behalf of the caller, which is
committed before the answer is sent), the names in its path, `body`, `query`, `after` (where the page before ended),
`if_version` (from If-Match) and `known` (the tags of If-None-Match); or `call` in place of `work`, for answers that do
not come from one unit of work.
"""

import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlencode

from attrs import evolve, field, frozen
from litestar.handlers import HTTPRouteHandler
from litestar.types import Method, Receive, Scope, Send
from msgspec import Struct

from experiment_domain.kernel.access import Authenticator, Caller, Permission, Principal
from experiment_domain.kernel.errors import Forbidden, NotFound, Refusal, Unauthenticated, Unavailable
from experiment_domain.usecases import Services, Work
from experiment_http import bodies, etags, idempotency, paths, queries
from experiment_http.answers import Answer, Form
from experiment_http.bodies import BodyKind, Buffer
from experiment_http.callers import principal_of
from experiment_http.gathering import Gathering
from experiment_http.negotiation import check_acceptable
from experiment_http.origins import check_origin
from experiment_http.pagination import Cursors, PageQuery, digest_of, position
from experiment_http.settings import HttpSettings
from experiment_http.signatures import Signatory, SignedEvent
from experiment_http.spooling import Spooling
from experiment_http.streams import EventStreamForm, Pace, Streams
from experiment_http.tails import Tails
from experiment_http.turns import Turns

API = "/api/v1"
VERIFIED_AT_ONCE = 2
"""How many callers may have audit logs verified at once, in one process: more would leave no connection to others."""
PARAMETERS = ("work", "call", "body", "query", "after", "if_version", "known")
Handler = Callable[..., Awaitable[Any]]
H = TypeVar("H", bound=Handler)


@frozen(kw_only=True)
class Api:
    """What operations work with."""

    services: Services
    authenticator: Authenticator
    settings: HttpSettings
    cursors: Cursors
    answers: idempotency.Answers
    streams: Streams
    spooling: Spooling | None = None
    gathering: Gathering
    verifying: Turns = field(factory=lambda: Turns(VERIFIED_AT_ONCE), init=False)

    @classmethod
    def of(
        cls,
        services: Services,
        authenticator: Authenticator,
        settings: HttpSettings,
        spooling: Spooling | None = None,
    ) -> "Api":
        """Everything that follows from the settings."""
        return cls(
            services=services,
            authenticator=authenticator,
            settings=settings,
            cursors=Cursors(settings.secret_key),
            answers=idempotency.Answers(settings.secret_key),
            spooling=spooling,
            gathering=Gathering(services),
            streams=Streams(
                Tails(lambda: services.units_of_work.news),
                Pace(
                    keep_alive=settings.stream_keep_alive,
                    check_every=settings.stream_check_every,
                    send_timeout=settings.stream_send_timeout,
                ),
            ),
        )


@frozen(kw_only=True)
class Call:
    """One request, for handlers that need more than a unit of work."""

    api: Api
    caller: Caller
    headers: Mapping[bytes, bytes]
    path: str
    pairs: queries.Pairs = field(factory=list[tuple[str, str]])

    async def caller_now(self) -> Caller:
        """The caller, if the token of the request still counts. Raises `Unauthenticated` where it does not."""
        return evolve(self.caller, principal=await principal_of(self.headers, self.api.authenticator))

    @cached_property
    def query_digest(self) -> bytes:
        """What this query is known by."""
        return digest_of(self.path, self.pairs)

    def cursor(self, place: Any) -> str:
        """The cursor that leads on from `place`."""
        return self.api.cursors.write(place, self.query_digest)

    def link(self, cursor: str) -> str:
        """The `Link` to the page that a cursor leads on to."""
        repeated = [(name, value) for name, value in self.pairs if name != "cursor"]
        return f'<{self.path}?{urlencode([*repeated, ("cursor", cursor)])}>; rel="next"'

    def place(self, cursor: str | None) -> Any:
        """The place that a cursor leads on from, None where there is no cursor."""
        return None if cursor is None else self.api.cursors.read(cursor, self.query_digest)


@frozen(kw_only=True)
class Operation:
    """One method of one path."""

    method: Method
    path: str
    name: str
    summary: str
    description: str
    tag: str
    about: str
    use_case: Callable[..., Any]
    form: Form[Any]
    handler: Handler
    body: BodyKind | None = None
    signed_by: Signatory | None = None
    query: type[Struct] | None = None
    refuses: Sequence[int] = ()
    spooled: Form[Any] | None = None
    """The form of the answer where the body, a batch, waits in the spool because the database is away."""
    let_in: Callable[[Work], Awaitable[None]] | None = None
    """Refuses a caller whose large body is not worth reading."""
    together: Callable[[Api, Caller, Any], Awaitable[Any]] | None = None
    """What stores the body together with those of other requests; it gives None where it has to go by itself."""
    wants: frozenset[str] = field(factory=frozenset[str])

    @property
    def permission(self) -> Permission:
        """What the use case asks for."""
        return self.use_case.permission  # pyright: ignore[reportFunctionMemberAccess]

    @property
    def is_command(self) -> bool:
        """Whether it may change something."""
        return self.method != "GET"

    def path_parameters(self) -> Iterator[tuple[str, str]]:
        """Names and kinds of what stands in the path."""
        for part in self.path.split("/"):
            if part.startswith("{"):
                name, _, kind = part.strip("{}").partition(":")
                yield name, kind

    def route(self, api: Api) -> HTTPRouteHandler:
        """This operation as a route of the framework, which does nothing but find it.

        It stands before the framework's own handler, which would take a twentieth of the time of a batch to ask what
        of the request is wanted, and never gets to it.
        """

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            answer = await self.respond(api, scope, receive)
            await answer(scope, receive, send)

        async def endpoint() -> None:
            raise NotImplementedError

        return HTTPRouteHandler(
            API + self.path,
            http_method=self.method,
            name=self.name,
            opt={"operation": self},
            status_code=200,
            middleware=[lambda app: serve],  # noqa: ARG005 - the framework gives what follows by its name
        )(endpoint)

    async def respond(self, api: Api, scope: Any, receive: Receive) -> Answer:
        """Who is calling, what do they want, and what comes of it."""
        headers = headers_of(scope)
        key = headers.get(b"idempotency-key") if self.method == "POST" else None
        content: Buffer = b""
        if self.signed_by is None:
            principal = await principal_of(headers, api.authenticator)
        else:
            principal, key, content = await self._read_signed(api, self.signed_by, receive, headers)
        caller = Caller(
            principal=principal,
            request_id=scope["state"].get("request_id"),
            address=scope["state"].get("client_address"),
        )
        if isinstance(self.form, EventStreamForm):
            check_origin(headers, "streams")
        check_acceptable(headers.get(b"accept"), self.form.media_types)
        idempotency.check(key)
        given: dict[str, Any] = _checked_path(scope["path_params"])
        if "if_version" in self.wants:
            given["if_version"] = etags.if_match(headers.get(b"if-match"))
        if "known" in self.wants:
            given["known"] = etags.known(headers.get(b"if-none-match"))
        call = self._read_query(api, scope, headers, caller, given)
        if self.body is not None:
            if self.signed_by is None:
                content = await bodies.read(
                    receive, headers, self.body, api.settings.body_timeout, lambda: self._let_in(api, caller)
                )
            decode = self.body.decoder(headers.get(b"content-type", b"")) if content else None
            given["body"] = decode(content) if decode else None
        if "call" in self.wants:
            return await self.handler(call, **given)
        if not self.is_command:
            async with api.services.read(caller) as work:
                answer = self.form.answer(await self.handler(work, **given), call.cursor)
            return _unless_unchanged(answer, headers.get(b"if-none-match")) if self.form.revalidates else answer
        target = scope["raw_path"] + b"?" + scope["query_string"]
        attempt = idempotency.attempt(key, caller.principal, self.method, target, content)

        async def store() -> Answer:
            if self.together is not None and attempt is None:
                found = await self.together(api, caller, given["body"])
                if found is not None:
                    return self.form.answer(found, call.cursor)
            async with api.services.begin(caller) as work:
                earlier = None if attempt is None else await api.answers.earlier(work, attempt)
                answer = earlier or self.form.answer(await self.handler(work, **given), call.cursor)
                if attempt is not None and earlier is None:
                    api.answers.keep(work, attempt, answer)
            return answer

        if self.spooled is None or api.spooling is None:
            return await store()
        batch: Any = given["body"]
        return await api.spooling.answer(caller, batch, store, api.answers, attempt)

    async def _let_in(self, api: Api, caller: Caller) -> None:
        """Refuse strangers whose tokens only look like some: many of their bodies at once would fill the memory.

        Whatever else stands against a body is told when it is whole.
        """
        if self.let_in is None:
            return
        try:
            # Not on a replica, which may not know a new token yet.
            async with api.services.begin(caller) as work:
                await self.let_in(work)
        except (Unauthenticated, Forbidden):
            raise
        except Unavailable:
            if api.spooling is None or not api.spooling.reception.knows(caller):
                raise
        except Refusal:
            return

    async def _read_signed(
        self, api: Api, signatory: Signatory, receive: Receive, headers: Mapping[bytes, bytes]
    ) -> tuple[Principal, bytes, Buffer]:
        """Who is calling, the id of the event, and the body: read before its signature can tell who sent it."""
        assert self.body is not None  # noqa: S101 - refused where the operation is declared
        secrets = signatory.secrets(api.settings)
        event = SignedEvent.of(headers, api.services.clock.now())
        content = await bodies.read(receive, headers, self.body, api.settings.body_timeout)
        event.check(content, secrets)
        return signatory.principal, event.id, content

    def _read_query(
        self, api: Api, scope: Any, headers: Mapping[bytes, bytes], caller: Caller, given: dict[str, Any]
    ) -> Call:
        pairs = queries.pairs_of(scope["query_string"])
        call = Call(api=api, caller=caller, headers=headers, path=scope["path"], pairs=pairs)
        if self.query is None:
            queries.nothing_in(pairs)
            return call
        given["query"] = query = queries.parsed(pairs, self.query)
        if "after" in self.wants and isinstance(query, PageQuery):
            place = call.place(query.cursor)
            given["after"] = None if place is None else position(place)
        return call


def headers_of(scope: Any) -> dict[bytes, bytes]:
    """The headers by name; those sent more than once are joined, as HTTP means lists to be."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _checked_path(parameters: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: paths.given(value) if isinstance(value, str) else value for name, value in parameters.items()}
    for value in given.values():
        # What no id can be finds nothing, and is not to reach a database; U+FFFD stands for what was no UTF-8.
        if isinstance(value, str) and (not value.isprintable() or "\ufffd" in value):
            raise NotFound("thing")
    return given


def _unless_unchanged(answer: Answer, if_none_match: bytes | None) -> Answer:
    tag = answer.headers.get("ETag")
    if if_none_match is None or tag is None or not etags.is_unchanged(if_none_match, tag):
        return answer
    return Answer(304, {name: value for name, value in answer.headers.items() if name != "Content-Type"})


@frozen
class Operations:
    """The operations of one noun, as their module declares them."""

    tag: str
    about: str
    declared: list[Operation] = field(factory=list[Operation], init=False)

    def get(self, path: str, use_case: Callable[..., Any], form: Form[Any], **more: Any) -> Callable[[H], H]:
        """Declare a query."""
        return self._declare("GET", path, use_case, form, **more)

    def post(self, path: str, use_case: Callable[..., Any], form: Form[Any], **more: Any) -> Callable[[H], H]:
        """Declare a command that takes an Idempotency-Key."""
        return self._declare("POST", path, use_case, form, **more)

    def put(self, path: str, use_case: Callable[..., Any], form: Form[Any], **more: Any) -> Callable[[H], H]:
        """Declare a command that can be repeated."""
        return self._declare("PUT", path, use_case, form, **more)

    def patch(self, path: str, use_case: Callable[..., Any], form: Form[Any], **more: Any) -> Callable[[H], H]:
        """Declare an edit."""
        return self._declare("PATCH", path, use_case, form, **more)

    def delete(self, path: str, use_case: Callable[..., Any], form: Form[Any], **more: Any) -> Callable[[H], H]:
        """Declare a removal."""
        return self._declare("DELETE", path, use_case, form, **more)

    def _declare(
        self,
        method: Method,
        path: str,
        use_case: Callable[..., Any],
        form: Form[Any],
        *,
        body: BodyKind | None = None,
        signed_by: Signatory | None = None,
        refuses: Sequence[int] = (),
        spooled: Form[Any] | None = None,
        let_in: Callable[[Work], Awaitable[None]] | None = None,
        together: Callable[[Api, Caller, Any], Awaitable[Any]] | None = None,
    ) -> Callable[[H], H]:
        if not isinstance(getattr(use_case, "permission", None), Permission):
            raise TypeError(f"{method} {path} has no use case that declares a permission")

        def declare(handler: H) -> H:
            hints = typing.get_type_hints(handler)
            wants = frozenset(inspect.signature(handler).parameters)
            summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n")
            operation = Operation(
                method=method,
                path=path,
                name=handler.__name__,  # pyright: ignore[reportFunctionMemberAccess]
                summary=summary.rstrip("."),
                description=description.strip(),
                tag=self.tag,
                about=self.about,
                use_case=use_case,
                form=form,
                handler=handler,
                body=body or _body_of(hints.get("body")),
                signed_by=signed_by,
                query=hints.get("query"),
                refuses=refuses,
                spooled=spooled,
                let_in=let_in,
                together=together,
                wants=wants,
            )
            named = {name for name, _ in operation.path_parameters()}
            if wants - set(PARAMETERS) != named:
                raise TypeError(f"{method} {path} and its handler {operation.name} do not name the same parameters")
            if signed_by is not None and (operation.body is None or operation.body.packed or method != "POST"):
                raise TypeError(f"{method} {path} is to be signed, but has no body that is read as it was sent")
            self.declared.append(operation)
            return handler

        return declare


def _body_of(hint: Any) -> BodyKind | None:
    if hint is None:
        return None
    if isinstance(hint, types.UnionType):
        struct, absent = typing.get_args(hint)
        assert absent is types.NoneType  # noqa: S101 - a body is one struct, or one struct or nothing
        return bodies.json_body(struct, required=False)
    return bodies.json_body(hint)
