"""Machines, and which store holds what; the CPU of each is a device of its own; the trace that a job belongs to"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

DEVICES = sa.table("devices", sa.column("id", sa.String), sa.column("node", sa.String))
JOBS = sa.table("jobs", *map(sa.column, ("lane", "state", "ticket", "sent_at")))
OF_DEVICES = [sa.table(name, sa.column("device")) for name in ("residencies", "footprints")]
LIVE = ("queued", "running", "paused")


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("machine", sa.String(), nullable=False),
        sa.Column("store", sa.String(), nullable=False),
        sa.Column("seen_at", sa.Float(53), nullable=False),
        sa.Column("io_seen_at", sa.Float(53), nullable=False),
    )
    op.add_column("jobs", sa.Column("traceparent", sa.String(64), nullable=True))
    op.add_column("installations", sa.Column("store", sa.String(64), nullable=True))
    op.execute(
        "UPDATE installations SET store = (SELECT max(store) FROM store_reports) "
        "WHERE (SELECT count(*) FROM store_reports) = 1"
    )
    # The CPU of a machine that has a name is called by it from now on; its jobs wait in the lane of that name.
    nodes = sa.select(DEVICES.c.node).where(DEVICES.c.id == "cpu", DEVICES.c.node != "local")
    name, named = nodes.scalar_subquery(), nodes.exists()
    for table in OF_DEVICES:
        op.execute(sa.update(table).where(table.c.device == "cpu", named).values(device="cpu-" + name))
    waits = (JOBS.c.lane == "device.cpu") & JOBS.c.state.in_(LIVE)
    moved = {"lane": "device.cpu-" + name, "ticket": JOBS.c.ticket + 1, "sent_at": None}
    op.execute(sa.update(JOBS).where(waits, named).values(moved))
    mine = sa.update(DEVICES).where(DEVICES.c.id == "cpu", DEVICES.c.node != "local")
    op.execute(mine.values(id="cpu-" + DEVICES.c.node))


def downgrade() -> None:
    for table in OF_DEVICES:
        op.execute(sa.update(table).where(table.c.device.like("cpu-%")).values(device="cpu"))
    op.execute("UPDATE jobs SET lane = 'device.cpu' WHERE lane LIKE 'device.cpu-%'")
    op.execute("UPDATE jobs SET lane = 'io' WHERE lane LIKE 'io.%'")
    op.execute("DELETE FROM devices WHERE id LIKE 'cpu-%'")
    op.drop_column("installations", "store")
    op.drop_column("jobs", "traceparent")
    op.drop_table("nodes")
