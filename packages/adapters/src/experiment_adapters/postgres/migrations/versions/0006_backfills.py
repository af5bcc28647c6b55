"""Backfills, and the layers they make.

Revision ID: 0006
Revises: 0005
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create their tables."""
    run_sql("0006_backfills.sql")
