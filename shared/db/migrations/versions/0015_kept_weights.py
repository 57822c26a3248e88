"""Weights that models keep in the machine's memory while they are awake"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("residencies", sa.Column("kept_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("residencies", "kept_bytes")
