"""Signs of life of sensors, by the minute.

Revision ID: 0005
Revises: 0004
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create their table."""
    run_sql("0005_signs_of_life.sql")
