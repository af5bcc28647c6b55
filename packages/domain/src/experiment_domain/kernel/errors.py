"""The few kinds of refusal. Each carries a stable `code`; none knows of HTTP or of a database."""

from collections.abc import Mapping, Sequence
from typing import Any


class Refusal(Exception):  # noqa: N818 - what the domain answers, not a fault of the program
    """A command or query that the domain refuses.

    `code` is stable snake_case for machines, `detail` one sentence for people, `facts` what else helps the
    caller: the ids of active sessions, the statuses that are allowed.
    """

    def __init__(self, code: str, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.facts: Mapping[str, Any] = facts


class Unauthenticated(Refusal):
    """Nobody is known to be calling."""

    def __init__(self, detail: str = "A valid bearer token is required.") -> None:
        super().__init__("unauthenticated", detail)


class Forbidden(Refusal):
    """The caller may know of the thing, but not do this to it."""

    def __init__(self, detail: str, code: str = "forbidden") -> None:
        super().__init__(code, detail)


class NotFound(Refusal):
    """There is no such thing, or the caller may not know of it: the two are never told apart."""

    def __init__(self, noun: str) -> None:
        super().__init__("not_found", f"There is no such {noun}.")


class Conflict(Refusal):
    """The state of things, or something unique, stands against it."""


class NotYet(Conflict):
    """It is not there yet, and will be: ask again after a while."""


class Gone(Refusal):
    """It was there, and is not kept any more."""


class InvalidTransition(Conflict):
    """The state machine has no such transition."""

    def __init__(self, noun: str, current: str, target: str, allowed: Sequence[str]) -> None:
        ways = ", ".join(allowed) or "none"
        super().__init__(
            "invalid_transition",
            f"This {noun.replace('_', ' ')} is {current} and cannot become {target}; allowed from {current}: {ways}.",
            current=current,
            target=target,
            allowed=list(allowed),
        )


class VersionMismatch(Conflict):
    """Somebody else changed it since the caller read it."""

    def __init__(self, noun: str, current: int | None = None) -> None:
        now = "" if current is None else f"; it is at version {current} now"
        super().__init__("version_mismatch", f"This {noun} has changed since you read it{now}.", current=current)


class Invalid(Refusal):
    """The request breaks a rule, whatever the state of things. `errors` names each place: path and message."""

    def __init__(
        self, detail: str, *, code: str = "invalid", errors: Sequence[Mapping[str, Any]] = (), **facts: Any
    ) -> None:
        super().__init__(code, detail, **facts)
        self.errors = list(errors)

    @classmethod
    def at(cls, path: str, message: str) -> "Invalid":
        """A refusal of one field, `path` in dots and brackets."""
        return cls(f"{path}: {message}", errors=[{"path": path, "message": message}])


class Unavailable(Refusal):
    """Something the service itself needs is away. Nothing is known to have changed: try again with the same key."""

    def __init__(self, detail: str = "The service cannot reach its database right now.") -> None:
        super().__init__("unavailable", detail)


class BrokenOff(Unavailable):
    """What is needed is there, but it took too long or met what others do at once: less at a time may go through."""
