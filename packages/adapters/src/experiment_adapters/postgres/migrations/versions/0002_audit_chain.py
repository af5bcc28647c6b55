"""The audit log becomes a hash chain, and events are written once.

Revision ID: 0002
Revises: 0001
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Link what is there, and refuse changes of events."""
    run_sql("0002_audit_chain.sql")
