"""Compaction: few sorted chunks, and marks in the place of receipts.

Revision ID: 0011
Revises: 0010
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns, and tables for what is aside."""
    run_sql("0011_compaction.sql")
