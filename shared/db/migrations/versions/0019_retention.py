"""The retention policy, and what cleanups do"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "retention",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.Column("changed_at", sa.Float(53), nullable=False),
    )
    op.create_table(
        "cleanup_steps",
        sa.Column("job_id", sa.String(128), primary_key=True),
        sa.Column("place", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("model_id", sa.String(96), nullable=False),
        sa.Column("model_type", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("came_at", sa.Float(53), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("promised", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("revisions", sa.JSON(), nullable=False),
        sa.Column("memo", sa.JSON(), nullable=False),
        sa.Column("freed", sa.BigInteger(), nullable=True),
        sa.Column("entries", sa.JSON(), nullable=False),
        sa.Column("told", sa.JSON(), nullable=False),
    )
    op.create_index("ix_cleanup_steps_state", "cleanup_steps", ["state"])


def downgrade() -> None:
    op.drop_table("cleanup_steps")
    op.drop_table("retention")
