"""What the demo shows: where to look, and commands that can be pasted as they are."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from experiment_http.cli.remote import API


def tour(url: str, token: str, rig: Mapping[str, Any], live: str | None) -> str:
    """The text for the terminal; lines that begin with two blanks are commands for a shell."""
    base = url + API
    recorded = f"{base}/capture-sessions/{rig['recorded_session_id']}"
    series = f"sensor_id={rig['sensor_id']}&signal={quote('furnace')}"
    sections = [
        ("Your token, for the commands below", [f"export EXPERIMENT_TOKEN={token}"]),
        ("The run with its capture sessions", [_get(f"{base}/runs/{rig['run_id']}/capture-sessions")]),
        ("What the service says of each signal, in °C", [_get(f"{base}/runs/{rig['run_id']}/metrics")]),
        ("The heating in °C as CSV, and the millivolts under it",
         [
             _get(f"{recorded}/telemetry?{series}&limit=5", accept="text/csv"),
             _get(f"{recorded}/telemetry?{series}&layer=raw&limit=5", accept="text/csv"),
         ]),
        ("What the calibration makes of other voltages",
         [
             _get(f"{base}/conversion-profiles/{rig['profile_id']}/preview",
                  more="""-H 'Content-Type: application/json' -d '{"values": [0, 4.096, 33.275]}'""")
         ]),
    ]  # fmt: skip
    if live is None:
        sections.append(("The demo's run is over, so nothing is being recorded", []))
    else:
        sections.append(("What is being recorded right now", [_get(f"{base}/capture-sessions/{live}/series")]))
    lines = ["", f"The demo: a furnace with two type K thermocouples. Open {url}/schema, and try:"]
    for title, commands in sections:
        lines += [f"# {title}", *(f"  {command}" for command in commands)]
    return "\n".join(lines)


def _get(address: str, *, accept: str | None = None, more: str = "") -> str:
    options = f"-H 'Accept: {accept}' " if accept else ""
    options += f"{more} " if more else ""
    return f"""curl -sS -H "Authorization: Bearer $EXPERIMENT_TOKEN" {options}'{address}'"""
