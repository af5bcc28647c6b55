"""The schema's version is not the application's to change.

Revision ID: 0011
Revises: 0010
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the right to from its role."""
    run_sql("0011_version.sql")
