"""Plays recordings: one run and one capture session each, completed however often it takes."""

import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import msgspec
from attrs import frozen

from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.remote import Remote
from experiment_http.cli.replay.recording import Channel, Recording
from experiment_http.cli.replay.rig import Sensors

BATCH = 1_000
IN_FLIGHT = 6
TICK = 0.25
"""Seconds between two looks at what is due, when a recording is played at a speed."""
NAME_LENGTH = 200
_MICROSECONDS = 1_000_000
_UNDER_WAY = ("draft", "running")
_OVER = ("finished", "archived")


@frozen
class Played:
    """A recording in the service."""

    recording: Recording
    run_id: str
    capture_session_id: str


@frozen(eq=False)
class Piece:
    """Some readings of one channel, sent at once. `due` is the time of the last one."""

    channel: Channel
    timestamps: "array[int]"
    values: "array[float]"

    @property
    def due(self) -> int:
        """When it had all been recorded, in microseconds since the Unix epoch."""
        return max(self.timestamps)


class Player:
    """Plays recordings into one experiment.

    A run is known by the file it was made of, so that a second attempt goes on with it; a batch is known by its
    content, so that sending it again changes nothing. A run that failed stays as it is: another one is begun.
    """

    def __init__(
        self, remote: Remote, experiment_id: str, sensors: Sensors, speed: float | None, progress: Callable[[int], None]
    ) -> None:
        self._remote = remote
        self._experiment_id = experiment_id
        self._sensors = sensors
        self._speed = speed
        self._progress = progress

    def play(self, recording: Recording) -> Played:
        """Have the whole recording in the service, its session succeeded and its run finished."""
        run = self._run_of(recording)
        if run["status"] not in _OVER:
            self._sensors.prepare(recording.channels)
            session = self._running_session(run, recording)
            if session["status"] == "running":
                self._send(recording, session["id"])
                self._remote.act(f"/capture-sessions/{session['id']}/stop", {"outcome": "succeeded"})
            self._remote.act(f"/runs/{run['id']}/finish")
        else:
            session = self._sessions(run["id"])[0]
            self._progress(len(recording))
        return Played(recording, run["id"], session["id"])

    def _run_of(self, recording: Recording) -> Mapping[str, Any]:
        """The run of this recording that can be gone on with or is complete, or a new one."""
        origin = recording.origin
        params = {"file": recording.name, "sha256": recording.sha256}
        found = [
            run
            for run in self._remote.items(
                f"/experiments/{self._experiment_id}/runs", **{"param.sha256": recording.sha256}
            )
            if run["metadata"].get("replay") == origin
        ]
        for run in reversed(found):
            if run["status"] in _UNDER_WAY or (run["status"] in _OVER and self._is_whole(run)):
                return run
        return self._remote.create(
            f"/experiments/{self._experiment_id}/runs",
            {"name": recording.name[:NAME_LENGTH], "params": params, "metadata": {"replay": origin}},
            identity=f"after {len(found)} failed ones",
            still=lambda run: run["status"] in _UNDER_WAY and run["metadata"].get("replay") == origin,
        )

    def _is_whole(self, run: Mapping[str, Any]) -> bool:
        return any(session["status"] in ("succeeded", "archived") for session in self._sessions(run["id"]))

    def _sessions(self, run_id: str) -> Sequence[Mapping[str, Any]]:
        """The sessions of a run, whole ones first."""
        order = {"succeeded": 0, "archived": 1, "running": 2, "draft": 3}
        found = self._remote.items(f"/runs/{run_id}/capture-sessions")
        return sorted(found, key=lambda session: order.get(session["status"], 9))

    def _running_session(self, run: Mapping[str, Any], recording: Recording) -> Mapping[str, Any]:
        """The session to record in, with all sensors taking part; or a whole one, where only its run goes on."""
        run_id = run["id"]
        sessions = self._sessions(run_id)
        existing = [session for session in sessions if session["status"] != "failed"]
        if existing and existing[0]["status"] in ("succeeded", "archived", "running"):
            return existing[0]
        for channel in recording.channels:
            self._remote.put(f"/runs/{run_id}/sensors/{self._sensors.id_of(channel)}")
        self._remote.act(f"/runs/{run_id}/start")
        if existing:
            return self._remote.act(f"/capture-sessions/{existing[0]['id']}/start")
        return self._remote.create(
            f"/runs/{run_id}/capture-sessions",
            {"start": True},
            identity=f"after {len(sessions)} failed ones",
            still=lambda session: session["status"] == "running",
        )

    def _send(self, recording: Recording, session_id: str) -> None:
        clock = _Clock(self._speed, self._recorded_until(session_id)) if self._speed else None
        pieces = _whole_pieces(recording) if self._speed is None else _timed_pieces(recording, self._speed)
        stop = threading.Event()
        with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="replay") as pool:
            pending: set[Future[None]] = set()
            try:
                for piece in pieces:
                    if clock is not None:
                        clock.wait_for(piece.due)
                    done, pending = _settled(pending, IN_FLIGHT)
                    for future in done:
                        future.result()
                    pending.add(pool.submit(self._send_piece, piece, session_id, stop))
                for future in wait(pending).done:
                    future.result()
            except BaseException:
                stop.set()
                raise

    def _send_piece(self, piece: Piece, session_id: str, stop: threading.Event) -> None:
        if stop.is_set():
            return
        body = msgspec.json.encode(
            {
                "capture_session_id": session_id,
                "columns": [
                    {
                        "signal": piece.channel.signal,
                        "timestamps": piece.timestamps.tolist(),
                        "values": piece.values.tolist(),
                    }
                ],
            }
        )
        answer = self._remote.send_readings(self._sensors.token_of(piece.channel), body)
        if answer["accepted"] != len(piece.timestamps):
            raise CommandFailed(f"the service kept {answer['accepted']} of {len(piece.timestamps)} readings")
        self._progress(len(piece.timestamps))

    def _recorded_until(self, session_id: str) -> int:
        """How far an earlier attempt came; what lies before that is sent without waiting."""
        from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - only a replay at a speed goes by the clock

        stamps = [
            datetime.fromisoformat(series["last_timestamp"])
            for series in self._remote.get(f"/capture-sessions/{session_id}/series")["items"]
            if series.get("last_timestamp")
        ]
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return max(((stamp - epoch) // timedelta(microseconds=1) for stamp in stamps), default=-(2**63))


class _Clock:
    """Maps times of a recording to now: the first reading that was not recorded yet is due at once."""

    def __init__(self, speed: float, recorded_until: int) -> None:
        self._speed = speed
        self._recorded_until = recorded_until
        self._origin: tuple[float, int] | None = None

    def wait_for(self, due: int) -> None:
        if due <= self._recorded_until:
            return
        if self._origin is None:
            self._origin = time.monotonic(), due
        began, first = self._origin
        time.sleep(max(0.0, began + (due - first) / _MICROSECONDS / self._speed - time.monotonic()))


def _settled(pending: set[Future[None]], most: int) -> tuple[set[Future[None]], set[Future[None]]]:
    """Those that are done, and fewer than `most` that are not."""
    done = {future for future in pending if future.done()}
    pending = pending - done
    if len(pending) >= most:
        more, pending = wait(pending, return_when=FIRST_COMPLETED)
        done |= more
    return done, pending


def _whole_pieces(recording: Recording) -> Iterator[Piece]:
    """Full batches in the order of the file, all channels side by side."""
    for start in range(0, max(map(len, recording.channels)), BATCH):
        for channel in recording.channels:
            if start < len(channel):
                end = start + BATCH
                yield Piece(channel, channel.timestamps[start:end], channel.values[start:end])


def _timed_pieces(recording: Recording, speed: float) -> Iterator[Piece]:
    """What was recorded in each tick, in the order of time. Ticks begin at fixed times, so that batches repeat."""
    tick = max(1, round(TICK * speed * _MICROSECONDS))
    pieces: list[Piece] = []
    for channel in recording.channels:
        order = sorted(range(len(channel)), key=channel.timestamps.__getitem__)
        start = 0
        for end in range(1, len(order) + 1):
            if end == len(order) or (
                channel.timestamps[order[end]] // tick != channel.timestamps[order[start]] // tick
                or end - start == BATCH
            ):
                places = order[start:end]
                stamps = array("q", [channel.timestamps[place] for place in places])
                pieces.append(Piece(channel, stamps, array("d", [channel.values[place] for place in places])))
                start = end
    return iter(sorted(pieces, key=lambda piece: piece.due))
