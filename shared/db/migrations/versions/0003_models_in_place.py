"""Models that others hold: in place in a folder of the user's, or in Ollama"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("holder", sa.String(), nullable=False, server_default="store"),
        sa.Column("owned", sa.Boolean(), nullable=False, server_default="1"),
        sa.Column("facts", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("seen", sa.JSON(), nullable=True),
    ):
        op.add_column("installations", column)


def downgrade() -> None:
    op.execute("DELETE FROM installations WHERE holder != 'store'")  # an older version would look for them in its store
    for column in ("holder", "owned", "facts", "seen"):
        op.drop_column("installations", column)
