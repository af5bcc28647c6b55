"""The `replay` command: its arguments, its progress bar and its table."""

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from experiment_http.cli.failure import CommandFailed, UsageError
from experiment_http.cli.local import DATA_DIR, TOKEN_VARIABLE, existing_keys
from experiment_http.cli.replay.recording import Recording, read_recording

if TYPE_CHECKING:
    from experiment_http.cli.remote import Remote
    from experiment_http.cli.replay.player import Played

URL = "http://127.0.0.1:8000"
AS_FAST_AS_POSSIBLE = "max"
LOCAL_TOKEN_EXPIRES = 7 * 86_400.0
_DELIMITER_NAMES = {"tab": "\t", "\\t": "\t"}


def replay(
    *files: Path,
    project: str,
    experiment: str,
    url: str = URL,
    token: str | None = None,
    time_column: str | None = None,
    delimiter: str | None = None,
    columns: str | None = None,
    speed: str = AS_FAST_AS_POSSIBLE,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), show_default=False)] = False,
) -> None:
    """Send recorded CSV files through the public API as live telemetry.

    Each file becomes one run with one capture session, each column one sensor; then the service's own count, minimum,
    maximum and mean of each signal are shown. A replay that was broken off is completed by the same command, and a
    complete one changes nothing.

    Parameters
    ----------
    files
        CSV files in UTF-8 with a header. Times without a zone are UTC. An empty cell or nan is a gap.
    project
        The name of a project of yours; it is made where there is none.
    experiment
        The name of an experiment in it; it is made where there is none.
    url
        Where the service is.
    token
        Your token; EXPERIMENT_TOKEN otherwise, or one made with the keys in .experiment-service.
    time_column
        The column of the times; otherwise the first that holds times: ISO 8601, or counts since 1970.
    delimiter
        What separates cells, `tab` for a tab; otherwise it is found out.
    columns
        The columns to replay, separated by commas; otherwise all that hold numbers.
    speed
        How many times faster than it was recorded, or max: as fast as the service takes it.
    as_json
        Print the table as JSON.
    """
    if not files:
        raise UsageError("name at least one file to replay")
    factor = _speed(speed)
    chosen = _column_names(columns)
    separator = _delimiter(delimiter)
    recordings = [read_recording(file, time_column=time_column, delimiter=separator, columns=chosen) for file in files]
    # An HTTP client takes a while to import, and what is wrong with the files can be told without one.
    from experiment_http.cli.remote import Remote  # noqa: PLC0415
    from experiment_http.cli.replay.player import Player  # noqa: PLC0415
    from experiment_http.cli.replay.rig import Sensors, find_experiment, find_project  # noqa: PLC0415
    from experiment_http.cli.replay.token_file import TokenFile, token_file  # noqa: PLC0415

    with Remote(url, _token(token)) as remote:
        project_id = find_project(remote, project)["id"]
        experiment_id = find_experiment(remote, project_id, experiment)["id"]
        sensors = Sensors(remote, project_id, TokenFile(token_file()))
        with _progress(recordings) as advance:
            player = Player(remote, experiment_id, sensors, factor, advance)
            played = [player.play(recording) for recording in recordings]
        if sensors.without_physical:
            print("raw values only: you may not publish conversion profiles in this project", file=sys.stderr)
        _report(remote, played, as_json=as_json)


def _speed(text: str) -> float | None:
    if text == AS_FAST_AS_POSSIBLE:
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise UsageError(f"--speed must be a number above 0, or {AS_FAST_AS_POSSIBLE}, not {text!r}")
    return speed


def _delimiter(text: str | None) -> str | None:
    if text is None:
        return None
    delimiter = _DELIMITER_NAMES.get(text, text)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UsageError(f"--delimiter must be one character, or tab, not {text!r}")
    return delimiter


def _column_names(text: str | None) -> Sequence[str] | None:
    """The names in a list that is separated by commas; a name that has one can be quoted, as in CSV."""
    if text is None:
        return None
    names = [name.strip() for row in csv.reader([text], skipinitialspace=True) for name in row]
    if not names or not all(names):
        raise UsageError(f"--columns must be names separated by commas, not {text!r}")
    return list(dict.fromkeys(names))


def _token(given: str | None) -> str:
    found = given or os.environ.get(TOKEN_VARIABLE)
    if found:
        return found.strip()
    if not DATA_DIR.is_dir():
        raise CommandFailed(f"a token is needed: --token, or {TOKEN_VARIABLE}, or the keys of `up` in {DATA_DIR}")
    import getpass  # noqa: PLC0415

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        user = "local"
    return existing_keys(DATA_DIR).issue(user, LOCAL_TOKEN_EXPIRES)


@contextmanager
def _progress(recordings: Sequence[Recording]) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _readings: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    total = sum(map(len, recordings))
    name = recordings[0].name if len(recordings) == 1 else f"{len(recordings)} files"
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda readings: bar.advance(task, readings)


def _report(remote: "Remote", played: Sequence["Played"], *, as_json: bool) -> None:
    """What the service answers about each run."""
    runs = [
        {
            "file": one.recording.name,
            "run_id": one.run_id,
            "capture_session_id": one.capture_session_id,
            "items": _in_order_of_columns(one.recording, remote.get(f"/runs/{one.run_id}/metrics")["items"]),
        }
        for one in played
    ]
    if as_json:
        print(json.dumps({"runs": runs}, ensure_ascii=False, indent=2))
    else:
        _print_tables(runs)


def _in_order_of_columns(recording: Recording, items: Sequence[Any]) -> list[Any]:
    places = {channel.signal: place for place, channel in enumerate(recording.channels)}
    return sorted(items, key=lambda item: places.get(item["signal"], len(places)))


def _print_tables(runs: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    numbers = ("count", "min", "max", "mean")
    tables: list[Table] = []
    for run in runs:
        table = Table(title=f"{run['file']}   run {run['run_id']}", title_justify="left", title_style="bold")
        table.add_column("signal", overflow="fold")
        table.add_column("layer")
        for name in numbers:
            table.add_column(name, justify="right", no_wrap=True)
        for item in run["items"]:
            table.add_row(item["signal"], item["layer"], *(_shown(item[name]) for name in numbers))
        tables.append(table)
    console = Console()
    if not console.is_terminal:
        # In a file or a pipe there is no width to keep to.
        endless = Console(width=10_000)
        titles = [len(str(table.title)) for table in tables]
        console = Console(width=max(*titles, *(endless.measure(table).maximum for table in tables)))
    for table in tables:
        console.print(table)


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.9g}"
