"""From values to request structs, and what of one was given."""

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, inspect

from experiment_domain.kernel.errors import Invalid

T = TypeVar("T")
_PATH = re.compile(r" - at `(key in )?\$(.*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_ENUM = re.compile(r"Invalid enum value (.*)$", re.DOTALL)
_STEP = re.compile(r"\.?([^.\[\]]+)|\[.*?\]")
_MISSING = re.compile(r"Object missing required field `(.*)`$", re.DOTALL)


def converted(value: Any, kind: type[T], whole: str = "body") -> T:
    """`value` as `kind`. Raises `Invalid`, naming the place; `whole` is the name of the outermost place."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(error, whole, kind) from None


def invalid(error: msgspec.ValidationError, whole: str = "body", kind: Any = Any) -> Invalid:
    """What msgspec found wrong in a value of that `kind`, in the words of the domain: path and message."""
    message, path = str(error), ""
    if found := _PATH.search(message):
        message, path = message[: found.start()], found[2].lstrip(".")
    if found := _UNKNOWN.match(message):
        message, path = "is unknown", f"{path}.{found[1]}" if path else found[1]
    elif found := _MISSING.match(message):
        message, path = "is required", f"{path}.{found[1]}" if path else found[1]
    elif (found := _ENUM.match(message)) and (values := sorted({*_values(inspect.type_info(kind), path)})):
        message = f"is none of {', '.join(values)}"
    else:
        message = message[:1].lower() + message[1:]
    return Invalid.at(path or whole, message)


def _values(kind: inspect.Type, path: str) -> Iterator[str]:
    """The values that there are to choose from at a path, where msgspec only says that one is none of them."""
    step = _STEP.match(path)
    rest = path[step.end() :] if step else ""
    match kind:
        case inspect.Metadata(type=inner):
            yield from _values(inner, path)
        case inspect.UnionType(types=types):
            for one in types:
                yield from _values(one, path)
        case inspect.EnumType(cls=cls) if not path:
            yield from (str(member.value) for member in cls)
        case inspect.LiteralType(values=values) if not path:
            yield from map(str, values)
        case inspect.StructType(fields=fields) if step:
            for one in fields:
                if one.encode_name == step[1]:
                    yield from _values(one.type, rest)
        case inspect.DictType(value_type=inner) | inspect.CollectionType(item_type=inner) if step:
            yield from _values(inner, rest)
        case _:
            return


def given(body: msgspec.Struct) -> dict[str, Any]:
    """The fields that the caller has sent: null is a value, absent is none."""
    fields = ((name, getattr(body, name)) for name in body.__struct_fields__)
    return {name: value for name, value in fields if value is not UNSET}
