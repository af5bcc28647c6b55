"""Scalar metrics of runs.

Revision ID: 0007
Revises: 0006
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create their tables."""
    run_sql("0007_scalar_metrics.sql")
