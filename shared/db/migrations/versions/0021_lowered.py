"""What a model in memory has less of, by a step of its fallback"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("residencies", sa.Column("lowered", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("residencies", "lowered")
