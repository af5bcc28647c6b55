"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from experiment_adapters.postgres.migrations import run_sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Say here what changes."""
    run_sql("${up_revision}_name.sql")
