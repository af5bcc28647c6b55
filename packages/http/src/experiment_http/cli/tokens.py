"""`token`: a signed token for local use."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.local import DATA_DIR, existing_keys

EXPIRES = 86_400.0


def token(
    *,
    user: str,
    data_dir: Path = DATA_DIR,
    expires: Annotated[float, Parameter(show_default="{:g}".format)] = EXPIRES,
) -> None:
    """Print a signed token for local use, alone on standard output.

    The API that `up` runs on the same data directory accepts it. A user has the roles that projects give; whoever
    creates a project owns it.

    Parameters
    ----------
    user
        Whose token: a name of your choice, which history and audit will show.
    data_dir
        The data directory of `up`, which holds the key.
    expires
        Seconds until it expires.
    """
    from experiment_domain.kernel.errors import Invalid  # noqa: PLC0415 - only a call needs the keys

    keys = existing_keys(data_dir)
    try:
        print(keys.issue(user, expires))
    except Invalid as refusal:
        raise CommandFailed(refusal.detail) from refusal
