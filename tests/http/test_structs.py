"""What is said of values that are none of those that there are to choose from."""

from enum import StrEnum
from typing import Any, Literal

import pytest
from msgspec import UNSET, Struct, UnsetType

from experiment_domain.kernel.errors import Invalid
from experiment_http.structs import converted


class Metal(StrEnum):
    """Something to choose from."""

    STEEL = "steel"
    BRASS = "brass"


class Part(Struct):
    """Where something is to be chosen."""

    metal: Metal | UnsetType = UNSET
    metals: list[Metal] = []
    finish: Literal["raw", "polished"] | None = None
    inner: "dict[str, Part]" = {}


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({"metal": "wood"}, "metal", "is none of brass, steel"),
        ({"metals": ["steel", "wood"]}, "metals[1]", "is none of brass, steel"),
        ({"finish": "wet"}, "finish", "is none of polished, raw"),
        ({"inner": {"a.b": {"metal": "wood"}}}, "inner[...].metal", "is none of brass, steel"),
        ({"metal": 1}, "metal", "expected `str`, got `int`"),
    ],
)
def test_the_choice_is_named(value: Any, path: str, message: str):
    with pytest.raises(Invalid) as refusal:
        converted(value, Part)
    assert refusal.value.errors == [{"path": path, "message": message}]
