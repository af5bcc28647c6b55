"""ANALYZE does not look into readings.

Revision ID: 0021
Revises: 0020
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Have none made."""
    run_sql("0021_no_statistics_of_readings.sql")
