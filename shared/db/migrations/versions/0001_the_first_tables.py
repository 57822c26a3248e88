"""The first tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("memory_total", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("unique_key", sa.String(), nullable=True),
        sa.Column("lane", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=True),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("desired", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("ticket", sa.Integer(), nullable=False),
        sa.Column("sent_at", sa.Float(precision=53), nullable=True),
        sa.Column("not_before", sa.Float(precision=53), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_until", sa.Float(precision=53), nullable=True),
        sa.Column("phase", sa.String(), nullable=True),
        sa.Column("progress", sa.Float(), nullable=True),
        sa.Column("bytes_done", sa.BigInteger(), nullable=True),
        sa.Column("bytes_total", sa.BigInteger(), nullable=True),
        sa.Column("bytes_per_second", sa.Float(), nullable=True),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("started_at", sa.Float(precision=53), nullable=True),
        sa.Column("finished_at", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_jobs_created", "jobs", ["created_at", "id"], unique=False)
    op.create_index("ix_jobs_kind", "jobs", ["kind"], unique=False)
    op.create_index(
        "ix_jobs_live_key",
        "jobs",
        ["unique_key"],
        unique=True,
        sqlite_where=sa.text("state IN ('queued', 'running', 'paused')"),
        postgresql_where=sa.text("state IN ('queued', 'running', 'paused')"),
    )
    op.create_index("ix_jobs_model_id", "jobs", ["model_id"], unique=False)
    op.create_index("ix_jobs_state", "jobs", ["state", "lease_until"], unique=False)
    op.create_index(
        "ix_jobs_unsent",
        "jobs",
        ["not_before"],
        unique=False,
        sqlite_where=sa.text("state = 'queued' AND sent_at IS NULL"),
        postgresql_where=sa.text("state = 'queued' AND sent_at IS NULL"),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String(96), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("source_url", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=True),
        sa.Column("file_size", sa.BigInteger(), nullable=True),
        sa.Column("checksum", sa.String(), nullable=True),
        sa.Column("requirements", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("updated_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_models_lower_id", "models", [sa.text("lower(id)")], unique=True)
    op.create_index("ix_models_type", "models", ["type"], unique=False)
    op.create_table(
        "residencies",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("model_type", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("runtime", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("url", sa.String(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("load_seconds", sa.Float(), nullable=True),
        sa.Column("started_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_residencies_active",
        "residencies",
        ["model_type"],
        unique=True,
        sqlite_where=sa.text("active"),
        postgresql_where=sa.text("active"),
    )
    op.create_index("ix_residencies_device", "residencies", ["device"], unique=False)
    op.create_index("ix_residencies_model_id", "residencies", ["model_id"], unique=False)
    op.create_index("ix_residencies_state", "residencies", ["state"], unique=False)
    op.create_table(
        "schedule_runs",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("slot", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ran_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("name", "slot"),
    )
    op.create_table(
        "installations",
        sa.Column("model_id", sa.String(96), nullable=False),
        sa.Column("model_type", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("integrity", sa.Float(), nullable=False),
        sa.Column("problems", sa.JSON(), nullable=False),
        sa.Column("published_at", sa.Float(precision=53), nullable=False),
        sa.Column("verified_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["models.id"],
        ),
        sa.PrimaryKeyConstraint("model_id"),
    )


def downgrade() -> None:
    op.drop_table("installations")
    op.drop_table("schedule_runs")
    op.drop_index("ix_residencies_state", table_name="residencies")
    op.drop_index("ix_residencies_model_id", table_name="residencies")
    op.drop_index("ix_residencies_device", table_name="residencies")
    op.drop_index(
        "ix_residencies_active",
        table_name="residencies",
        sqlite_where=sa.text("active"),
        postgresql_where=sa.text("active"),
    )
    op.drop_table("residencies")
    op.drop_index("ix_models_lower_id", table_name="models")
    op.drop_index("ix_models_type", table_name="models")
    op.drop_table("models")
    op.drop_index(
        "ix_jobs_unsent",
        table_name="jobs",
        sqlite_where=sa.text("state = 'queued' AND sent_at IS NULL"),
        postgresql_where=sa.text("state = 'queued' AND sent_at IS NULL"),
    )
    op.drop_index("ix_jobs_state", table_name="jobs")
    op.drop_index("ix_jobs_model_id", table_name="jobs")
    op.drop_index(
        "ix_jobs_live_key",
        table_name="jobs",
        sqlite_where=sa.text("state IN ('queued', 'running', 'paused')"),
        postgresql_where=sa.text("state IN ('queued', 'running', 'paused')"),
    )
    op.drop_index("ix_jobs_kind", table_name="jobs")
    op.drop_index("ix_jobs_created", table_name="jobs")
    op.drop_table("jobs")
    op.drop_table("devices")
