"""The newest job that fetches a model is found without a look at any other"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

FETCHES = sa.text("kind IN ('model.download', 'model.repair', 'model.update')")


def upgrade() -> None:
    op.create_index(
        "ix_jobs_fetches", "jobs", ["model_id", "created_at", "kind", "state"],
        sqlite_where=FETCHES, postgresql_where=FETCHES,
    )  # fmt: skip


def downgrade() -> None:
    op.drop_index("ix_jobs_fetches", "jobs")
