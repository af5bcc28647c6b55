"""Telemetry in PostgreSQL: columnar chunks, one row per series and batch."""
