# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A table of HAPI copied into partitions by hash, or back into a plain one, while HAPI is stopped.

One transaction each: the copy, its indexes and keys, the comparison with what it was copied from, and the exchange. So a kill at any
moment leaves the table as it was, and the old rows go only when the new ones are proven to be the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._hfj import NEW, UNIQUE, HfjError, Index, Relation, Step, Table, hash_name, mirrored
from ._hfj_catalog import read_relation, read_table
from ._hfj_sql import (
    COLUMN_NAMES,
    FINGERPRINT,
    Brief,
    Limits,
    Locking,
    add_inbound_key,
    clothes_fit,
    create_index,
    drop_inbound_key,
    key_shapes,
    like,
    list_of,
    main_of,
    names,
    referenced,
    rename,
    rename_index,
    under_lock,
    worn,
)

if TYPE_CHECKING:
    from ._postgres import Session

ACTIONS = ("rewrite", "rewrite_back")
# Whoever of HAPI has said nothing for so many seconds is taken for a pooler's connection that nobody uses.
QUIET_SECONDS = 60
# In so many ranges of ids the rows are compared, so that a difference can be found.
RANGES = 50

AT_WORK = """
SELECT a.pid, coalesce(nullif(a.application_name, ''), a.backend_type) AS application, coalesce(a.client_addr::text, 'local') AS client
  FROM pg_catalog.pg_stat_activity a
 WHERE a.datname = pg_catalog.current_database() AND a.usename = %(owner)s AND a.pid <> pg_catalog.pg_backend_pid()
   AND a.backend_type = 'client backend'
   AND (coalesce(a.state, '') <> 'idle' OR a.state_change > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(quiet)s))
 ORDER BY 1 LIMIT 5
"""
# What belongs to the table, or to an index of it, and would not be there on a new one.
LOST = """
SELECT 'extended statistics ' || s.stxname::text AS what FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = %(oid)s
UNION ALL SELECT 'owned sequence ' || d.objid::regclass::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
 WHERE d.refobjid = %(oid)s AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'a' AND c.relkind = 'S'
UNION ALL SELECT 'comment on index ' || d.objoid::regclass::text FROM pg_catalog.pg_description d
  JOIN pg_catalog.pg_index i ON i.indexrelid = d.objoid WHERE i.indrelid = %(oid)s AND d.classoid = 'pg_catalog.pg_class'::regclass
UNION ALL SELECT 'comment on constraint ' || k.conname::text FROM pg_catalog.pg_description d JOIN pg_catalog.pg_constraint k ON k.oid = d.objoid
 WHERE k.conrelid = %(oid)s AND d.classoid = 'pg_catalog.pg_constraint'::regclass
UNION ALL SELECT 'clustering by ' || i.indexrelid::regclass::text FROM pg_catalog.pg_index i WHERE i.indrelid = %(oid)s AND i.indisclustered
UNION ALL SELECT 'replica identity' FROM pg_catalog.pg_class c WHERE c.oid = %(oid)s AND c.relreplident <> 'd'
 ORDER BY 1
"""


def at_work(session: Session, table: Table) -> list[str]:
    """Return in words who of HAPI's role has done something within a minute. Raises PostgresError."""
    rows = session.rows(AT_WORK, {"owner": main_of(table).owner, "quiet": QUIET_SECONDS})
    return ["pid %(pid)d (%(application)s from %(client)s)" % row for row in rows]


def lost(session: Session, table: Table) -> list[str]:
    """Return what a new table would not have. Raises PostgresError."""
    found = [row["what"] for row in session.rows(LOST, {"oid": main_of(table).oid})]
    return found + ["primary key %s" % index.name for index in main_of(table).indexes if index.primary and index.name != table.name + "_pkey"]


def contents(session: Session, schema: str, name: str, key: str, width: int) -> list[tuple[Any, ...]]:
    """Return the number of rows and a sum over them for each range of ids. Raises PostgresError."""
    from psycopg2 import sql

    query = sql.SQL(
        "SELECT bd_fhir_row.{key} / %s AS place, count(*) AS rows, sum(pg_catalog.hashtextextended(bd_fhir_row::text, 0)::numeric)::text AS checksum"
        " FROM {table} bd_fhir_row GROUP BY 1 ORDER BY 1"
    ).format(key=names(sql, key), table=names(sql, schema, name))
    return [(row["place"], row["rows"], row["checksum"]) for row in session.rows(query, (width,))]


def rebuild(session: Session, table: Table, step: Step, limits: Limits, told: Locking) -> int:
    """Copy a plain table into partitions by hash (rewrite), or one of those back (rewrite_back); return the rows. Raises PostgresError, HfjError."""
    main = main_of(table)
    parts = [part.name for part in main.parts]
    locks = [*referenced(main, "SHARE ROW EXCLUSIVE"), (table.name, "ACCESS EXCLUSIVE")]
    locks += [(name, "ACCESS EXCLUSIVE") for name in parts]
    locks += [(item.key.table, "ACCESS EXCLUSIVE") for item in table.inbound]
    changed = HfjError("Nothing was changed: %s was changed by somebody else meanwhile. Run this again." % table.name)
    mark = session.value(FINGERPRINT, {"oids": [main.oid]})
    now = read_table(session, table.schema, table.name)
    if now.main is None or _form(now.main) != _form(main) or now.inbound != table.inbound or now.new is not None:
        raise changed

    def work(brief: Brief) -> int:
        if brief.value(FINGERPRINT, {"oids": [main.oid]}) != mark:
            raise changed
        # HAPI is stopped: it takes as long as it takes.
        brief.no_limit()
        return _rebuild(brief, table, main, step)

    rows: int = under_lock(session, "%s of %s" % (step.action, table.name), table.schema, locks, work, limits, told)
    return rows


