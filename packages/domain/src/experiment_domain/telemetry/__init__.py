"""Telemetry: batches of readings on their way in, series and their statistics on their way out."""
