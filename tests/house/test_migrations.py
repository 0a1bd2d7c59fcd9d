"""The migrations lead to the tables that the declared records want, and the program knows their end."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Engine, Index, MetaData, Text, create_engine, inspect

from loquent.domain.records import RECORDS
from loquent.stores import migrations
from loquent.stores.sql_tables import METADATA


@pytest.fixture
def migrated(tmp_path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{tmp_path}/loquent.db")
    with engine.begin() as connection:
        migrations.upgrade(connection, "the database")
    return engine


def differences(engine: Engine, metadata: MetaData) -> list[object]:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        found: list[object] = compare_metadata(context, metadata)
    engine.dispose()
    return found


def test_the_migrations_lead_to_the_declared_tables(migrated: Engine) -> None:
    assert differences(migrated, METADATA) == []


def test_a_new_field_or_order_without_a_migration_is_seen(migrated: Engine) -> None:
    changed = MetaData()
    for table in METADATA.tables.values():
        table.to_metadata(changed)
    users = changed.tables["users"]
    users.append_column(Column("colour", Text()))
    Index("users_colour", users.c.colour)
    assert len(differences(migrated, changed)) == 2


def test_indexes_leave_out_what_the_declaration_leaves_out(migrated: Engine) -> None:
    """Autogenerate does not compare an index's WHERE, so this does."""
    with migrated.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL")
        migrated_wheres = {name: sql.partition(" WHERE ")[2] for name, sql in rows}
    migrated.dispose()
    engine = create_engine("sqlite://")
    METADATA.create_all(engine)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL")
        assert {name: sql.partition(" WHERE ")[2] for name, sql in rows} == migrated_wheres
    engine.dispose()
    assert any(migrated_wheres.values())


def test_the_program_knows_the_last_revision() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_heads() == [migrations.HEAD]


def test_every_record_has_tenant_and_owner_from_the_first_migration(migrated: Engine) -> None:
    looked_at = inspect(migrated)
    for spec in RECORDS.values():
        columns = {column["name"] for column in looked_at.get_columns(spec.table)}
        assert columns == set(spec.names)
        assert "tenant" in columns or spec.scope == "system"
        assert "owner" in columns or spec.scope != "owner"
    migrated.dispose()