def _form(relation: Relation) -> tuple[Any, ...]:
    # Not its size, which is another one every moment.
    return (relation.oid, relation.indexes, relation.keys, relation.columns, relation.checks, [part.name for part in relation.parts])


def _rebuild(session: Session, table: Table, main: Relation, step: Step) -> int:
    from psycopg2 import sql

    back = step.action == "rewrite_back"
    old, new = names(sql, table.schema, table.name), names(sql, table.schema, table.name + NEW)
    shapes, clothes = key_shapes(session, main.oid), worn(session, main.oid)
    _make(session, table, main, step)
    columns = list_of([row["name"] for row in session.rows(COLUMN_NAMES, {"schema": table.schema, "name": table.name})])
    session.execute(sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(new, columns, columns, old))
    top = session.value(sql.SQL("SELECT max({}) FROM {}").format(names(sql, table.key), old)) or 0
    width = max(1, top // RANGES + 1)
    wanted = contents(session, table.schema, table.name, table.key, width)
    got = contents(session, table.schema, table.name + NEW, table.key, width)
    if wanted != got:
        place = sorted({str(row[0]) for row in set(wanted) ^ set(got)})[0]
        raise HfjError(
            "Nothing was changed: the copy of %s is not the same, first among the ids from %s times %d on. A trigger or a rule is in the way, or the"
            " disk is at fault." % (table.name, place, width)
        )
    indexes = [index for index in mirrored(table, main) if index.name != table.name + UNIQUE]
    if not back:
        indexes.append(Index(table.name + UNIQUE, 'btree ("%s", "%s")' % (table.pk, table.key), True))
    for index in indexes:
        create_index(session, table, index)
    # Each partition keeps the primary key for itself; that it is one over all of them the sequence sees to.
    for name in [table.name + NEW] if back else [hash_name(table.name, number) for number in range(step.upper)]:
        pkey = sql.SQL("CONSTRAINT {} ").format(names(sql, table.name + "_pkey" + NEW)) if back else sql.SQL("")
        session.execute(sql.SQL("ALTER TABLE {} ADD {}PRIMARY KEY ({})").format(names(sql, table.schema, name), pkey, names(sql, table.pk)))
    for key in main.keys:
        session.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({})").format(
                new, names(sql, key.name), list_of(key.columns), names(sql, key.foreign_schema, key.foreign_table), list_of(key.foreign_columns)
            )
        )
    for item in table.inbound:
        session.execute(drop_inbound_key(sql, item))
    # Without CASCADE: whatever else depends on it is not ours to take away.
    session.execute(sql.SQL("DROP TABLE {}").format(old))
    rename(session, table.schema, table.name + NEW, table.name)
    for name in [index.name for index in indexes] + ([table.name + "_pkey"] if back else []):
        rename_index(session, table.schema, name + NEW, name)
    for item in table.inbound:
        pairs = ((item.key.columns[0],), (table.pk,)) if back else ((item.key.columns[0], item.partner), (table.pk, table.key))
        session.execute(add_inbound_key(sql, item, table, *pairs))
        session.execute(
            sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(names(sql, item.key.schema, item.key.table), names(sql, item.key.name))
        )
    made = read_relation(session, table.schema, table.name)
    if made is None or key_shapes(session, made.oid) != shapes:
        raise HfjError("Nothing was changed: %s would have other foreign keys than %s." % (table.name, shapes))
    clothes_fit(session, table.name, clothes, made.oid)
    session.execute(sql.SQL("ANALYZE {}").format(old))
    return sum(int(row[1]) for row in wanted)


def _make(session: Session, table: Table, main: Relation, step: Step) -> None:
    """Make the empty table that takes the rows."""
    from psycopg2 import sql

    new = names(sql, table.schema, table.name + NEW)
    how = sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)")
    how = how.format(new, names(sql, table.schema, table.name))
    if step.action == "rewrite_back":
        session.execute(how)
        first = read_relation(session, table.schema, hash_name(table.name, 0))
        like(session, table, table.name + NEW, True, first)
        return
    session.execute(how + sql.SQL(" PARTITION BY HASH ({})").format(names(sql, table.key)))
    like(session, table, table.name + NEW, False)
    for number in range(step.upper):
        name = hash_name(table.name, number)
        session.execute(
            sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES WITH (MODULUS {}, REMAINDER {})").format(
                names(sql, table.schema, name), new, sql.Literal(step.upper), sql.Literal(number)
            )
        )
        like(session, table, name, True)
