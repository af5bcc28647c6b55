"""Every merge leaves a trace in the row of its series.

Revision ID: 0022
Revises: 0021
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Note merges of chunks that name no transaction, too."""
    run_sql("0022_merges.sql")
