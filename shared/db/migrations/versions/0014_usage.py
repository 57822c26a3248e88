"""How often models are used"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage_counts",
        sa.Column("model_id", sa.String(96), primary_key=True),
        sa.Column("day", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("length", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("last_used_at", sa.Float(53), nullable=False),
    )
    op.create_index("ix_usage_counts_day", "usage_counts", ["day"])


def downgrade() -> None:
    op.drop_table("usage_counts")
