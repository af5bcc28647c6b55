"""Every filter of a list of runs finds an index.

Revision ID: 0003
Revises: 0002
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    run_sql("0003_run_filters.sql")
