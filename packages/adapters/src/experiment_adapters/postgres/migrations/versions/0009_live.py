"""What flows out live: which transaction received a chunk, and the events of a project in their order.

Revision ID: 0009
Revises: 0008
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Note it from now on."""
    run_sql("0009_live.sql")
