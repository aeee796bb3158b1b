# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard of HFJ_RESOURCE: a table with the pair (RES_TYPE, FHIR_ID) of each resource, which triggers keep, and its own unique index.

HAPI creates a resource of a client's id without a look that would be enough, and relies on the unique index for the rest: whoever
comes second gets its error, and HAPI makes a 409 of it by the name of the constraint. Over partitions by id no index can do that.

- Where one of the two is null, the index does not see the row, and neither does the guard.
- While the table is plain, the triggers come after the row, so that the table's own index speaks first, under its own name. On a
  partitioned one they come before it: the guard has HAPI's name then, and a partition's own unique index another one.
- The triggers are there before the first row is filled in, by a lock that waits for every writer. So a row is filled in that was there
  before, and a writer sees to any other. That a row of the batch is deleted or gets another pair meanwhile is kept out by a lock on it.
- A guard row is made, and goes, in the transaction of its resource. So one statement sees both as they belong together: compare().

The statements are made here; which locks come before them, in _hfj_sql.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from ._hfj import GUARD, LOWEST, NEW, PAIR, HfjError, Table, guarded_index
from ._hfj_catalog import COMPLETE, FILLED

if TYPE_CHECKING:
    from ._postgres import Session

# Rows that are filled in at a time: whoever wants to delete one of them waits for as long.
BATCH = 5000
EVENTS = ("insert", "update", "delete")
# A transaction whose look is older than the filling in would leave a row behind in the guard: it is told to try again.
FUNCTION = """
BEGIN
  IF TG_OP <> 'INSERT' THEN
    IF OLD.{first} IS NOT NULL AND OLD.{second} IS NOT NULL THEN
      DELETE FROM {guard} g WHERE g.{first} = OLD.{first} AND g.{second} = OLD.{second};
      IF NOT FOUND AND pg_catalog.current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'could not serialize access due to the filling in of {name}' USING ERRCODE = 'serialization_failure';
      END IF;
    END IF;
    IF TG_OP = 'DELETE' THEN
      RETURN OLD;
    END IF;
  END IF;
  IF NEW.{first} IS NOT NULL AND NEW.{second} IS NOT NULL THEN
    INSERT INTO {guard} ({first}, {second}) VALUES (NEW.{first}, NEW.{second});
  END IF;
  RETURN NEW;
END
"""
FILL = """
WITH batch AS MATERIALIZED (
  SELECT r.{id} AS id, r.{first} AS first, r.{second} AS second FROM {table} r WHERE r.{id} > {after} ORDER BY r.{id} LIMIT {rows} FOR KEY SHARE
), filled AS (
  INSERT INTO {guard} ({first}, {second}) SELECT b.first, b.second FROM batch b WHERE b.first IS NOT NULL AND b.second IS NOT NULL
  ON CONFLICT DO NOTHING
)
SELECT max(b.id) FROM batch b
"""
COMPARE = """
SELECT count(*) FILTER (WHERE g.{first} IS NULL) AS missing, count(*) FILTER (WHERE r.{first} IS NULL) AS more,
       count(r.{first}) AS resources, (SELECT count(*) FROM {guard}) AS guarded
  FROM (SELECT t.{first}, t.{second} FROM {table} t WHERE t.{first} IS NOT NULL AND t.{second} IS NOT NULL) r
  FULL JOIN {guard} g ON g.{first} = r.{first} AND g.{second} = r.{second}
"""


def quoted(*parts: str) -> str:
    """Return a name as a statement within a text has to hold it. Pure."""
    return ".".join('"%s"' % part.replace('"', '""') for part in parts)


def function_text(schema: str, name: str) -> str:
    """Return the text of the function, for the guard of this name. Pure."""
    first, second = (quoted(column) for column in PAIR)
    return FUNCTION.format(first=first, second=second, guard=quoted(schema, name), name=name.replace("'", "''").replace("%", "%%"))


def create(session: Session, table: Table) -> None:
    """Make the guard, empty, with its function. Raises PostgresError.

    Both belong to the owner of the table, and the function runs with its rights: whoever may write the table, now or by a grant of next
    year, needs none on the guard, and nobody can write past the triggers. The path is fixed, so that no name is somebody else's.
    """
    from psycopg2 import sql

    guarded, owner = guarded_index(table.main), table.main.owner if table.main else ""
    if guarded is None:
        raise AssertionError("a guard was planned without an index for which it stands")
    name = sql.Identifier(table.schema, table.name + GUARD)
    columns = sql.SQL(", ").join(sql.Identifier(column) for column in PAIR)
    # With the types, lengths and collations that they have there.
    session.execute(sql.SQL("CREATE TABLE {} AS SELECT {} FROM {} WITH NO DATA").format(name, columns, sql.Identifier(table.schema, table.name)))
    for column in PAIR:
        session.execute(sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET NOT NULL").format(name, sql.Identifier(column)))
    session.execute(sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} UNIQUE ({})").format(name, sql.Identifier(guarded.name + GUARD), columns))
    session.execute(
        sql.SQL("CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {}").format(
            name, sql.Literal(function_text(table.schema, table.name + GUARD))
        )
    )
    # Else anybody could put rows into the guard by a trigger on a table of his own.
    session.execute(sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(name))
    session.execute(sql.SQL("ALTER FUNCTION {}() OWNER TO {}").format(name, sql.Identifier(owner)))
    session.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(name, sql.Identifier(owner)))
    say(session, table, FILLED % LOWEST)


