"""Artifacts of runs.

Revision ID: 0004
Revises: 0003
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create their table."""
    run_sql("0004_artifacts.sql")
