"""Urgency beside priority, idempotency keys, and indexes for lists of 100,000 jobs"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("urgency", sa.Integer(), nullable=False, server_default="2"))
        jobs.add_column(sa.Column("aged", sa.Boolean(), nullable=False, server_default=sa.false()))
        jobs.add_column(sa.Column("way_made_at", sa.Float(precision=53), nullable=True))
    op.execute("UPDATE jobs SET urgency = priority")
    for name in ("ix_jobs_state", "ix_jobs_kind", "ix_jobs_model_id"):
        op.drop_index(name, "jobs")
    _index("ix_jobs_waiting", ["lane", "urgency", "created_at"], "state = 'queued'")
    _index("ix_jobs_running", ["lease_until"], "state = 'running'")
    op.create_index("ix_jobs_finished", "jobs", ["state", "finished_at"])
    for column in ("state", "kind", "model_id"):
        op.create_index(f"ix_jobs_{column}", "jobs", [column, "created_at", "id"])
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(128), nullable=False),
        sa.Column("created", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_idempotency_keys_job_id", "idempotency_keys", ["job_id"])


def _index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    op.drop_table("idempotency_keys")
    for name in ("waiting", "running", "finished", "state", "kind", "model_id"):
        op.drop_index(f"ix_jobs_{name}", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        for column in ("urgency", "aged", "way_made_at"):
            jobs.drop_column(column)
    op.create_index("ix_jobs_state", "jobs", ["state", "lease_until"])
    op.create_index("ix_jobs_kind", "jobs", ["kind"])
    op.create_index("ix_jobs_model_id", "jobs", ["model_id"])
