"""The schema's version is not the application's to change.

Revision ID: 0012
Revises: 0011
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the right to from its role."""
    run_sql("0012_version.sql")
