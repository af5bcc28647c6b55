"""What decides on batches of many sensors, as a function.

Revision ID: 0019
Revises: 0018
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it."""
    run_sql("0019_batches_that_hold.sql")
