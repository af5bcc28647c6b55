"""What the demo shows: commands that can be pasted as they are, each below a line that says what it is for."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from experiment_http.cli.remote import API


def tour(url: str, token: str, rig: Mapping[str, Any], live: str | None) -> str:
    """The text for the terminal; what is indented can be pasted into a shell, comments included."""
    base = url + API
    run = f"{base}/runs/{rig['run_id']}"
    recorded = f"{base}/capture-sessions/{rig['recorded_session_id']}"
    series = f"sensor_id={rig['sensor_id']}&signal={quote('furnace')}&limit=5"
    profile = f"{base}/conversion-profiles/{rig['profile_id']}"
    sections = [
        ("your token, for the commands below", f"export EXPERIMENT_TOKEN={token}"),
        ("the run at a glance: sessions, sensors, signals, transitions", _get(f"{run}/card")),
        ("its signals in numbers: count, minimum, maximum, mean, in °C", _get(f"{run}/metrics")),
        ("the recorded heating, in °C, as CSV", _get(f"{recorded}/telemetry?{series}", "Accept: text/csv")),
        ("the millivolts behind it", _get(f"{recorded}/telemetry?{series}&layer=raw", "Accept: text/csv")),
        ("what the calibration makes of other voltages",
         _get(f"{profile}/preview", "Content-Type: application/json", '{"values": [0, 4.096, 33.275]}')),
    ]  # fmt: skip
    sections.append(("whether anybody has tampered with the audit log", _get(f"{base}/audit/verify")))
    if live is not None:
        # Last, because it is worth repeating: its count grows.
        sections.append(("what is being recorded right now", _get(f"{base}/capture-sessions/{live}/series")))
    lines = ["", "The demo: a furnace with two type K thermocouples. In another terminal:"]
    for purpose, command in sections:
        lines += ["", f"  # {purpose}", f"  {command}"]
    if live is None:
        lines += ["", "Its run is over, so nothing is being recorded."]
    return "\n".join(lines)


def _get(address: str, header: str | None = None, data: str | None = None) -> str:
    options = f"-H '{header}' " if header else ""
    options += f"-d '{data}' " if data else ""
    return f"""curl -sS -H "Authorization: Bearer $EXPERIMENT_TOKEN" {options}'{address}'"""
