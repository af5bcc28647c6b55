"""Where replay keeps the tokens of its sensors: a service shows each of them only once.

The file is private. Losing it does no harm: who owns the project gets new tokens.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from experiment_http.cli.failure import CommandFailed


def token_file() -> Path:
    """Its place: after the XDG Base Directory Specification, among the state of programs."""
    given = os.environ.get("XDG_STATE_HOME", "")
    state = Path(given) if given.startswith("/") else Path("~/.local/state").expanduser()
    return state / "experiment-service" / "replay-tokens.json"


class TokenFile:
    """Tokens by sensor id; ids are unique wherever the service is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Mapping[str, str]:
        """The tokens known so far; none where the file is missing or damaged."""
        try:
            kept = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            return {}
        except OSError as error:
            raise CommandFailed(f"cannot read {self._path}: {error.strerror}") from error
        return {str(sensor_id): str(token) for sensor_id, token in kept.items()} if isinstance(kept, dict) else {}

    def keep(self, tokens: Mapping[str, str]) -> None:
        """Add tokens to the file, beside what others add at the same time."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                self._write({**self.load(), **tokens})
        except OSError as error:
            raise CommandFailed(f"cannot keep the sensors' tokens in {self._path}: {error.strerror}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, tokens: Mapping[str, str]) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # mode 0600
        with os.fdopen(descriptor, "w") as file:
            json.dump(tokens, file)
        Path(name).replace(self._path)
