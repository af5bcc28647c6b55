"""How far the relays have come.

Revision ID: 0010
Revises: 0009
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create their table."""
    run_sql("0010_relays.sql")
