"""Files that nobody told the end of"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, column in (("installations", "unverified"), ("trust_grants", "allow_unverified")):
        op.add_column(table, sa.Column(column, sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("trust_grants", "allow_unverified")
    op.drop_column("installations", "unverified")
