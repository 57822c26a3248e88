"""Which models a cleanup has let go"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("let_go_at", sa.Float(53), nullable=True))


def downgrade() -> None:
    op.drop_column("models", "let_go_at")
