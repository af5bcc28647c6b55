"""What decides on batches looks them up by their whole keys, whatever plan it has.

Revision ID: 0020
Revises: 0019
"""

from experiment_adapters.postgres.migrations import run_sql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replace it."""
    run_sql("0020_batches_found_by_key.sql")
