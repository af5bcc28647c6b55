"""Conversion profiles: drafted, previewed, published, and never changed again."""

from typing import Any

import pytest

from http_api import World

KINDS: list[tuple[str, dict[str, Any], list[float | None]]] = [
    ("identity", {}, [0.0, 1.0, 10.0]),
    ("linear", {"a": 2, "b": 1}, [1.0, 3.0, 21.0]),
    ("polynomial", {"coefficients": [1, 0, 2]}, [1.0, 3.0, 201.0]),
    ("piecewise_polynomial", {"ranges": [{"min": 0, "max": 5, "coefficients": [0, 3]}]}, [0.0, 3.0, None]),
    ("table", {"points": [[0, 0], [2, 4]], "outside": "extrapolate"}, [0.0, 2.0, 20.0]),
    ("table", {"points": [[0, 0], [2, 4]], "outside": "clamp"}, [0.0, 2.0, 4.0]),
    ("table", {"points": [[0, 0], [2, 4]], "outside": "reject"}, [0.0, 2.0, None]),
]


def profiles(world: World) -> str:
    """The path of the sensor's profiles."""
    return f"/sensors/{world.sensor_id}/conversion-profiles"


@pytest.mark.parametrize(("kind", "parameters", "converted"), KINDS)
@pytest.mark.covers("conversions.draft")
async def test_kinds(
    world: World, runner: object, kind: str, parameters: dict[str, Any], converted: list[float | None]
) -> None:
    made = await world.editor.done("POST", profiles(world), {"kind": kind, "parameters": parameters}, 201)
    assert (made["kind"], made["parameters"]) == (kind, parameters)
    assert (made["input_unit"], made["output_unit"], made["valid_range"]) == ("mV", "°C", None)
    assert (made["profile_version"], made["status"], made["version"]) == (2, "draft", 1)
    path = f"/conversion-profiles/{made['id']}"
    assert await world.viewer.done("GET", path) == made
    preview = await world.viewer.done("POST", f"{path}/preview", {"values": [0, 1, 10]})
    assert preview == {"items": converted, "input_unit": "mV", "output_unit": "°C"}


@pytest.mark.covers("conversions.draft", "conversions.edit", "conversions.publish", "conversions.retire")
async def test_a_draft_is_edited_published_and_retired(world: World, runner: object) -> None:
    body = {
        "kind": "linear",
        "parameters": {"a": 1, "b": 0},
        "valid_range": {"min": 0},
        "notes": "n",
        "input_unit": "V",
    }
    made = await world.editor.done("POST", profiles(world), body)
    assert (made["valid_range"], made["input_unit"]) == ({"min": 0.0, "max": None}, "V")
    path = f"/conversion-profiles/{made['id']}"
    edited = await world.editor.done("PATCH", path, {"parameters": {"a": 3, "b": 0}, "valid_range": None})
    assert (edited["parameters"], edited["valid_range"], edited["notes"]) == ({"a": 3.0, "b": 0.0}, None, "n")
    edited = await world.editor.done("PATCH", path, {"kind": "identity", "parameters": {}, "notes": None})
    assert (edited["kind"], edited["profile_version"], edited["version"]) == ("identity", 2, 3)
    await world.editor.refused("POST", f"{path}/publish", 403, "forbidden")
    published = await world.owner.done("POST", f"{path}/publish", {"reason": "calibrated"})
    assert published["status"] == "published"
    assert published["published_at"]
    await world.editor.refused("PATCH", path, 409, "not_draft", {"notes": "x"})
    before = await world.viewer.done("GET", f"/conversion-profiles/{world.profile_id}")
    assert before["status"] == "retired"
    retired = await world.owner.done("POST", f"{path}/retire", {"reason": "drifted"})
    assert retired["status"] == "retired"
    await world.owner.refused("POST", f"{path}/publish", 409, "invalid_transition")
    history = (await world.viewer.done("GET", f"{path}/history"))["items"]
    assert [(entry["to"], entry["reason"]) for entry in history] == [
        ("published", "calibrated"),
        ("retired", "drifted"),
    ]
    listed = (await world.viewer.done("GET", profiles(world)))["items"]
    assert [item["profile_version"] for item in listed] == [2, 1]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"kind": "linear", "parameters": {"a": "1", "b": 0}}, "parameters.a"),
        ({"kind": "linear", "parameters": {"a": True, "b": 0}}, "parameters.a"),
        ({"kind": "linear", "parameters": []}, "parameters"),
        ({"kind": "polynomial", "parameters": {"coefficients": []}}, "parameters.coefficients"),
        ({"kind": "table", "parameters": {"points": [[0, 0], [0, 1]], "outside": "clamp"}}, "parameters.points[1][0]"),
        ({"kind": "table", "parameters": {"points": [[0, 0], [1, 1]], "outside": "x"}}, "parameters.outside"),
        (
            {"kind": "piecewise_polynomial", "parameters": {"ranges": [{"min": 1, "max": 0, "coefficients": [1]}]}},
            "parameters.ranges[0]",
        ),
        ({"kind": "identity", "parameters": {"a": 1}}, "parameters.a"),
        ({"kind": "identity"}, "parameters"),
        ({"kind": "identity", "parameters": {}, "valid_range": {"min": "x"}}, "valid_range.min"),
        ({"kind": "identity", "parameters": {}, "profile_version": 7}, "profile_version"),
    ],
)
async def test_rules_that_are_none(world: World, runner: object, body: dict[str, Any], path: str) -> None:
    problem = await world.editor.refused("POST", profiles(world), 422, "invalid", body)
    assert problem["errors"][0]["path"] == path


async def test_previews_are_bounded(world: World, runner: object) -> None:
    path = f"/conversion-profiles/{world.profile_id}/preview"
    assert (await world.viewer.done("POST", path, {"values": []}))["items"] == []
    assert len((await world.viewer.done("POST", path, {"values": [1] * 10_000}))["items"]) == 10_000
    await world.viewer.refused("POST", path, 422, "invalid", {"values": [1] * 10_001})
    await world.viewer.refused("POST", path, 422, "invalid", {"values": ["1"]})
