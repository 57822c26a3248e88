"""Alembic's entry: migrates over the connection that `shared.db.schema.migrate` hands in."""

from alembic import context
from sqlalchemy import text
from sqlmodel import SQLModel

import shared.db.reports
import shared.db.wishes  # noqa: F401 - both fill the metadata, with the tables that they build on

connection = context.config.attributes["connection"]
with connection.begin():
    if connection.dialect.name == "postgresql":  # two services starting at once; on SQLite BEGIN IMMEDIATE does it
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # a large table takes its time
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(7301190)"))
    context.configure(connection=connection, target_metadata=SQLModel.metadata, transactional_ddl=True)
    context.run_migrations()
