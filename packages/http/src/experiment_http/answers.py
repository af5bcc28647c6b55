"""Answers: bytes that are ready to be sent, and how entities, pages and lists become them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, Self, TypeVar
from uuid import UUID

import msgspec
from attrs import field, frozen
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from experiment_domain.kernel.entity import Page
from experiment_http import times
from experiment_http.etags import etag
from experiment_http.times import Timestamp

JSON = "application/json"
T = TypeVar("T")


@frozen
class Answer:
    """A whole answer. It is an ASGI application of its own, so nothing is done to it on its way out."""

    status: int
    headers: Mapping[str, str] = field(factory=dict[str, str])
    body: bytes = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI calls it
        """Send it."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        if self.body or self.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})

    def with_header(self, name: str, value: str) -> "Answer":
        """The same with one more header."""
        return Answer(self.status, {**self.headers, name: value}, self.body)


class View(Struct, frozen=True):
    """What something of the domain looks like from outside: the fields that have the same name."""

    example: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def of(cls, thing: Any) -> Self:
        """The view of a thing."""
        return cls(*[shown(getattr(thing, name)) for name in cls.__struct_fields__])


class VersionedView(View, frozen=True):
    """What everything with a version shows. `location` is the path under which it is found, up to its id."""

    location: ClassVar[str] = ""

    id: UUID
    version: int
    created_at: Timestamp
    updated_at: Timestamp
    created_by: str


class EntityView(VersionedView, frozen=True):
    """What everything that belongs to a project shows."""

    project_id: UUID


def shown(value: Any) -> Any:
    """A field's value as it is written."""
    if value.__class__ is datetime:
        return times.text(value)
    if value.__class__ is frozenset:
        return sorted(value)
    return value


@frozen(kw_only=True)
class Form(Generic[T]):
    """The form in which an operation answers."""

    status: int = 200
    media_types: Sequence[str] = (JSON,)
    has_etag: bool = False
    revalidates: bool = True
    """Whether the same version is the same answer, so that who has it need not be sent it again."""
    has_location: bool = False
    found: int | None = None
    """The status of an answer that had nothing to make, since what was asked for is there."""
    text_example: str = ""

    def answer(self, result: T, cursor: Callable[[Any], str]) -> Answer:
        """The answer that says `result`; `cursor` seals where a page ended."""
        raise NotImplementedError

    def views(self) -> Sequence[type[Struct]]:
        """The structs that the answer is made of."""
        raise NotImplementedError

    def schema(self, refer: Callable[[type[Struct]], Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """The JSON Schema of the answer, None where it has no body."""
        raise NotImplementedError

    def example(self) -> Any:
        """An answer as it might be."""
        raise NotImplementedError


@frozen(kw_only=True)
class One(Form[Any]):
    """One thing; an entity with its tag, and where it has just been made, with its location."""

    view: type[View]
    of: Callable[[Any], View] | None = None
    secret: bool = False

    def answer(self, result: Any, cursor: Callable[[Any], str]) -> Answer:  # noqa: ARG002
        """The view of the thing."""
        view = (self.of or self.view.of)(result)
        headers = {"Content-Type": JSON, "Cache-Control": "no-store" if self.secret else "private, no-cache"}
        if isinstance(view, VersionedView):
            headers["ETag"] = etag(view.version)
            if self.has_location:
                headers["Location"] = f"/api/v1{view.location}/{view.id}"
        return Answer(self.status, headers, msgspec.json.encode(view))

    def views(self) -> Sequence[type[Struct]]:
        """The one view."""
        return (self.view,)

    def schema(self, refer: Callable[[type[Struct]], Mapping[str, Any]]) -> Mapping[str, Any]:
        """That of the view."""
        return refer(self.view)

    def example(self) -> Any:
        """The view's."""
        return self.view.example


def one(
    view: type[View], *, of: Callable[[Any], View] | None = None, secret: bool = False, revalidates: bool = True
) -> One:
    """The form that shows one thing."""
    return One(view=view, of=of, has_etag=issubclass(view, VersionedView), secret=secret, revalidates=revalidates)


def created(view: type[View], *, of: Callable[[Any], View] | None = None, secret: bool = False) -> One:
    """The form that shows one thing that was just made."""
    entity = issubclass(view, VersionedView)
    return One(view=view, of=of, status=201, has_etag=entity, has_location=entity, secret=secret)


@frozen(kw_only=True)
class Items(Form[Iterable[Any]]):
    """A list that is always whole."""

    view: type[View]
    of: Callable[[Any], View] | None = None

    def answer(self, result: Iterable[Any], cursor: Callable[[Any], str]) -> Answer:  # noqa: ARG002
        """The views of the things."""
        return listed({"items": list(map(self.of or self.view.of, result))})

    def views(self) -> Sequence[type[Struct]]:
        """That of an entry."""
        return (self.view,)

    def schema(self, refer: Callable[[type[Struct]], Mapping[str, Any]]) -> Mapping[str, Any]:
        """An object with the entries."""
        return list_schema(refer(self.view))

    def example(self) -> Any:
        """One entry."""
        return {"items": [self.view.example]}


@frozen(kw_only=True)
class Paged(Form[Page[Any]]):
    """A part of a list."""

    view: type[View]

    def answer(self, result: Page[Any], cursor: Callable[[Any], str]) -> Answer:
        """The views of the things, and the cursor of the next part."""
        following = None if result.next is None else cursor([result.next[0], result.next[1].bytes])
        return listed({"items": list(map(self.view.of, result.items)), "next_cursor": following})

    def views(self) -> Sequence[type[Struct]]:
        """That of an entry."""
        return (self.view,)

    def schema(self, refer: Callable[[type[Struct]], Mapping[str, Any]]) -> Mapping[str, Any]:
        """An object with the entries and the cursor."""
        return list_schema(refer(self.view), next_cursor={"type": ["string", "null"]})

    def example(self) -> Any:
        """One entry, and no more."""
        return {"items": [self.view.example], "next_cursor": None}


@frozen(kw_only=True)
class Nothing(Form[None]):
    """No content."""

    status: int = 204
    media_types: Sequence[str] = ()

    def answer(self, result: None, cursor: Callable[[Any], str]) -> Answer:  # noqa: ARG002
        """The status alone."""
        return Answer(self.status)

    def views(self) -> Sequence[type[Struct]]:
        """None."""
        return ()

    def schema(self, refer: Callable[[type[Struct]], Mapping[str, Any]]) -> None:
        """None."""

    def example(self) -> Any:
        """None."""


def listed(content: Mapping[str, Any]) -> Answer:
    """The answer that is a list, ready to be sent."""
    return Answer(200, {"Content-Type": JSON, "Cache-Control": "private, no-cache"}, msgspec.json.encode(content))


def list_schema(entry: Mapping[str, Any], **further: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON Schema of a list, and of what else stands beside its entries."""
    properties = {"items": {"type": "array", "items": entry}, **further}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
