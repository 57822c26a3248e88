"""Kept revisions, updates, scrubs in progress, and what a store holds"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NEW = ("previous_revision", "latest_revision", "update_checked_at", "scrubbed_to")


def upgrade() -> None:
    with op.batch_alter_table("installations") as installations:
        for name in NEW:
            kind = sa.Float(precision=53) if name.endswith("_at") else sa.String()
            installations.add_column(sa.Column(name, kind, nullable=True))
    op.create_table(
        "store_reports",
        sa.Column("store", sa.String(64), primary_key=True),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("there", sa.Boolean(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("measured_at", sa.Float(precision=53), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("store_reports")
    with op.batch_alter_table("installations") as installations:
        for name in NEW:
            installations.drop_column(name)