def say(session: Session, table: Table, text: str) -> None:
    """Write into the catalog how far the guard is. Raises PostgresError."""
    from psycopg2 import sql

    session.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(sql.Identifier(table.schema, table.name + GUARD), sql.Literal(text)))


def add_triggers(session: Session, table: Table, name: str, partitioned: bool) -> None:
    """Put the triggers on a table; on a parent, each partition of now and of later has them. Raises PostgresError."""
    from psycopg2 import sql

    first, second = (sql.Identifier(column) for column in PAIR)
    other = sql.SQL("(OLD.{0}, OLD.{1}) IS DISTINCT FROM (NEW.{0}, NEW.{1})").format(first, second)
    # Hibernate writes every column in each update; so not UPDATE OF, which would call the function each time.
    conditions = {
        "insert": sql.SQL("NEW.{} IS NOT NULL").format(second), "update": other, "delete": sql.SQL("OLD.{} IS NOT NULL").format(second),
    }  # fmt: skip
    for event in EVENTS:
        when = "%s %s" % ("BEFORE" if partitioned else "AFTER", event)
        session.execute(
            sql.SQL("CREATE TRIGGER {} %s ON {} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION {}()" % when).format(
                sql.Identifier(table.name + GUARD + "_" + event), sql.Identifier(table.schema, name), conditions[event],
                sql.Identifier(table.schema, table.name + GUARD),
            )
        )  # fmt: skip


def drop_triggers(session: Session, table: Table, name: str) -> None:
    """Take the triggers off a table. Raises PostgresError."""
    from psycopg2 import sql

    for event in EVENTS:
        session.execute(
            sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(table.name + GUARD + "_" + event), sql.Identifier(table.schema, name))
        )


def drop(session: Session, table: Table) -> None:
    """Drop the guard and its function, which no trigger may need any more, as far as they are there. Raises PostgresError."""
    from psycopg2 import sql

    name = sql.Identifier(table.schema, table.name + GUARD)
    session.execute(sql.SQL("DROP FUNCTION IF EXISTS {}()").format(name))
    # Else it would be somebody else's.
    if table.guard is not None:
        session.execute(sql.SQL("DROP TABLE {}").format(name))


def _format(text: str, table: Table, **values: int) -> Any:
    from psycopg2 import sql

    # Not as parameters: a name may hold what would be taken for the place of one.
    return sql.SQL(text).format(
        **{name: sql.Literal(value) for name, value in values.items()},
        id=sql.Identifier(table.key), first=sql.Identifier(PAIR[0]), second=sql.Identifier(PAIR[1]),
        table=sql.Identifier(table.schema, table.name), guard=sql.Identifier(table.schema, table.name + GUARD),
    )  # fmt: skip


def fill(session: Session, table: Table, after: int) -> Optional[int]:
    """Fill in some of the rows that follow an id, inside of a transaction; return the last id, None at the end. Raises PostgresError."""
    last: Optional[int] = session.value(_format(FILL, table, after=after, rows=BATCH))
    if last is not None:
        say(session, table, FILLED % last)
    return last


def differences(session: Session, table: Table) -> str:
    """Return in words how the guard differs from the table; "" if it does not. Both are read. Raises PostgresError."""
    row = session.rows(_format(COMPARE, table))[0]
    double = row["resources"] - row["missing"] - (row["guarded"] - row["more"])
    words = []
    if row["missing"]:
        words.append("%d resources are missing in it" % row["missing"])
    if row["more"]:
        words.append("%d of its rows have no resource" % row["more"])
    if double:
        words.append("%d resources have the type and FHIR id of another one" % double)
    return ", ".join(words)


def prove(session: Session, table: Table) -> None:
    """Compare the guard with the table. Raises PostgresError, HfjError where they differ."""
    what = differences(session, table)
    if what:
        raise HfjError(
            "The guard %s is not what it has to be: %s. Somebody has written past its triggers. Run step=undo, find out who, and prepare it anew."
            % (table.name + GUARD, what)
        )


def done(session: Session, table: Table) -> None:
    """Compare, and write down that all is filled in. Raises PostgresError, HfjError."""
    from psycopg2 import sql

    # Also so that nobody's function keeps a plan that was made while it was empty.
    session.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table.schema, table.name + GUARD)))
    prove(session, table)
    say(session, table, COMPLETE)


def on_parent(session: Session, table: Table) -> None:
    """Put the triggers on the parent that is not in use yet. Raises PostgresError."""
    add_triggers(session, table, table.name + NEW, True)
