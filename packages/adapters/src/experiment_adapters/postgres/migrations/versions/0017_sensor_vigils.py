"""Vigils of sensors.

Revision ID: 0017
Revises: 0016
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create their table."""
    run_sql("0017_sensor_vigils.sql")
