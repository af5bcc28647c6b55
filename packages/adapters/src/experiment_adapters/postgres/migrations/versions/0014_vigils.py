"""Signs of life of runs.

Revision ID: 0014
Revises: 0013
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create their table."""
    run_sql("0014_vigils.sql")
