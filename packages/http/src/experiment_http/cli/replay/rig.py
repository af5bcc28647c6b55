"""The rig that a replay records with: a project, an experiment, and one sensor per column."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from experiment_http.cli.remote import Refused, Remote
from experiment_http.cli.replay.recording import Channel
from experiment_http.cli.replay.token_file import TokenFile

NAME_LENGTH = 200
UNIT_LENGTH = 50
GRACE = 3_600.0
"""Seconds that the token of a sensor lives on after a new one was made: another replay may be using it."""
_OPEN = ("draft", "running")
_USABLE = ("registered", "active", "inactive")
_UNRETIRED = ("draft", "published")


def find_project(remote: Remote, name: str) -> Mapping[str, Any]:
    """The caller's oldest project with this name, or a new one."""
    found = [project for project in remote.items("/projects") if project["name"] == name]
    if found:
        return found[-1]
    return remote.create("/projects", {"name": name}, still=lambda project: project["name"] == name)


def find_experiment(remote: Remote, project_id: str, name: str) -> Mapping[str, Any]:
    """The project's oldest experiment with this name, one that takes runs if possible, or a new one."""
    found = [item for item in remote.items("/experiments", project_id=project_id) if item["name"] == name]
    taking = [item for item in found if item["status"] in _OPEN]
    if taking or found:
        return (taking or found)[-1]
    return remote.create(
        "/experiments",
        {"project_id": project_id, "name": name},
        still=lambda item: item["name"] == name and item["status"] in _OPEN,
    )


class Sensors:
    """The sensors that replay registered in a project, one per column, and the tokens to send as them.

    Only its own ones are ever used again: to send as a sensor takes its token, and a new token would silence the
    device that has the old one.
    """

    def __init__(self, remote: Remote, project_id: str, tokens: TokenFile) -> None:
        self._remote = remote
        self._project_id = project_id
        self._token_file = tokens
        self._ids: dict[str, str] = {}
        self._retired: Counter[str] = Counter()
        self._checked_tokens: dict[str, str] = {}
        self.without_physical: list[str] = []
        """Columns whose sensors have no published profile, because the caller may not publish."""

    def prepare(self, channels: Sequence[Channel]) -> None:
        """Have a sensor with a valid token and a published profile for each column."""
        if not self._ids:
            self._ids = self._known()
        kept = dict(self._token_file.load())
        for channel in channels:
            if channel.column in self._checked_tokens:
                continue
            if channel.column not in self._ids:
                self._register(channel, kept)
            sensor_id = self._ids[channel.column]
            self._checked_tokens[channel.column] = self._valid_token(sensor_id, kept.get(sensor_id))
            if not self._publish(sensor_id):
                self.without_physical.append(channel.column)

    def id_of(self, channel: Channel) -> str:
        """The sensor of a prepared column."""
        return self._ids[channel.column]

    def token_of(self, channel: Channel) -> str:
        """The token of a prepared column's sensor."""
        return self._checked_tokens[channel.column]

    def _known(self) -> dict[str, str]:
        """Sensors by column; of several, the oldest one."""
        found: dict[str, str] = {}
        for sensor in self._remote.items("/sensors", project_id=self._project_id):
            column = self._column_of(sensor)
            if column is None:
                continue
            if sensor["status"] in _USABLE:
                found[column] = sensor["id"]
            else:
                self._retired[column] += 1
        return found

    def _column_of(self, sensor: Mapping[str, Any]) -> str | None:
        """The column that a sensor of ours stands for; None for somebody else's."""
        if sensor["project_id"] != self._project_id:
            return None
        return (sensor["metadata"].get("replay") or {}).get("column") or None

    def _register(self, channel: Channel, tokens: dict[str, str]) -> None:
        unit = channel.unit[:UNIT_LENGTH]
        sensor = self._remote.create(
            "/sensors",
            {
                "project_id": self._project_id,
                "name": channel.signal[:NAME_LENGTH],
                "sensor_type": "recording",
                "input_unit": unit,
                "display_unit": unit,
                "signals": [channel.signal],
                "metadata": {"replay": {"column": channel.column}},
            },
            identity=f"after {self._retired[channel.column]} retired ones",
            still=lambda sensor: sensor["status"] in _USABLE and self._column_of(sensor) == channel.column,
        )
        self._ids[channel.column] = sensor["id"]
        if token := sensor.get("token"):  # shown once; a repeated answer may leave it out
            self._token_file.keep({sensor["id"]: token})
            tokens[sensor["id"]] = token

    def _valid_token(self, sensor_id: str, token: str | None) -> str:
        if token is not None:
            try:
                self._remote.heartbeat(sensor_id, token)
            except Refused as refusal:
                if refusal.status != httpx.codes.UNAUTHORIZED:
                    raise
            else:
                return token
        token = str(self._remote.act(f"/sensors/{sensor_id}/rotate-token", {"grace": GRACE})["token"])
        self._token_file.keep({sensor_id: token})
        return token

    def _publish(self, sensor_id: str) -> bool:
        """Have an identity profile published, which makes raw values physical; False where the caller may not."""
        path = f"/sensors/{sensor_id}/conversion-profiles"
        profiles = list(self._remote.items(path))
        if any(profile["status"] == "published" for profile in profiles):
            return True
        drafts = [profile for profile in profiles if profile["status"] == "draft" and profile["kind"] == "identity"]
        if drafts:
            draft = drafts[0]
        else:
            body = {"kind": "identity", "parameters": {}}
            draft = self._remote.create(path, body, still=lambda profile: profile["status"] in _UNRETIRED)
        try:
            self._remote.act(f"/conversion-profiles/{draft['id']}/publish")
        except Refused as refusal:
            if refusal.status == httpx.codes.FORBIDDEN:
                return False
            raise
        return True
