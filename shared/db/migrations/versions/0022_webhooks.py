"""Webhooks, and what their receivers are to be told: written by triggers, in the transaction of what happened"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

NOW = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
DIFFERS = {"sqlite": "IS NOT", "postgresql": "IS DISTINCT FROM"}
JOB = "NEW.state IN ('succeeded', 'failed', 'cancelled', 'rejected') AND NEW.kind <> 'webhook.deliver'"
JOB_DATA = {
    "jobId": "id", "kind": "kind", "status": "state", "modelId": "model_id", "origin": "origin", "attempt": "attempt",
    "error": "error",
}  # fmt: skip
MODEL = (
    "'model.' || CASE {row}.state WHEN 'published' THEN 'available' WHEN 'corrupt' THEN 'corrupted' "
    "WHEN 'gone' THEN 'missing' ELSE 'unavailable' END"
)
MODEL_DATA = {"modelId": "model_id", "revision": "revision", "integrity": "integrity"}
RESIDENCY_DATA = {"residencyId": "id", "modelId": "model_id", "modelType": "model_type", "device": "device"}
HEALTH_DATA = {"modelId": "model_id", "health": "told", "reasons": "reasons"}

# name, table, when, columns, condition, type, data
WATCHED = (
    ("job_ended", "jobs", "UPDATE", "state", JOB + " AND OLD.state <> NEW.state", "'job.' || NEW.state", JOB_DATA),
    ("job_entered", "jobs", "INSERT", "", JOB, "'job.' || NEW.state", JOB_DATA),
    ("model_entered", "installations", "INSERT", "", "TRUE", MODEL.format(row="NEW"), MODEL_DATA),
    (
        "model_changed", "installations", "UPDATE", "state, revision",
        "OLD.state <> NEW.state OR OLD.revision <> NEW.revision", MODEL.format(row="NEW"), MODEL_DATA,
    ),
    ("model_removed", "installations", "DELETE", "", "TRUE", "'model.removed'", MODEL_DATA),
    (
        "model_outdated", "installations", "UPDATE", "latest_revision",
        "NEW.latest_revision <> NEW.revision AND OLD.latest_revision {differs} NEW.latest_revision",
        "'model.update_available'", MODEL_DATA | {"latestRevision": "latest_revision"},
    ),
    ("residency_started", "residencies", "INSERT", "", "TRUE", "'residency.' || NEW.state", RESIDENCY_DATA),
    (
        "residency_moved", "residencies", "UPDATE", "state", "OLD.state <> NEW.state", "'residency.' || NEW.state",
        RESIDENCY_DATA,
    ),
    (
        "residency_serves", "residencies", "UPDATE", "active", "NEW.active AND NOT OLD.active", "'residency.active'",
        RESIDENCY_DATA,
    ),
    (
        "health_told", "model_health", "UPDATE", "told",
        "NEW.told <> 'unknown' AND OLD.told {differs} NEW.told AND NOT (OLD.told IS NULL AND NEW.told = 'healthy')",
        "'health.' || NEW.told", HEALTH_DATA,
    ),
    (
        "health_first", "model_health", "INSERT", "", "NEW.told IN ('unhealthy', 'corrupted')",
        "'health.' || NEW.told", HEALTH_DATA,
    ),
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("wants", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_because", sa.String(), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("secret_check", sa.String(32), nullable=False),
        sa.Column("rotated_at", sa.Float(53), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("held_until", sa.Float(53), nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
    )
    op.create_table(
        "webhook_events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("model_id", sa.String(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("webhook_id", sa.String(32), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("model_id", sa.String(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float(53), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("since", sa.Float(53), nullable=False),
        sa.Column("ended_at", sa.Float(53), nullable=True),
    )
    waits = sa.text("state = 'pending'")
    op.create_index(
        "ix_webhook_deliveries_pending", "webhook_deliveries", ["webhook_id", "next_at"],
        sqlite_where=waits, postgresql_where=waits,
    )  # fmt: skip
    op.create_index("ix_webhook_deliveries_created", "webhook_deliveries", ["webhook_id", "created_at", "id"])
    op.create_index("ix_webhook_deliveries_ended", "webhook_deliveries", ["state", "ended_at"])
    for each in WATCHED:
        _watch(*each)


def _watch(name: str, table: str, when: str, columns: str, condition: str, type_: str, data: dict[str, str]) -> None:
    """Have a table's changes written down as long as somebody wants to know."""
    dialect = op.get_bind().dialect.name
    row = "OLD" if when == "DELETE" else "NEW"
    condition = condition.format(differs=DIFFERS[dialect])
    parsed = ("error", "reasons") if dialect == "sqlite" else ()
    pairs = ", ".join(
        f"'{key}', json({row}.{column})" if column in parsed else f"'{key}', {row}.{column}"
        for key, column in data.items()
    )
    build = "json_object" if dialect == "sqlite" else "json_build_object"
    family = f"{name.partition('_')[0]}.*"
    likes = " OR ".join(f"wants LIKE {each}" for each in ("'%,*,%'", f"'%,{family},%'", f"'%,' || {type_} || ',%'"))
    wanted = f"EXISTS (SELECT 1 FROM webhooks WHERE enabled AND ({likes}))"  # noqa: S608 - all of it stands in this file
    insert = (
        f"INSERT INTO webhook_events (type, model_id, data, at) SELECT {type_}, {row}.model_id, {build}({pairs}), "
        f"{NOW[dialect]} WHERE {wanted};"
    )
    what = f"{when} OF {columns}" if columns else when
    if dialect == "sqlite":
        op.execute(f"CREATE TRIGGER webhooks_{name} AFTER {what} ON {table} WHEN {condition} BEGIN {insert} END")
        return
    op.execute(
        f"CREATE FUNCTION webhooks_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {insert} RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE TRIGGER webhooks_{name} AFTER {what} ON {table} FOR EACH ROW WHEN ({condition}) "
        f"EXECUTE FUNCTION webhooks_{name}()"
    )


def downgrade() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    for name, table, *_ in WATCHED:
        op.execute(f"DROP TRIGGER webhooks_{name}" + (f" ON {table}" if postgres else ""))
        if postgres:
            op.execute(f"DROP FUNCTION webhooks_{name}()")
    for table in ("webhook_deliveries", "webhook_events", "webhooks"):
        op.drop_table(table)
