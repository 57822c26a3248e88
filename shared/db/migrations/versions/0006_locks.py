"""Files of what is installed, what a lock demands, and the bundle that a model came in"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("installations") as installations:
        installations.add_column(sa.Column("came_from", sa.String(), nullable=True))
    op.create_table(
        "file_lists",
        sa.Column("model_id", sa.String(96), primary_key=True),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
    )
    op.create_table(
        "locked_entries",
        sa.Column("model_id", sa.String(96), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("entry", sa.JSON(), nullable=False),
        sa.Column("applied_at", sa.Float(precision=53), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("locked_entries")
    op.drop_table("file_lists")
    with op.batch_alter_table("installations") as installations:
        installations.drop_column("came_from")
