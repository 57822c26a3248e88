"""Who changed what, in rows that stay as they are"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

KEPT = "rows of the audit log do not change"
ARCHIVED = (
    "EXISTS (SELECT 1 FROM audit_log WHERE action = 'audit.archive' AND CAST(target AS BIGINT) >= OLD.seq "
    "AND seq > OLD.seq)"
)


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.String(255), nullable=True),
        sa.Column("origin", sa.String(32), nullable=False),
        sa.Column("role", sa.String(32), nullable=True),
        sa.Column("key", sa.String(16), nullable=True),
        sa.Column("address", sa.String(64), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("ix_audit_log_target", "audit_log", ["target", "seq"])
    op.create_index("ix_audit_log_action", "audit_log", ["action", "seq"])
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            f"CREATE TRIGGER audit_log_stays BEFORE UPDATE ON audit_log BEGIN SELECT RAISE(ABORT, '{KEPT}'); END"
        )
        op.execute(
            f"CREATE TRIGGER audit_log_kept BEFORE DELETE ON audit_log WHEN NOT {ARCHIVED} "
            f"BEGIN SELECT RAISE(ABORT, '{KEPT}'); END"
        )
    else:
        op.execute(f"""
            CREATE FUNCTION audit_log_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF TG_OP = 'UPDATE' OR NOT {ARCHIVED} THEN RAISE EXCEPTION '{KEPT}'; END IF;
                RETURN OLD;
            END $$""")
        op.execute(
            "CREATE TRIGGER audit_log_kept BEFORE UPDATE OR DELETE ON audit_log "
            "FOR EACH ROW EXECUTE FUNCTION audit_log_kept()"
        )


def downgrade() -> None:
    op.drop_table("audit_log")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_log_kept()")
