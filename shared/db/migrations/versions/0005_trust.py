"""What people allowed revisions of models to bring along"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "trust_grants",
        sa.Column("model_id", sa.String(96), primary_key=True),
        sa.Column("revision", sa.String(200), primary_key=True),
        sa.Column("allow_pickle", sa.Boolean(), nullable=False),
        sa.Column("allow_remote_code", sa.Boolean(), nullable=False),
        sa.Column("granted_by", sa.String(), nullable=False),
        sa.Column("granted_at", sa.Float(precision=53), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("trust_grants")
