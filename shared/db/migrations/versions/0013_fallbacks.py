"""What a model may fall back to, and what stands in for another"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("fallback", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("residencies", sa.Column("context_length", sa.Integer(), nullable=True))
    op.add_column("residencies", sa.Column("fallback_for", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("residencies", "fallback_for")
    op.drop_column("residencies", "context_length")
    op.drop_column("models", "fallback")
