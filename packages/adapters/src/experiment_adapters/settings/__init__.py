"""The settings: the one place where the environment is read."""

from experiment_adapters.settings.environment import Settings, SettingsError
from experiment_adapters.settings.table import OTEL_MEANING, PREFIX, SETTINGS, Setting, settings_markdown
from experiment_adapters.settings.values import ApiSettings, WorkerSettings

__all__ = [
    "OTEL_MEANING",
    "PREFIX",
    "SETTINGS",
    "ApiSettings",
    "Setting",
    "Settings",
    "SettingsError",
    "WorkerSettings",
    "settings_markdown",
]
