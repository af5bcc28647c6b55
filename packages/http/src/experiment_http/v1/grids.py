"""Grids on their way out: the series of a run at the same moments, for tables and for comparing them."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Annotated, Any, ClassVar
from uuid import UUID

from attrs import evolve
from msgspec import Meta, Struct

from experiment_domain.telemetry.grids import ROWS, Fill, GridColumn, GridPage, GridQuestion
from experiment_domain.telemetry.store import Layer
from experiment_domain.usecases.telemetry import TelemetryUseCases
from experiment_http import times
from experiment_http.answers import JSON, Answer, View
from experiment_http.negotiation import chosen
from experiment_http.operations import Call, Operations
from experiment_http.pagination import Cursor
from experiment_http.tables import KINDS, Kind, Part, Table, TableForm, TableStream
from experiment_http.times import Timestamp
from experiment_http.v1 import telemetry_out
from experiment_http.v1.telemetry_out import Edge, LayerChoice, chosen_answer, edge_of

operations = Operations(telemetry_out.operations.tag, telemetry_out.operations.about)
USUAL = 1_000
LONGEST_STEP = 366 * 86_400
_COLUMN = "0195798a-1b2c-7d3e-9f40-51627384a5b6/temperature"


class GridParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Which series, at which moments."""

    grid: Annotated[float, Meta(ge=1e-6, le=LONGEST_STEP, description="Seconds from one row to the next.")]
    signals: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="Repeated, or several with commas between; without it, all."),
    ] = ()
    sensor_id: tuple[UUID, ...] = ()
    capture_session_id: tuple[UUID, ...] = ()
    layer: LayerChoice | None = None
    fill: Annotated[
        Fill,
        Meta(
            description="What a series says between two of its values: the previous one, or what lies on the line"
            " between both."
        ),
    ] = Fill.PREVIOUS
    tolerance: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=LONGEST_STEP,
                description="Seconds: a value counts up to so far from its reading; without it, however far.",
            ),
        ]
        | None
    ) = None
    start: Annotated[Edge, Meta(description="The first row; without it, the first reading.")] | None = None
    end: Annotated[Edge, Meta(description="Exclusive; without it, behind the last reading.")] | None = None
    limit: (
        Annotated[
            int,
            Meta(ge=1, le=ROWS, description=f"At most so many rows; in JSON {USUAL:,} if not given, else all."),
        ]
        | None
    ) = None
    cursor: Cursor | None = None

    def question(self) -> GridQuestion:
        """The same in the words of the domain."""
        return GridQuestion(
            step=round(self.grid * 1_000_000),
            start=edge_of("start", self.start),
            end=edge_of("end", self.end),
            signals=self.signals,
            sensor_ids=frozenset(self.sensor_id),
            capture_session_ids=frozenset(self.capture_session_id),
            layer=self.layer,
            fill=self.fill,
            tolerance=None if self.tolerance is None else round(self.tolerance * 1_000_000),
            limit=self.limit or ROWS,
        )


class GridColumnView(View, frozen=True):
    """One sensor's signal over the sessions of a run; `profile_ids` are those of its physical values."""

    name: str
    sensor_id: UUID
    signal: str
    layer: Layer
    profile_ids: list[UUID]

    @classmethod
    def of(cls, thing: GridColumn) -> "GridColumnView":
        """The view of a column."""
        profiles = {source.profile_id for source in thing.sources} - {None} if thing.layer is Layer.PHYSICAL else set()
        return cls(thing.name, thing.sensor_id, thing.signal, thing.layer, sorted(filter(None, profiles)))


class GridRow(View, frozen=True, gc=False):
    """A value of each column at one moment; null where there is none."""

    timestamp: Timestamp
    values: tuple[float | None, ...]


class GridView(View, frozen=True):
    """Series at the same moments."""

    example: ClassVar[Mapping[str, Any]] = {
        "columns": [
            {
                "name": _COLUMN,
                "sensor_id": "0195798a-1b2c-7d3e-9f40-51627384a5b6",
                "signal": "temperature",
                "layer": "physical",
                "profile_ids": ["0195798a-9c8b-7a6d-8e5f-403122130415"],
            }
        ],
        "items": [{"timestamp": "2026-03-09T10:14:33.000000Z", "values": [26.0199]}],
        "next_cursor": None,
    }

    columns: list[GridColumnView]
    items: list[GridRow]
    next_cursor: str | None


@operations.get(
    "/runs/{run_id:uuid}/telemetry",
    TelemetryUseCases.grid,
    TableForm(of=(GridView,), text_example=f"timestamp,{_COLUMN}\n2026-03-09T10:14:33.000000Z,26.0199\n"),
)
async def read_grid(call: Call, run_id: UUID, query: GridParameters) -> Answer | TableStream:
    """Read several series of a run at the same moments.

    The first row is at `start`, each further one `grid` seconds behind the one before. The sessions of a run are one
    column per sensor and signal. JSON comes in pages; CSV and Arrow come whole, or with `limit` in pages, whose
    successors are named in `Link`; their columns have the names `<sensor id>/<signal>`. A page has 100,000 values at
    most, and fewer rows where there are many columns.
    """
    question = evolve(query.question(), after=call.place(query.cursor))
    media_type = chosen(call.headers.get(b"accept"), KINDS)
    if media_type == JSON:
        found = await _page(call, run_id, evolve(question, limit=query.limit or USUAL))
        return chosen_answer(_view(call, found))
    found = await _page(call, run_id, question)
    table = Table(
        columns={"timestamp": Kind.TIME, **{column.name: Kind.NUMBER for column in found.columns}},
        facts={"run_id": str(run_id)},
    )
    if query.limit is None:
        rest = _rest(call, run_id, question, found)
        return TableStream(table=table, media_type=media_type, first=_part(found), rest=rest)
    link = None if found.following is None else call.link(call.cursor(found.following))
    return TableStream(table=table, media_type=media_type, first=_part(found), link=link)


async def _page(
    call: Call, run_id: UUID, question: GridQuestion, columns: Sequence[GridColumn] | None = None
) -> GridPage:
    """A page, in a short unit of work of its own, while the caller's token counts."""
    async with call.api.services.read(await call.caller_now()) as work:
        return await work.telemetry.grid(run_id, question, columns=columns)


async def _rest(call: Call, run_id: UUID, question: GridQuestion, found: GridPage) -> AsyncGenerator[Part]:
    while found.following is not None:
        found = await _page(call, run_id, evolve(question, after=found.following), found.columns)
        yield _part(found)


def _part(found: GridPage) -> Part:
    return found.moments, *found.values


def _view(call: Call, found: GridPage) -> GridView:
    # NaN, which stands for no value, becomes null by itself.
    values = zip(*found.values, strict=True)
    return GridView(
        columns=list(map(GridColumnView.of, found.columns)),
        items=list(map(GridRow, times.texts(found.moments.tolist()), values)),
        next_cursor=None if found.following is None else call.cursor(found.following),
    )
