"""How models are"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_health",
        sa.Column("model_id", sa.String(96), primary_key=True),
        sa.Column("published_at", sa.Float(53), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("since", sa.Float(53), nullable=False),
        sa.Column("told", sa.String(), nullable=True),
        sa.Column("outcomes", sa.JSON(), nullable=False),
        sa.Column("unsettled", sa.Boolean(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("checked_at", sa.Float(53), nullable=False),
        sa.Column("due", sa.Boolean(), nullable=False),
        sa.Column("live_at", sa.Float(53), nullable=True),
        sa.Column("checked_by", sa.String(128), nullable=True),
        sa.Column("measured_on", sa.String(), nullable=True),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.Column("latest", sa.JSON(), nullable=False),
        sa.Column("loads", sa.JSON(), nullable=False),
        sa.Column("loaded_as", sa.String(36), nullable=True),
    )


def downgrade() -> None:
    op.drop_table("model_health")
