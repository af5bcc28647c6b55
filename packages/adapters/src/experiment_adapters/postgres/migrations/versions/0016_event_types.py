"""Events by their type.

Revision ID: 0016
Revises: 0015
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    run_sql("0016_event_types.sql")
