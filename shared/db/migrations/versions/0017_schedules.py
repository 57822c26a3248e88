"""What people want of schedules, and what came of each turn"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("enabled", sa.Boolean(), nullable=True),
        sa.Column("every", sa.Float(53), nullable=True),
        sa.Column("asked_at", sa.Float(53), nullable=True),
    )
    op.add_column("schedule_runs", sa.Column("finished_at", sa.Float(53), nullable=True))
    op.add_column("schedule_runs", sa.Column("outcome", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("schedule_runs", "outcome")
    op.drop_column("schedule_runs", "finished_at")
    op.drop_table("schedules")
