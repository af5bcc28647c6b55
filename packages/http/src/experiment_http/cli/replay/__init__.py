"""`replay`: recorded CSV files through the public API, as live telemetry."""

from experiment_http.cli.replay.command import replay

__all__ = ["replay"]
