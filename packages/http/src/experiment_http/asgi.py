"""The composition root of the API: settings from the environment, adapters for the ports, and the application."""

import gc
import os
from collections.abc import Mapping

from experiment_adapters.compose import authenticator, composed, spool
from experiment_adapters.logs import configure_logs
from experiment_adapters.settings import Settings
from experiment_http.app import ExperimentApi, create_app
from experiment_http.settings import HttpSettings


def app(environ: Mapping[str, str] | None = None) -> ExperimentApi:
    """The application that the environment describes. Raises `SettingsError`."""
    settings = Settings.from_environment(os.environ if environ is None else environ)
    configure_logs(settings.log)
    composition = composed(settings)
    spooled = spool(settings)
    lifespan = [composition.database.opened()]
    if spooled is not None:
        lifespan.append(spooled.opened())
    application = create_app(
        composition.services,
        authenticator(settings),
        HttpSettings(
            secret_key=settings.need_secret_key(),
            artifact_webhook_secrets=settings.artifact_webhook_secrets,
            trusted_proxies=settings.trusted_proxies,
        ),
        composition.database.checks,
        lifespan=lifespan,
        spool=spooled,
    )
    # What is there by now stays for good: looking through it for garbage would hold up requests, for 0.1 s each time.
    gc.collect()
    gc.freeze()
    return application
