"""Tiers, thinking, aliases and modes, bases of adapters, and what sources said"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

COLUMNS: dict[str, tuple[Any, Any]] = {
    "tier": (sa.String(16), None),
    "tier_set": (sa.Boolean(), sa.false()),
    "thinking": (sa.Boolean(), None),
    "thinking_set": (sa.Boolean(), sa.false()),
    "base_model": (sa.String(96), None),
    "from_catalogue": (sa.Boolean(), sa.false()),
    "remote": (sa.JSON(), None),
}
FAST_BELOW, POWERFUL_FROM = 5e9, 20e9


def upgrade() -> None:
    for name, (kind, default) in COLUMNS.items():
        op.add_column("models", sa.Column(name, kind, nullable=default is None, server_default=default))
    op.create_index("ix_models_tier", "models", ["tier", "id"])
    op.create_index("ix_models_counts", "models", ["type", "tier", "enabled"])
    op.create_table(
        "model_names",
        sa.Column("model_id", sa.String(96), primary_key=True),
        sa.Column("name", sa.String(96), primary_key=True),
        sa.Column("is_mode", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_model_names_name", "model_names", ["name"])
    alias = sa.text("NOT is_mode")
    op.create_index(
        "ix_model_names_alias", "model_names", ["name"], unique=True, sqlite_where=alias, postgresql_where=alias
    )
    _note_what_is_known()


def _note_what_is_known() -> None:
    """Tiers of what is installed already; and which entries a catalogue has made."""
    connection = op.get_bind()
    models = sa.table("models", sa.column("id", sa.String), sa.column("tier"), sa.column("from_catalogue", sa.Boolean))
    installations = sa.table("installations", sa.column("model_id", sa.String), sa.column("facts", sa.JSON))
    runs = sa.table("schedule_runs", sa.column("name", sa.String))
    for model_id, facts in connection.execute(sa.select(installations.c.model_id, installations.c.facts)).all():
        if isinstance(parameters := (facts or {}).get("parameterCount"), int) and parameters:
            tier = "fast" if parameters < FAST_BELOW else "balanced" if parameters < POWERFUL_FROM else "powerful"
            connection.execute(sa.update(models).where(models.c.id == model_id).values(tier=tier))
    entered = sa.select(sa.func.substr(runs.c.name, len("catalogue ") + 1)).where(runs.c.name.like("catalogue %"))
    connection.execute(sa.update(models).where(models.c.id.in_(entered)).values(from_catalogue=True))


def downgrade() -> None:
    op.drop_table("model_names")
    op.drop_index("ix_models_counts", "models")
    op.drop_index("ix_models_tier", "models")
    for name in COLUMNS:
        op.drop_column("models", name)
