"""What both programs wire at start: what they need is named where it is missing, and checked while they run."""

import asyncio
from pathlib import Path

import pytest

from experiment_adapters.compose import authenticator, composed, spool
from experiment_adapters.settings import Settings, SettingsError
from experiment_domain import System
from experiment_domain.exports.files import NoExportFiles
from experiment_domain.kernel.errors import Unavailable

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


def test_what_is_missing_is_named():
    nothing = Settings.from_environment({})
    with pytest.raises(SettingsError, match=r"^EXPERIMENT_DATABASE_URL is not set: .*`experiment-service up`"):
        composed(nothing)
    with pytest.raises(
        SettingsError, match=r"^EXPERIMENT_JWT_ISSUER is not set: .*JWT_KEYS or EXPERIMENT_JWT_JWKS_URL"
    ):
        authenticator(nothing)
    with pytest.raises(SettingsError, match=r"^EXPERIMENT_SECRET_KEY is not set: .*`openssl rand -hex 32` makes one"):
        nothing.need_secret_key()


def test_it_is_said_what_names_a_place_for_exports():
    files = composed(Settings.from_environment({"EXPERIMENT_DATABASE_URL": NOWHERE})).services.export_files
    assert isinstance(files, NoExportFiles)
    assert files.nowhere().detail.endswith("no place to keep exports in. EXPERIMENT_EXPORTS_URL names one.")


async def test_the_database_is_there_while_it_is_open(runner: asyncio.Runner, postgres_url: str):
    composition = composed(Settings.from_environment({"EXPERIMENT_DATABASE_URL": postgres_url}))
    with pytest.raises(RuntimeError, match="has not been opened"):
        composition.database.begin(System())
    async with composition.database.opened():
        assert list(composition.database.checks) == ["database"]
        await composition.database.checks["database"]()
        async with composition.services.begin(System()) as work:
            assert await work.idempotency.purge(composition.services.clock.now()) == 0


def test_a_spool_that_cannot_be_used_is_named(tmp_path: Path):
    assert spool(Settings.from_environment({})) is None
    usable = spool(Settings.from_environment({"EXPERIMENT_SPOOL_DIR": str(tmp_path / "spool")}))
    assert usable is not None
    usable.close()
    (tmp_path / "file").write_text("")
    for path, reason in ((tmp_path / "file", "File exists"), (Path("/proc/spool"), "No such file or directory")):
        with pytest.raises(SettingsError, match=rf"^EXPERIMENT_SPOOL_DIR cannot be used: {reason} \({path}\)$"):
            spool(Settings.from_environment({"EXPERIMENT_SPOOL_DIR": str(path)}))


@pytest.mark.parametrize("away", ["database", "replica"])
async def test_the_replica_is_a_dependency_of_its_own(runner: asyncio.Runner, postgres_url: str, away: str):
    urls = {"database": postgres_url, "replica": postgres_url, away: NOWHERE}
    settings = Settings.from_environment(
        {
            "EXPERIMENT_DATABASE_URL": urls["database"],
            "EXPERIMENT_DATABASE_READ_URL": urls["replica"],
            "EXPERIMENT_DATABASE_POOL_TIMEOUT": "0.5",
        }
    )
    composition = composed(settings)
    async with composition.database.opened():
        checks = composition.database.checks
        assert set(checks) == {"database", "replica"}
        for name, check in checks.items():
            if name == away:
                with pytest.raises(Unavailable, match="got no connection to its database"):
                    await check()
            else:
                await check()
