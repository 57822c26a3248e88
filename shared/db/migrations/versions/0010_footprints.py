"""What models take in memory, and how devices are"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "footprints",
        sa.Column("model_id", sa.String(96), primary_key=True),
        sa.Column("revision", sa.String(64), primary_key=True),
        sa.Column("runtime", sa.String(32), primary_key=True),
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("context_length", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("predicted_bytes", sa.BigInteger(), nullable=False),
        sa.Column("load_seconds", sa.Float(), nullable=False),
        sa.Column("measured_at", sa.Float(53), nullable=False),
    )
    op.add_column("devices", sa.Column("details", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("devices", "details")
    op.drop_table("footprints")
