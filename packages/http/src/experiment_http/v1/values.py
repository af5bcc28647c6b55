"""The kinds of value that several nouns have in their requests and answers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from experiment_domain.experiments import SORTS
from experiment_domain.kernel.values import NAME_LENGTH, TAG_LENGTH, TAGS, TEXT_LENGTH
from experiment_http.answers import View
from experiment_http.pagination import PageQuery
from experiment_http.times import Moment, Timestamp

Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH)]
Text = Annotated[str, Meta(max_length=TEXT_LENGTH)]
Tags = Annotated[list[Annotated[str, Meta(min_length=1, max_length=TAG_LENGTH)]], Meta(max_length=TAGS)]
Seconds = Annotated[float, Meta(gt=0, le=366 * 86_400)]
Silence = Annotated[
    Seconds,
    Meta(
        description="Seconds without a sign of life after which a running run is warned about, and then failed:"
        " see `POST /runs/{run_id}/heartbeat`. Null: of a project never, of a run as its project says."
    ),
]
Reason = Annotated[str, Meta(max_length=1_000)]
Json = dict[str, Any]
Words = Annotated[
    str,
    Meta(
        max_length=1_000,
        description="Words, of letters and digits, with each of which a word of the name or of the text begins, in"
        " whatever case. Blank, it asks for nothing; without a word, it finds nothing.",
    ),
]
Sort = Annotated[
    str if TYPE_CHECKING else Literal[*(f"{way}{field}" for field in SORTS for way in ("", "-"))],
    Meta(description="What the list is sorted by; with `-`, in descending order. Absent values come last."),
]
MemberRole = Literal["viewer", "editor", "owner"]


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """A request body. A field that is not sent is UNSET, which is not null."""

    example: ClassVar[Mapping[str, Any]] = {}


class Transition(Request, frozen=True):
    """Why a transition is made."""

    example: ClassVar[Mapping[str, Any]] = {"reason": "the rig is ready"}

    reason: Reason | UnsetType | None = UNSET


class Empty(Request, frozen=True):
    """An object without fields."""


class CreatedQuery(PageQuery, frozen=True):
    """The query of a list that can be narrowed by when its entries were created."""

    created_after: Annotated[Moment, Meta(description="Then or later.")] | None = None
    created_before: Annotated[Moment, Meta(description="Earlier than then.")] | None = None


class StatusChangeView(View, frozen=True):
    """One transition. Never changed, never removed."""

    example: ClassVar[Mapping[str, Any]] = {
        "from": "draft",
        "to": "running",
        "at": "2026-03-09T10:14:33.000000Z",
        "actor": "ada",
        "role": "editor",
        "reason": "the rig is ready",
    }

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    at: Timestamp
    actor: str
    role: str
    reason: str | None


ENTITY: Mapping[str, Any] = {
    "id": "0195798a-8d28-7a55-9c3e-3f1a4a6c9d21",
    "project_id": "01957989-14c8-7bb2-8f0d-6a0c1d7e4f52",
    "version": 3,
    "created_at": "2026-03-09T10:00:00.000000Z",
    "updated_at": "2026-03-09T10:14:33.000000Z",
    "created_by": "ada",
}
"""What the examples of entities have in common."""
