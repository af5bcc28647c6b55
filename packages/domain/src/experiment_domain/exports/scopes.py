"""What is exported: the sessions of the runs that a filter finds, or some of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import field, frozen

from experiment_domain.kernel.errors import Invalid
from experiment_domain.runs import RunFilter, RunStatus, checked_fields
from experiment_domain.telemetry.stamps import text

CHOICES = 100
"""How many alternatives one field of a scope has at most."""


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


@frozen(kw_only=True)
class ExportScope:
    """Which readings of a project: every field narrows, several values of one are alternatives; none: all there are.

    Runs are found as in a list of them, see `RunFilter`. Sensors and signals also narrow what is read of each session.
    """

    run_ids: tuple[UUID, ...] = field(default=(), converter=_distinct)
    capture_session_ids: tuple[UUID, ...] = field(default=(), converter=_distinct)
    experiment_ids: tuple[UUID, ...] = field(default=(), converter=_distinct)
    statuses: tuple[RunStatus, ...] = field(default=(), converter=_distinct)
    tags: tuple[str, ...] = field(default=(), converter=_distinct)
    any_tags: tuple[str, ...] = field(default=(), converter=_distinct)
    git_shas: tuple[str, ...] = field(default=(), converter=_distinct)
    participants: tuple[str, ...] = field(default=(), converter=_distinct)
    sensor_ids: tuple[UUID, ...] = field(default=(), converter=_distinct)
    profile_ids: tuple[UUID, ...] = field(default=(), converter=_distinct)
    signals: tuple[str, ...] = field(default=(), converter=_distinct)
    params: tuple[tuple[str, str], ...] = field(default=(), converter=_distinct)
    created_after: datetime | None = None
    created_before: datetime | None = None
    started_after: datetime | None = None
    started_before: datetime | None = None
    words: str | None = None

    def check(self) -> None:
        """Refuse more alternatives than a query is made for, and what no commit can be."""
        for name, (shown, _) in _FIELDS.items():
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) > CHOICES:  # pyright: ignore[reportUnknownArgumentType]
                raise Invalid.at(f"scope.{shown}", f"must have at most {CHOICES} entries")
        for sha in self.git_shas:
            checked_fields({"git_sha": sha})

    def runs(self, project_id: UUID, ids: Sequence[UUID]) -> RunFilter:
        """The filter of the runs that are meant, among those with `ids` where there are any."""
        return RunFilter(
            project_ids=(project_id,),
            ids=ids,
            experiment_ids=self.experiment_ids,
            statuses=self.statuses,
            tags=self.tags,
            any_tags=self.any_tags,
            git_shas=self.git_shas,
            participants=self.participants,
            sensor_ids=self.sensor_ids,
            profile_ids=self.profile_ids,
            created_after=self.created_after,
            created_before=self.created_before,
            started_after=self.started_after,
            started_before=self.started_before,
            params=self.params,
            words=self.words,
        )

    def takes(self, sensor_id: UUID, signal: str) -> bool:
        """Whether a series is wanted."""
        return (not self.sensor_ids or sensor_id in self.sensor_ids) and (not self.signals or signal in self.signals)

    def facts(self) -> dict[str, Any]:
        """The scope as JSON values, under the names of the filters of lists; only the fields that narrow it."""
        given = {shown: getattr(self, name) for name, (shown, _) in _FIELDS.items()}
        plain = {shown: _plain(value) for shown, value in given.items() if value not in ((), None)}
        if self.params:
            plain["param"] = {key: [text for name, text in self.params if name == key] for key, _ in self.params}
        return plain

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "ExportScope":
        """The scope that has such `facts`."""
        return cls(**{name: read(facts[shown]) for name, (shown, read) in _FIELDS.items() if shown in facts})


def _each(read: Callable[[Any], Any]) -> Callable[[Iterable[Any]], Sequence[Any]]:
    return lambda values: [read(value) for value in values]


_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "run_ids": ("run_id", _each(UUID)),
    "capture_session_ids": ("capture_session_id", _each(UUID)),
    "experiment_ids": ("experiment_id", _each(UUID)),
    "statuses": ("status", _each(RunStatus)),
    "tags": ("tag", _each(str)),
    "any_tags": ("any_tag", _each(str)),
    "git_shas": ("git_sha", _each(str)),
    "participants": ("participant", _each(str)),
    "sensor_ids": ("sensor_id", _each(UUID)),
    "profile_ids": ("profile_id", _each(UUID)),
    "signals": ("signal", _each(str)),
    "params": ("param", lambda params: [(key, text) for key, texts in params.items() for text in texts]),
    "created_after": ("created_after", datetime.fromisoformat),
    "created_before": ("created_before", datetime.fromisoformat),
    "started_after": ("started_after", datetime.fromisoformat),
    "started_before": ("started_before", datetime.fromisoformat),
    "words": ("q", str),
}
"""What the fields are called outside, and how their values are read from JSON."""


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return text(value)
    if isinstance(value, UUID):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType]
