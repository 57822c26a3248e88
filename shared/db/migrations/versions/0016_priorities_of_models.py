"""How much a model matters, where somebody said so"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("priority", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("models", "priority")
