"""The tables of every noun.

Revision ID: 0001
Revises:
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    run_sql("0001_first.sql")
