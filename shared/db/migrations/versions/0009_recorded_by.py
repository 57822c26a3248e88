"""Which job an installation is from"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("installations", sa.Column("recorded_by", sa.String(128), nullable=True))


def downgrade() -> None:
    op.drop_column("installations", "recorded_by")
