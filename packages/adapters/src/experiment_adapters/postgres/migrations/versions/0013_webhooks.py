"""Webhooks.

Revision ID: 0013
Revises: 0012
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create their tables."""
    run_sql("0013_webhooks.sql")
