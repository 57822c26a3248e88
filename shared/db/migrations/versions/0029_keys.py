"""Keys of the API, and their names in the audit log"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("start", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("expires_at", sa.Float(53), nullable=True),
        sa.Column("used_at", sa.Float(53), nullable=True),
    )
    if op.get_bind().dialect.name == "postgresql":  # SQLite does not hold texts to a length
        op.alter_column("audit_log", "key", type_=sa.String(80))


def downgrade() -> None:
    op.drop_table("api_keys")
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("audit_log", "key", type_=sa.String(16), postgresql_using="left(key, 16)")
