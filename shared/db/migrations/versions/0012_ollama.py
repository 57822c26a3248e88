"""Models in Ollama's memory"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("residencies", sa.Column("known_as", sa.String(), nullable=True))
    op.add_column("residencies", sa.Column("offloaded_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("residencies", "offloaded_bytes")
    op.drop_column("residencies", "known_as")
