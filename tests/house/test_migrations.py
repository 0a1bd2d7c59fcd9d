"""The migrations lead to the tables that the declared records want, which a new database has at once."""

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
        migrations.migrate(connection, "the database")
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


def told(engine: Engine) -> dict[str, object]:
    """All that a database has: columns in any order, keys, indexes, and the row in which Alembic keeps its place."""
    looked_at = inspect(engine)
    found: dict[str, object] = {
        name: (looked_at.get_pk_constraint(name), sorted(map(str, looked_at.get_columns(name))))
        for name in looked_at.get_table_names()
    }
    with engine.connect() as connection:
        found["indexes"] = set(connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'index'"))
        found["revision"] = connection.exec_driver_sql("SELECT version_num, works_from FROM alembic_version").all()
    engine.dispose()
    return found


def test_a_new_database_is_at_once_what_the_migrations_lead_to(migrated: Engine, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/new.db")
    with engine.begin() as connection:
        migrations.upgrade(connection, "the database")
    assert told(engine) == told(migrated)
    assert differences(engine, METADATA) == []


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
