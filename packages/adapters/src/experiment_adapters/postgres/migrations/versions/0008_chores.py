"""Chores.

Revision ID: 0008
Revises: 0007
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create their table."""
    run_sql("0008_chores.sql")
