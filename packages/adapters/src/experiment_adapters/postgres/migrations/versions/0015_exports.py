"""Exports and their parts.

Revision ID: 0015
Revises: 0014
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create their tables."""
    run_sql("0015_exports.sql")
