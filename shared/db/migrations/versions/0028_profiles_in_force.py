"""What a profile said when it was applied"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("profiles", sa.Column("applied", sa.JSON(), nullable=True))
    op.execute("UPDATE profiles SET applied = content WHERE applied_at IS NOT NULL")


def downgrade() -> None:
    op.drop_column("profiles", "applied")
