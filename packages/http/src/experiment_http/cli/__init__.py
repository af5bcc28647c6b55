"""The `experiment-service` command: the same on a laptop and on a server."""

import sys
from collections.abc import Sequence

from experiment_http.cli.failure import FAILED, USAGE, CommandFailed, UsageError, one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 where it failed, or 2 where it was called wrongly."""
    # Cyclopts takes a while to import, and what imports this package for a child process needs none of it.
    from cyclopts import CycloptsError  # noqa: PLC0415

    from experiment_http.cli.commands import application  # noqa: PLC0415

    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = application(given)(given, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (CycloptsError, UsageError) as error:
        return _complain(error, USAGE)
    except CommandFailed as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", FAILED)
    except BrokenPipeError:
        # Whoever read the output has enough. Python would complain once more while it flushes.
        sys.stdout = None
        return FAILED
    return code if isinstance(code, int) else 0


def _complain(problem: object, code: int) -> int:
    print(f"experiment-service: {one_line(problem)}", file=sys.stderr)
    return code
