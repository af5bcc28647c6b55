"""JSON without what parsers let pass: names that occur twice, NaN, infinities, half characters, endless nesting."""

import json
import math
import re
from typing import Any, NoReturn, cast

from experiment_domain.kernel.errors import Invalid
from experiment_http.problems import Malformed

DEEPEST = 64
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def malformed(detail: str) -> Malformed:
    """The refusal of a body that is no JSON, or JSON of a kind that means different things to different readers."""
    return Malformed("malformed_body", detail)


def parse(body: bytes | bytearray) -> Any:
    """The JSON value that `body` is, in UTF-8. Raises `Malformed`; `Invalid` where a text holds a NUL."""
    if body.count(b"[") + body.count(b"{") > DEEPEST:
        _check_depth(body)
    try:
        value = _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        raise malformed(f"The body is not UTF-8: byte {error.start} is not.") from None
    except json.JSONDecodeError as error:
        raise malformed(f"The body is not JSON: {error.msg}, at character {error.pos}.") from None
    except ValueError:  # an integer of thousands of digits
        raise malformed("The body holds a number that is too large.") from None
    except RecursionError:
        raise malformed(f"The body is nested deeper than {DEEPEST} levels.") from None
    if b"\\u" in body:
        _check_text(value, "")
    return value


def _check_depth(body: bytes | bytearray) -> None:
    # Brackets outside of strings, made one kind, lose their innermost pairs with every round.
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS).translate(_ONE_KIND)
    for _ in range(DEEPEST):
        if not brackets:
            return
        shorter = brackets.replace(b"[]", b"")
        if shorter == brackets:
            return  # they do not match: the parser will say where
        brackets = shorter
    if brackets:
        raise malformed(f"The body is nested deeper than {DEEPEST} levels.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise malformed(f"A name occurs twice in one object: {twice[:100]!r}.")
    return members


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise malformed("The body holds a number that is too large for a float64.")
    return number


def _constant(name: str) -> NoReturn:
    raise malformed(f"{name} is not JSON.")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)


def _check_text(value: Any, path: str) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise Invalid.at(path, "must not contain the character U+0000")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise malformed("The body holds half of a surrogate pair.") from None
    elif isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            _check_text(name, path)
            _check_text(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            _check_text(item, f"{path}[{index}]")
