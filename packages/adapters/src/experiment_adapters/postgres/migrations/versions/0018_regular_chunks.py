"""Chunks of regular readings, and what each of them no longer writes to.

Revision ID: 0018
Revises: 0017
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let go of two foreign keys, and say how timestamps are kept."""
    run_sql("0018_regular_chunks.sql")
