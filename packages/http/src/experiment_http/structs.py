"""From values to request structs, and what of one was given."""

import re
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from experiment_domain.kernel.errors import Invalid

T = TypeVar("T")
_PATH = re.compile(r" - at `(key in )?\$(.*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`$", re.DOTALL)


def converted(value: Any, kind: type[T], whole: str = "body") -> T:
    """`value` as `kind`. Raises `Invalid`, naming the place; `whole` is the name of the outermost place."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(error, whole) from None


def invalid(error: msgspec.ValidationError, whole: str = "body") -> Invalid:
    """What msgspec found wrong, in the words of the domain: path and message."""
    message, path = str(error), ""
    if found := _PATH.search(message):
        message, path = message[: found.start()], found[2].lstrip(".")
    if found := _UNKNOWN.match(message):
        message, path = "is unknown", f"{path}.{found[1]}" if path else found[1]
    elif found := _MISSING.match(message):
        message, path = "is required", f"{path}.{found[1]}" if path else found[1]
    else:
        message = message[:1].lower() + message[1:]
    return Invalid.at(path or whole, message)


def given(body: msgspec.Struct) -> dict[str, Any]:
    """The fields that the caller has sent: null is a value, absent is none."""
    fields = ((name, getattr(body, name)) for name in body.__struct_fields__)
    return {name: value for name, value in fields if value is not UNSET}
