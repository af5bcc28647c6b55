"""The data directory of one machine, as far as the command line deals with it: its keys, and what they make."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from experiment_http.cli.failure import CommandFailed

if TYPE_CHECKING:
    from experiment_adapters.auth.local import LocalKeys
    from experiment_adapters.settings import Settings

DATA_DIR = Path(".experiment-service")
TOKEN_VARIABLE = "EXPERIMENT_TOKEN"  # noqa: S105 - where it is found, not what it is
"""A variable of the command line alone: the programs would refuse it as an unknown setting."""


def environment_of_programs() -> dict[str, str]:
    """This process' environment without what is only for the command line."""
    return {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}


def checked_settings() -> "Settings":
    """The settings of the environment, before anything is started with them."""
    from experiment_adapters.settings import Settings, SettingsError  # noqa: PLC0415 - only a call needs them

    try:
        return Settings.from_environment(environment_of_programs())
    except SettingsError as error:
        raise CommandFailed(error) from error


def local_keys(data_dir: Path) -> "LocalKeys":
    """The keys of a data directory that is prepared."""
    from experiment_adapters.auth.local import LocalKeys, LocalKeysError  # noqa: PLC0415

    try:
        return LocalKeys(data_dir)
    except LocalKeysError as error:
        raise CommandFailed(error) from error


def existing_keys(data_dir: Path) -> "LocalKeys":
    """The keys of a data directory that `up` has made; it is never made here."""
    from experiment_adapters.embedded.data_dir import MARKER  # noqa: PLC0415

    try:
        known = (data_dir / MARKER).is_file()
    except OSError as error:
        raise CommandFailed(f"cannot use {data_dir}: {error.strerror}") from error
    if not known:
        raise CommandFailed(f"{data_dir} is not a data directory of experiment-service: `up` makes one")
    return local_keys(data_dir)


def settings_of(keys: "LocalKeys") -> Mapping[str, str]:
    """The keys as the settings through which the programs learn of them; the signing key itself is not among them."""
    import json  # noqa: PLC0415

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    published = [
        {
            "kid": key.kid,
            "alg": key.algorithm,
            "key": key.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        }
        for key in keys.jwt_settings.keys
        if not isinstance(key.key, bytes)
    ]
    return {
        "EXPERIMENT_JWT_ISSUER": keys.jwt_settings.issuer,
        "EXPERIMENT_JWT_AUDIENCE": keys.jwt_settings.audience,
        "EXPERIMENT_JWT_KEYS": json.dumps({"keys": published}),
        "EXPERIMENT_SECRET_KEY": keys.secret_key.hex(),
    }
