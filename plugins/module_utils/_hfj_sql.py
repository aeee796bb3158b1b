# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps of _hfj.py on a server. Each is one transaction or one statement, so that a kill leaves the one before or the one after.

Locks: HAPI writes HFJ_RESOURCE first, so it comes first here too. From the first lock on, all others together have to be got within
lock_timeout, which is below the server's deadlock_timeout: whoever waits for us in a circle then goes on, and we try again.
"""

from __future__ import annotations

import json
import math
import threading
import time
import zlib

from collections.abc import Callable, Iterator, Sequence as Sequenced
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Optional

from . import _hfj_guard as guarding
from ._hfj import CHECK, FIRST, GUARD, NEW, RESOURCE, UNIQUE, HfjError, Inbound, Index, Relation, Sequence, Step, Table, guard_faults
from ._hfj import guarded_index, hapis_name, mirrored, near, own_unique, part_name
from ._hfj_catalog import BUILDING, OBSTACLES, read_keys, read_relation, read_table
from ._partition_catalog import BUSY, CANCELLED, transaction
from ._postgres import PostgresError, Session

# Reads the sequence by a session.
Look = Callable[[Session], Sequence]
# The first half of the advisory lock of a table; the other half comes from its name.
ADVISORY = 1819238760
# Whoever holds a lock on one of these tables, the oldest first. What it runs is not asked for: a statement may hold a patient's data.
HOLDERS = """
SELECT a.pid, coalesce(a.usename::text, '') AS "user", coalesce(nullif(a.application_name, ''), a.backend_type) AS application,
       a.backend_type, coalesce(a.state, '') AS state, coalesce(a.query_start::timestamptz(0)::text, '') AS query_start,
       coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::int AS seconds,
       coalesce(a.query LIKE '%%(to prevent wraparound)', false) AS wraparound, min(c.relname::text) AS "table"
  FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE l.granted AND l.locktype = 'relation' AND a.pid <> pg_catalog.pg_backend_pid() AND n.nspname = %(schema)s AND c.relname = ANY (%(names)s)
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 7 DESC, 1 LIMIT 3
"""
ADVISORY_HOLDERS = """
SELECT l.pid, coalesce(a.backend_start::timestamptz(0)::text, '?') AS since
  FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s::oid AND l.objid = %s::oid
"""
# A run of ours that validates a CHECK stands in the way of its removal, and is of no use without it.
CANCEL_VALIDATION = """
SELECT pg_catalog.pg_cancel_backend(a.pid) FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s::oid AND l.objid = %s::oid AND a.pid <> pg_catalog.pg_backend_pid()
   AND a.state = 'active' AND a.query LIKE '%%VALIDATE CONSTRAINT%%'
"""
# Seconds between two looks at the sequence while a CHECK is validated.
LOOK_EVERY = 5.0
# What the shape of two tables is made of, whatever their rows.
FINGERPRINT = """
SELECT pg_catalog.md5(pg_catalog.string_agg(x.what, ';' ORDER BY x.what)) FROM (
  SELECT pg_catalog.format('i %%s %%s %%s %%s', i.indrelid, i.indexrelid, i.indisvalid, c.relname) AS what
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = ANY (%(oids)s::oid[])
  UNION ALL SELECT pg_catalog.format('k %%s %%s %%s', k.oid, k.conname, k.convalidated) FROM pg_catalog.pg_constraint k
   WHERE k.conrelid = ANY (%(oids)s::oid[]) OR k.confrelid = ANY (%(oids)s::oid[])
  UNION ALL SELECT pg_catalog.format('p %%s %%s', h.inhrelid, h.inhparent) FROM pg_catalog.pg_inherits h WHERE h.inhparent = ANY (%(oids)s::oid[])
  UNION ALL SELECT pg_catalog.format('t %%s %%s', t.oid, t.relname) FROM pg_catalog.pg_class t WHERE t.oid = ANY (%(oids)s::oid[])
  UNION ALL SELECT pg_catalog.format('a %%s %%s %%s %%s', a.attrelid, a.attname, a.atttypid, a.attnotnull)
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0
  UNION ALL SELECT pg_catalog.format('d %%s', d.oid) FROM pg_catalog.pg_attrdef d WHERE d.adrelid = ANY (%(oids)s::oid[])
  UNION ALL SELECT pg_catalog.format('g %%s %%s', g.oid, g.tgenabled) FROM pg_catalog.pg_trigger g
   WHERE g.tgrelid = ANY (%(oids)s::oid[]) AND NOT g.tgisinternal
) x
"""
CHILDREN = """
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE i.inhparent = %(oid)s ORDER BY 3, 2
"""
INDEX_COUNT = "SELECT count(*)::int FROM pg_catalog.pg_index i WHERE i.indrelid = %(oid)s"
STORAGE = "SELECT coalesce(c.reloptions, '{}') AS options FROM pg_catalog.pg_class c WHERE c.oid = %(oid)s"
STATISTICS = """
SELECT a.attname::text AS name, a.attstattarget::int AS target FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped AND coalesce(a.attstattarget, -1) >= 0
"""
# Who owns a table, who may do what with it and with its columns, and what is said of them. By whom it was granted does not count.
WORN = """
SELECT 'owner' AS kind, '' AS "column", pg_catalog.pg_get_userbyid(c.relowner)::text AS who, '' AS what, false AS grantable
  FROM pg_catalog.pg_class c WHERE c.oid = %(oid)s
UNION ALL SELECT 'grant', '', CASE a.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END, a.privilege_type, a.is_grantable
  FROM pg_catalog.pg_class c, pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) a WHERE c.oid = %(oid)s
UNION ALL SELECT 'grant', t.attname::text, CASE a.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END, a.privilege_type,
       a.is_grantable
  FROM pg_catalog.pg_attribute t, pg_catalog.aclexplode(t.attacl) a WHERE t.attrelid = %(oid)s AND t.attnum > 0 AND NOT t.attisdropped
UNION ALL SELECT 'comment', coalesce(t.attname::text, ''), '', d.description, false
  FROM pg_catalog.pg_description d LEFT JOIN pg_catalog.pg_attribute t ON t.attrelid = d.objoid AND t.attnum = d.objsubid AND d.objsubid > 0
 WHERE d.objoid = %(oid)s AND d.classoid = 'pg_catalog.pg_class'::regclass
 ORDER BY 1, 2, 3, 4
"""
OID = """
SELECT c.oid::bigint FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s
"""


@dataclass
class Limits:
    """How long is waited for locks, and how often; hold: how long they may be held before everything is put back."""

    lock_timeout: float = 0.5
    tries: int = 20
    hold: float = 5.0
    cancel_autovacuum: bool = True
    pause: Callable[[float], None] = time.sleep
    between: Callable[[], None] = lambda: None  # between the batches of what takes long


@dataclass
class Locking:
    """What the short locks have cost."""

    tries: int = 0
    waited: float = 0.0
    held: float = 0.0
    blockers: list[str] = field(default_factory=list)


def names(sql: Any, *parts: str) -> Any:
    """Return a name, quoted as it must be."""
    return sql.Identifier(*parts)


def _pair(table: Table) -> tuple[int, int]:
    # Not the oid: the swap changes which table has the name.
    return ADVISORY, zlib.crc32(("%s.%s" % (table.schema, table.name)).encode()) & 0x7FFFFFFF


@contextmanager
def alone(session: Session, table: Table) -> Iterator[None]:
    """Be the only one of us at work on a table. The server frees it when the session ends, however that comes. Raises HfjError."""
    pair = _pair(table)
    if not session.value("SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", pair):
        rows = session.rows(ADVISORY_HOLDERS, pair)
        who = ", ".join("pid %d, alive since %s" % (row["pid"], row["since"]) for row in rows) or "a session that has just ended"
        raise HfjError("Nothing was changed: another run is at work on %s.%s (%s). Wait for it." % (table.schema, table.name, who))
    try:
        yield
    finally:
        with suppress(PostgresError):
            session.execute("SELECT pg_catalog.pg_advisory_unlock(%s, %s)", pair)


def holders(session: Session, schema: str, tables: Sequenced[str]) -> list[dict[str, Any]]:
    """Return who holds locks on these tables, the oldest first. Raises PostgresError."""
    return session.rows(HOLDERS, {"schema": schema, "names": list(tables)})


def holder_words(row: dict[str, Any]) -> str:
    """Return in words who holds a lock. Pure."""
    text = "pid %(pid)d (%(application)s, user %(user)s, %(state)s, its statement began %(query_start)s, its transaction is %(seconds)d s old)"
    return (text + " on %(table)s") % row


def take_locks(session: Session, schema: str, locks: Sequenced[tuple[str, str]], limits: Limits) -> float:
    """Lock tables in this order, inside of a transaction; return when the first one was got.

    Nothing is held while the first is waited for. All others together get lock_timeout. Raises PostgresError.
    """
    from psycopg2 import sql

    begun = 0.0
    for number, (name, mode) in enumerate(locks):
        left = limits.lock_timeout if number == 0 else begun + limits.lock_timeout - time.monotonic()
        session.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", ("%dms" % max(1, round(left * 1000)),))
        session.execute(sql.SQL("LOCK TABLE ONLY {} IN %s MODE" % mode).format(names(sql, schema, name)))
        if number == 0:
            begun = time.monotonic()
    session.execute("SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', %s, true)", ("%dms" % round(limits.hold * 1000),))
    return begun


class Brief(Session):
    """A session under locks: each statement gets what is left of the time for which they may be held."""

    def __init__(self, session: Session, locked: float, hold: float) -> None:  # pylint: disable=super-init-not-called
        self._session = session
        self._hold = hold
        self._end = locked + hold

    def left(self) -> float:
        """Return the seconds that are left. Raises PostgresError when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise _too_long(self._hold)
        return left

    def no_limit(self) -> None:
        """Take as long as it takes: the operator has allowed it."""
        self._end = math.inf
        self._session.execute("SELECT pg_catalog.set_config('statement_timeout', '0', true)")

    def _limit(self) -> None:
        # Of what is asked for now nobody else knows, or it is locked: whatever still has to be waited for is a mistake.
        if self._end != math.inf:
            value = "%dms" % max(1, round(self.left() * 1000))
            self._session.execute("SELECT pg_catalog.set_config('statement_timeout', %s, true)", (value,))

    def execute(self, query: Any, params: Any = None) -> None:
        """As of Session."""
        self._limit()
        self._session.execute(query, params)

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        """As of Session."""
        self._limit()
        return self._session.rows(query, params)

    def value(self, query: Any, params: Any = None) -> Any:
        """As of Session."""
        self._limit()
        return self._session.value(query, params)


def _too_long(hold: float, exc: Optional[PostgresError] = None) -> PostgresError:
    text = "It would have held its locks for longer than hold_seconds, %.3g s, so everything was put back. Try again at a calmer time." % hold
    return PostgresError(text if exc is None else "%s %s" % (text, exc), "statement", CANCELLED)


def under_lock(
    session: Session,
    what: str,
    schema: str,
    locks: Sequenced[tuple[str, str]],
    work: Callable[[Brief], Any],
    limits: Limits,
    told: Locking,
    ahead: Optional[Callable[[], None]] = None,
) -> Any:
    """Return what work returns in a transaction that holds these locks. Gives way and tries again while others hold them.

    work gets a session in which everything together has to be done within the limit; what takes longer is put back.
    ahead comes before the locks, in the same transaction. Raises PostgresError that names who held them, HfjError of work.
    """
    error = PostgresError("It was not tried.")
    for number in range(limits.tries):
        told.tries += 1
        begun = time.monotonic()
        locked = 0.0
        try:
            with transaction(session, limits.lock_timeout):
                if ahead:
                    ahead()
                asked = time.monotonic()
                locked = take_locks(session, schema, locks, limits)
                told.waited = max(told.waited, time.monotonic() - asked)
                brief = Brief(session, locked, limits.hold)
                result = work(brief)
                # The server looks at single statements alone.
                brief.left()
            return result
        except PostgresError as exc:
            if exc.sqlstate == CANCELLED and locked and time.monotonic() >= locked + limits.hold:
                raise _too_long(limits.hold, exc) from None
            if exc.sqlstate not in BUSY:
                raise
            told.waited = max(told.waited, time.monotonic() - begun)
            error = exc
        finally:
            if locked:
                told.held = max(told.held, time.monotonic() - locked)
        _give_way(session, schema, [name for name, _mode in locks], limits, told, number)
    raise _gave_up(what, limits, told, error)


def _give_way(session: Session, schema: str, tables: Sequenced[str], limits: Limits, told: Locking, number: int) -> None:
    """Remember who is in the way, cancel an autovacuum, and wait before the next try."""
    rows = holders(session, schema, tables)
    told.blockers = [holder_words(row) for row in rows]
    for row in rows:
        if row["backend_type"] == "autovacuum worker" and not row["wraparound"] and limits.cancel_autovacuum:
            # As the server itself would for whoever waits longer than deadlock_timeout, which we never do.
            session.execute("SELECT pg_catalog.pg_cancel_backend(%s)", (row["pid"],))
    if number + 1 < limits.tries:
        limits.pause(min(5.0, 0.1 * 2 ** min(number, 6)))


def _gave_up(what: str, limits: Limits, told: Locking, error: PostgresError) -> PostgresError:
    words = "%s was tried %d times, gave way each time, and changed nothing: its locks were not got within %g s." % (
        what, limits.tries, limits.lock_timeout,
    )  # fmt: skip
    who = " Held by %s." % "; ".join(told.blockers) if told.blockers else ""
    text = "%s%s End that transaction, or try again at a calmer time. %s" % (words, who, error)
    return PostgresError(text, error.kind, error.sqlstate)


# --- online steps --------------------------------------------------------------------------------------------------


def build_index(session: Session, table: Table) -> None:
    """Build the unique index on (primary key, key) while everybody goes on. Killed in the middle, it leaves an invalid one."""
    from psycopg2 import sql

    session.execute("SELECT pg_catalog.set_config('lock_timeout', '0', false)")
    session.execute(
        sql.SQL("CREATE UNIQUE INDEX CONCURRENTLY {} ON {} ({}, {})").format(
            names(sql, table.name + UNIQUE), names(sql, table.schema, table.name), names(sql, table.pk), names(sql, table.key)
        )
    )


def drop_index(session: Session, table: Table, name: str) -> None:
    """Drop an index of ours, unless somebody builds it right now. Raises HfjError."""
    from psycopg2 import sql

    refuse_building(session, table)
    session.execute("SELECT pg_catalog.set_config('lock_timeout', '0', false)")
    session.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(names(sql, table.schema, name)))


def refuse_building(session: Session, table: Table) -> None:
    """Raise HfjError while somebody builds an index on the table that holds the rows."""
    holder = table.first if table.main is not None and table.main.kind == "p" else table.main
    for row in session.rows(BUILDING, {"oid": holder.oid if holder else 0}):
        raise HfjError(
            "pid %d is still building an index on %s (%.0f %%), as after a module that was killed. Wait for it, or end it with"
            " pg_cancel_backend(%d), and run this again." % (row["pid"], table.name, row["percent"], row["pid"])
        )


def create_parent(session: Session, table: Table, limits: Limits, told: Locking) -> None:
    """Make the empty parent with all indexes and foreign keys of the table. Its foreign keys need a moment's lock on what they refer to."""
    from psycopg2 import sql

    main = main_of(table)
    name = names(sql, table.schema, table.name + NEW)

    def make() -> None:
        session.execute(
            sql.SQL(
                "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)"
                " PARTITION BY RANGE ({})"
            ).format(name, names(sql, table.schema, table.name), names(sql, table.key))
        )
        session.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(name, names(sql, CHECK)))
        for index in mirrored(table, main):
            create_index(session, table, index)
        if guarded_index(main) is not None:
            guarding.on_parent(session, table)
        like(session, table, table.name + NEW, storage=False)

    def link(session: Session) -> None:
        for key in main.keys:
            session.execute(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({})").format(
                    name, names(sql, key.name), list_of(key.columns), names(sql, key.foreign_schema, key.foreign_table), list_of(key.foreign_columns)
                )
            )

    locks = referenced(main, "SHARE ROW EXCLUSIVE") or [(table.name, "ACCESS SHARE")]
    under_lock(session, "create_parent of " + table.name, table.schema, locks, link, limits, told, make)


def create_index(session: Session, table: Table, index: Index) -> None:
    """Make an index of the table on the parent that is not in use yet."""
    from psycopg2 import sql

    _make_index(session, names(sql, table.schema, table.name + NEW), index, index.name + NEW)


def _make_index(session: Session, place: Any, index: Index, name: str) -> None:
    from psycopg2 import sql

    if index.constraint or index.primary:
        kind = "PRIMARY KEY" if index.primary else "UNIQUE"
        statement = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} %s ({})" % kind)
        session.execute(statement.format(place, names(sql, name), list_of(index.columns)))
        return
    # index.rest is how the server itself writes the definition.
    head = sql.SQL("CREATE %sINDEX {} ON {} USING " % ("UNIQUE " if index.unique else "")).format(names(sql, name), place)
    session.execute(head + sql.SQL(index.rest))


def add_partition(session: Session, table: Table, parent: Relation, step: Step, limits: Limits, told: Locking) -> None:
    """Make an empty partition and attach it, which spares the parent ACCESS EXCLUSIVE; its foreign keys need a moment's lock."""
    from psycopg2 import sql

    name = names(sql, table.schema, step.object)
    above = names(sql, table.schema, parent.name)

    def make() -> None:
        session.execute(
            sql.SQL(
                "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION,"
                " PRIMARY KEY ({}))"
            ).format(name, above, names(sql, table.pk))
        )
        # HAPI makes a 409 of an error that names its constraint, and the error names that of the partition.
        for index in own_unique(table, table.first if parent.name == table.name else main_of(table)):
            _make_index(session, name, index, part_name(hapis_name(index), step.lower))
        like(session, table, step.object, storage=True)

    def attach(session: Session) -> None:
        session.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                above, name, sql.Literal(step.lower), sql.Literal(step.upper)
            )
        )

    locks = referenced(parent, "SHARE ROW EXCLUSIVE")
    # Writers begin with HFJ_RESOURCE: who waits there holds none of the tables that refer to it.
    locks.append((parent.name, "SHARE ROW EXCLUSIVE" if parent.name == RESOURCE else "SHARE UPDATE EXCLUSIVE"))
    if parent.name == table.name:
        locks += [(item.key.table, "SHARE ROW EXCLUSIVE") for item in table.inbound]
    under_lock(session, "add_partition of " + step.object, table.schema, locks, attach, limits, told, make)


def like(session: Session, table: Table, name: str, storage: bool, source: Optional[Relation] = None) -> None:
    """Give a new table what people gave the one in use, the statistics targets and if wanted the storage parameters of the one with the rows.

    source: that one, by default the first partition, or the plain table.
    """
    from psycopg2 import sql

    if source is None:
        source = table.first if table.main is not None and table.main.kind == "p" and table.first is not None else main_of(table)
    place = names(sql, table.schema, name)
    dress(session, main_of(table).oid, table.schema, name)
    for row in session.rows(STATISTICS, {"oid": source.oid}):
        session.execute(
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET STATISTICS {}").format(place, names(sql, row["name"]), sql.Literal(row["target"]))
        )
    for option in session.value(STORAGE, {"oid": source.oid}) if storage else ():
        key, _sign, value = option.partition("=")
        session.execute(sql.SQL("ALTER TABLE {} SET ({} = {})").format(place, names(sql, key), sql.Literal(value)))


def worn(session: Session, oid: int) -> dict[tuple[str, str, str, str], bool]:
    """Return owner, grants and comments of a table and its columns; of a grant, whether it may be passed on. Raises PostgresError."""
    found: dict[tuple[str, str, str, str], bool] = {}
    for row in session.rows(WORN, {"oid": oid}):
        key = (row["kind"], row["column"], row["who"], row["what"])
        found[key] = found.get(key, False) or row["grantable"]
    return found


def dress(session: Session, source: int, schema: str, name: str) -> None:
    """Give a table the owner, the grants and the comments that another one has, down to its columns. Raises PostgresError."""
    from psycopg2 import sql

    oid = session.value(OID, {"schema": schema, "name": name})
    place = names(sql, schema, name)
    wanted = worn(session, source)
    for kind, _column, who, _what in wanted.keys() - worn(session, oid).keys():
        if kind == "owner":
            session.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(place, names(sql, who)))
    # The table first: to revoke on it revokes on its columns too.
    for columns in (False, True):
        have = worn(session, oid)
        for key in sorted(have):
            if key[0] == "grant" and bool(key[1]) == columns and wanted.get(key) != have[key]:
                session.execute(_grant(sql, "REVOKE", place, key))
        for key in sorted(wanted):
            if key[0] == "grant" and bool(key[1]) == columns and have.get(key) != wanted[key]:
                session.execute(_grant(sql, "GRANT", place, key, wanted[key]))
    have = worn(session, oid)
    for kind, column, _who, what in sorted(have.keys() - wanted.keys()) + sorted(wanted.keys() - have.keys()):
        if kind == "comment":
            on = sql.SQL("COLUMN {}").format(names(sql, schema, name, column)) if column else sql.SQL("TABLE {}").format(place)
            text = sql.Literal(what) if (kind, column, "", what) in wanted else sql.SQL("NULL")
            session.execute(sql.SQL("COMMENT ON {} IS {}").format(on, text))


def _grant(sql: Any, verb: str, place: Any, key: tuple[str, str, str, str], grantable: bool = False) -> Any:
    _kind, column, who, privilege = key
    return sql.SQL("%s %s {} ON TABLE {} %s {}{}" % (verb, privilege, "TO" if verb == "GRANT" else "FROM")).format(
        sql.SQL("({})").format(names(sql, column)) if column else sql.SQL(""),
        place,
        names(sql, who) if who else sql.SQL("PUBLIC"),
        sql.SQL(" WITH GRANT OPTION" if grantable else ""),
    )


def clothes_fit(session: Session, what: str, wanted: dict[tuple[str, str, str, str], bool], oid: int) -> None:
    """Raise HfjError when a table has not got all that people gave the one whose place it takes."""
    have = worn(session, oid)
    if have != wanted:
        differing = sorted({" ".join(word for word in key if word) for key, dummy in wanted.items() ^ have.items() if key[0] != "comment"})
        raise HfjError(
            "Nothing was changed: %s would have another owner, other grants or other comments (%s). Look who granted them: what was granted by"
            " others than the owner is granted by the owner then." % (what, ", ".join(differing) or "comments")
        )


def drop_parent(session: Session, table: Table, limits: Limits, told: Locking) -> None:
    """Drop a parent that is not in use. A row in it would mean that it is: nothing is dropped then."""
    from psycopg2 import sql

    name = names(sql, table.schema, table.name + NEW)

    def work(session: Session) -> None:
        if session.value(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(name)):
            raise HfjError("Nothing was changed: %s holds rows, so it is somebody else's. Look at it." % (table.name + NEW))
        session.execute(sql.SQL("DROP TABLE {}").format(name))

    locks = referenced(table.new, "ACCESS EXCLUSIVE") if table.new else []
    under_lock(session, "drop_parent of " + table.name, table.schema, [*locks, (table.name + NEW, "ACCESS EXCLUSIVE")], work, limits, told)


def add_check(session: Session, table: Table, bound: int, limits: Limits, told: Locking) -> None:
    """Add CHECK (key < bound) NOT VALID: nothing is read, and ids from bound on are refused from now on."""
    from psycopg2 import sql

    key = names(sql, table.key)
    filled = sql.SQL("{} IS NOT NULL AND ").format(key) if table.nullable else sql.SQL("")
    statement = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({}{} < {}) NOT VALID").format(
        names(sql, table.schema, table.name), names(sql, CHECK), filled, key, sql.Literal(bound)
    )
    _alter(session, "add_check", table, statement, limits, told)


def drop_check(session: Session, table: Table, limits: Limits, told: Locking) -> None:
    """Drop the CHECK, also under a run of ours that is validating it: nobody may be refused for the sake of a proof."""
    from psycopg2 import sql

    session.execute(CANCEL_VALIDATION, _pair(table))
    statement = sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(names(sql, table.schema, table.name), names(sql, CHECK))
    _alter(session, "drop_check", table, statement, limits, told)


def _alter(session: Session, what: str, table: Table, statement: Any, limits: Limits, told: Locking) -> None:
    locks = [(table.name, "ACCESS EXCLUSIVE")]
    under_lock(session, "%s of %s" % (what, table.name), table.schema, locks, lambda brief: brief.execute(statement), limits, told)


def validate(session: Session, schema: str, table: str, constraint: str, limits: Limits, told: Locking) -> None:
    """Validate a constraint: every row is read, and everybody goes on meanwhile. Raises PostgresError that names who held the lock."""
    from psycopg2 import sql

    error = PostgresError("It was not tried.")
    statement = sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(names(sql, schema, table), names(sql, constraint))
    try:
        for number in range(limits.tries):
            told.tries += 1
            # A vacuum that prevents wraparound holds the same lock for hours.
            session.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", ("%dms" % max(1, round(limits.lock_timeout * 1000)),))
            try:
                session.execute(statement)
            except PostgresError as exc:
                if exc.sqlstate not in BUSY:
                    raise
                error = exc
            else:
                return
            _give_way(session, schema, [table], limits, told, number)
    finally:
        with suppress(PostgresError):
            session.execute("SELECT pg_catalog.set_config('lock_timeout', '0', false)")
    raise _gave_up("The validation of %s" % constraint, limits, told, error)


def validate_check(
    session: Session, table: Table, bound: int, look: Look, other: Callable[[], Session], limits: Limits, told: Locking
) -> None:
    """Validate the CHECK, and break that off and drop it when the sequence comes near. Raises PostgresError, HfjError."""
    pid = session.value("SELECT pg_catalog.pg_backend_pid()")
    done, seen = threading.Event(), threading.Event()

    def watch(second: Session) -> None:
        # A session that is lost leaves step=watch, which looks from outside.
        with suppress(PostgresError, HfjError):
            while not done.wait(LOOK_EVERY):
                if near(look(second), bound):
                    seen.set()
                    second.execute("SELECT pg_catalog.pg_cancel_backend(%s)", (pid,))
                    return

    with other() as second:
        thread = threading.Thread(target=watch, args=(second,), daemon=True)
        thread.start()
        try:
            validate(session, table.schema, table.name, CHECK, limits, told)
        except PostgresError:
            done.set()
            thread.join()
            if not seen.is_set():
                raise
        finally:
            done.set()
            thread.join()
    if seen.is_set() or near(look(session), bound):
        drop_check(session, table, limits, told)
        raise HfjError(
            "The sequence has come near %d while every row was looked at. The CHECK was dropped, so that nothing is refused. Run this again: it takes"
            " another bound." % bound
        )


def create_guard(session: Session, table: Table, limits: Limits, told: Locking) -> None:
    """Make the guard and put its triggers on the table: the lock waits for whoever writes, so each later writer has them."""

    def work(brief: Brief) -> None:
        guarding.create(brief, table)
        guarding.add_triggers(brief, table, table.name, False)

    under_lock(session, "create_guard of " + table.name, table.schema, [(table.name, "SHARE ROW EXCLUSIVE")], work, limits, told)


def drop_guard(session: Session, table: Table, limits: Limits, told: Locking) -> None:
    """Take the triggers off a plain table and drop the guard."""

    def work(brief: Brief) -> None:
        guarding.drop_triggers(brief, table, table.name)
        guarding.drop(brief, table)

    locks = [(table.name, "ACCESS EXCLUSIVE"), (table.name + GUARD, "ACCESS EXCLUSIVE")]
    under_lock(session, "drop_guard of " + table.name, table.schema, locks, work, limits, told)


def fill_guard(session: Session, table: Table, limits: Limits, told: Locking) -> None:
    """Fill in the rows that were there before the triggers, batch by batch, and compare. Raises PostgresError, HfjError."""
    if table.guard is None:
        raise AssertionError("a guard was to be filled that is not there")
    after: Optional[int] = table.guard.filled
    while after is not None:
        limits.between()
        after = _fill_batch(session, table, after, limits, told)
    guarding.done(session, table)


def _fill_batch(session: Session, table: Table, after: int, limits: Limits, told: Locking) -> Optional[int]:
    """Fill in a batch, and return its last id. Rows that a request has locked are waited for, less than deadlock_timeout at a time."""
    guard = table.name + GUARD
    error = PostgresError("It was not tried.")
    for number in range(limits.tries):
        told.tries += 1
        try:
            with transaction(session, limits.lock_timeout):
                return guarding.fill(session, table, after)
        except PostgresError as exc:
            if exc.sqlstate not in BUSY:
                raise
            error = exc
        # An autovacuum of the guard, which grows, is no reason to end.
        _give_way(session, table.schema, [guard], limits, told, number)
    told.blockers += [holder_words(row) for row in holders(session, table.schema, [table.name])]
    raise _gave_up("A batch of the filling in of " + guard, limits, told, error)


# --- the swap and the way back -------------------------------------------------------------------------------------


def referenced(relation: Relation, mode: str) -> list[tuple[str, str]]:
    """Return the locks on the tables that foreign keys of a relation refer to, HFJ_RESOURCE first. Pure."""
    found = sorted({key.foreign_table for key in relation.keys}, key=lambda name: (name != RESOURCE, name))
    return [(name, mode) for name in found]


def key_shapes(session: Session, oid: int) -> list[tuple[Any, ...]]:
    """Return the foreign keys of and to a table in a form that does not change with its oid. Raises PostgresError."""
    found = []
    for source, _target, key in read_keys(session, oid):
        if not key.inherited:
            found.append((key.name, key.columns[:1], key.foreign_table if source == oid else key.table))
    return sorted(found)


def swap(session: Session, table: Table, bound: int, look: Look, limits: Limits, told: Locking) -> None:
    """Make a prepared table the first partition of its parent. Raises PostgresError, HfjError."""
    from psycopg2 import sql

    main, new = main_of(table), table.new
    if new is None:
        raise AssertionError("a swap was planned without a parent")
    inbound, guarded = table.inbound, guarded_index(main)
    locks = referenced(main, "ACCESS EXCLUSIVE")
    locks.append((table.name, "ACCESS EXCLUSIVE"))
    if table.guard is not None:
        locks.append((table.guard.name, "ACCESS EXCLUSIVE"))
    locks += [(item.key.table, "ACCESS EXCLUSIVE") for item in inbound]
    locks.append((table.name + NEW, "ACCESS EXCLUSIVE"))

    changed = HfjError("Nothing was changed: %s was changed by somebody else meanwhile. Run prepare again." % table.name)
    oids = [main.oid, new.oid] + ([table.guard.oid] if table.guard is not None else [])
    if guarded is not None:
        # What the triggers have kept since it was filled in, and that nobody has written past them.
        guarding.prove(session, table)
    mark = session.value(FINGERPRINT, {"oids": oids})
    now = read_table(session, table.schema, table.name)
    if now.main is None or now.main.oid != main.oid or now.state != "prepared" or now.inbound != inbound or now.main.check_bound != bound:
        raise changed

    def work(session: Session) -> None:
        # All that was judged, in one look: everybody waits.
        if session.value(FINGERPRINT, {"oids": oids}) != mark:
            raise changed
        sequence = look(session)
        if sequence.used >= bound:
            raise HfjError(
                "Nothing was changed: ids up to %d are given out, and %s was prepared up to %d. Run step=watch, then prepare again."
                % (sequence.used, table.name, bound)
            )
        before, count = key_shapes(session, main.oid), len(main.indexes)
        # As they are now: somebody may have granted something since prepare.
        clothes = worn(session, main.oid)
        dress(session, main.oid, table.schema, table.name + NEW)
        for item in inbound:
            session.execute(drop_inbound_key(sql, item))
        _rename_indexes(session, table, main, FIRST, NEW)
        if guarded is not None:
            # Those of the parent come with the attachment, and speak first.
            guarding.drop_triggers(session, table, table.name)
            rename_index(session, table.schema, guarded.name, guarded.name + FIRST)
            rename_index(session, table.schema, guarded.name + GUARD, guarded.name)
        rename(session, table.schema, table.name, table.name + FIRST)
        rename(session, table.schema, table.name + NEW, table.name)
        session.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM (MINVALUE) TO ({})").format(
                names(sql, table.schema, table.name), names(sql, table.schema, table.name + FIRST), sql.Literal(bound)
            )
        )
        session.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(names(sql, table.schema, table.name + FIRST), names(sql, CHECK))
        )
        for item in inbound:
            session.execute(add_inbound_key(sql, item, table, table.referring(item), table.pair))
        if session.value(INDEX_COUNT, {"oid": main.oid}) != count:
            raise HfjError("Nothing was changed: attaching %s would have built an index under the lock. Run prepare again." % table.name)
        if guarded is not None:
            faults = guard_faults(read_table(session, table.schema, table.name))
            if faults:
                raise HfjError("Nothing was changed: the guard of %s would not see every row: %s." % (table.name, "; ".join(faults)))
        after = key_shapes(session, new.oid)
        if after != before:
            raise HfjError("Nothing was changed: %s would have other foreign keys, %s and not %s." % (table.name, after, before))
        clothes_fit(session, table.name, clothes, new.oid)

    under_lock(session, "The swap of " + table.name, table.schema, locks, work, limits, told)


def swap_back(session: Session, table: Table, allow_copy: bool, limits: Limits, told: Locking) -> int:
    """Make the first partition the table again; return the rows that were copied into it. Raises PostgresError, HfjError.

    Rows of other partitions are copied only where that is allowed, and counted before and after.
    """
    from psycopg2 import sql

    main = main_of(table)
    first = table.first
    if first is None:
        raise AssertionError("a way back was planned without a first partition")
    others = [part.name for part in main.parts if part.name != first.name]
    locks = referenced(main, "ACCESS EXCLUSIVE")
    locks.append((table.name, "ACCESS EXCLUSIVE"))
    if table.guard is not None:
        locks.append((table.guard.name, "ACCESS EXCLUSIVE"))
    locks.append((first.name, "ACCESS EXCLUSIVE"))
    locks += [(name, "ACCESS EXCLUSIVE") for name in others]
    locks += [(item.key.table, "ACCESS EXCLUSIVE") for item in table.inbound]
    place = names(sql, table.schema, first.name)

    changed = HfjError("Nothing was changed: %s was changed by somebody else meanwhile. Run undo again." % table.name)
    oids = {"oids": [main.oid, first.oid]}
    mark = session.value(FINGERPRINT, oids)
    now = read_table(session, table.schema, table.name)
    if now.main is None or now.first is None or (now.main.oid, now.first.oid) != (main.oid, first.oid) or now.inbound != table.inbound:
        raise changed
    if [part.name for part in now.main.parts] != [part.name for part in main.parts]:
        raise changed

    def work(session: Brief) -> int:
        # The parent is dropped with all that belongs to it: nothing may have come that was not looked at.
        if session.value(FINGERPRINT, oids) != mark:
            raise changed
        what = goes_with(session, table, main, others)
        if what:
            raise HfjError("Nothing was changed: %s would go with the parent of %s. Drop it, or make it anew after." % (", ".join(what), table.name))
        filled = filled_ones(session, table)
        if not allow_copy:
            refuse_copying(filled)
        if filled:
            session.no_limit()
        before = key_shapes(session, main.oid)
        # What was granted since the swap was granted on the parent, which goes.
        clothes = worn(session, main.oid)
        dress(session, main.oid, table.schema, first.name)
        for item in table.inbound:
            session.execute(drop_inbound_key(sql, item))
        session.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(names(sql, table.schema, table.name), place))
        moved = 0
        for name in filled:
            moved += _copy(session, table, name, first.name)
        left = sorted((row["schema"], row["name"]) for row in session.rows(CHILDREN, {"oid": main.oid}))
        if left != sorted((table.schema, name) for name in others) or filled_ones(session, table) != filled:
            raise changed
        # With its partitions, which are empty or copied.
        session.execute(sql.SQL("DROP TABLE {}").format(names(sql, table.schema, table.name)))
        if table.name == RESOURCE:
            # The unique index of the first partition is that of the whole table again, and gets its name back.
            guarding.drop(session, table)
        rename(session, table.schema, first.name, table.name)
        for index in first.indexes:
            if index.name.endswith(FIRST):
                rename_index(session, table.schema, index.name, index.name[: -len(FIRST)])
        for item in table.inbound:
            session.execute(add_inbound_key(sql, item, table, (item.key.columns[0],), (table.pk,)))
        after = key_shapes(session, first.oid)
        if after != before:
            raise HfjError("Nothing was changed: %s would have other foreign keys, %s and not %s." % (table.name, after, before))
        clothes_fit(session, table.name, clothes, first.oid)
        return moved

    moved: int = under_lock(session, "The way back of " + table.name, table.schema, locks, work, limits, told)
    return moved


def filled_ones(session: Session, table: Table) -> list[str]:
    """Return the partitions but for the first that hold rows. Raises PostgresError."""
    from psycopg2 import sql

    query = sql.SQL("SELECT EXISTS (SELECT FROM {})")
    others = [part.name for part in main_of(table).parts if part.name != table.name + FIRST]
    return [name for name in others if session.value(query.format(names(sql, table.schema, name)))]


def refuse_copying(filled: Sequenced[str]) -> None:
    """Raise HfjError when there are rows that the way back would have to copy."""
    if filled:
        raise HfjError(
            "Nothing was changed: %s already hold rows, so the way back means to copy them under a lock that lasts as long as that does."
            " Allow it with allow_copy, in a window." % ", ".join(filled)
        )


def goes_with(session: Session, table: Table, main: Relation, others: Sequenced[str]) -> list[str]:
    """Return what belongs to a parent or its further partitions and would go with them, but for what we have made. Raises PostgresError."""
    found = {(row["schema"], row["name"]): row for row in session.rows(CHILDREN, {"oid": main.oid})}
    what = ["partition %s.%s" % name for name, row in found.items() if name[0] != table.schema or row["kind"] != "r"]
    oids = [main.oid, *(row["oid"] for name, row in found.items() if name[1] in others)]
    for oid in oids:
        # That they belong to the parent is no surprise.
        what += [row["what"] for row in session.rows(OBSTACLES, {"oid": oid}) if not row["what"].startswith("parent table ")]
    return sorted(set(what))


def _copy(session: Session, table: Table, source: str, target: str) -> int:
    """Copy all rows of a partition, and prove that none is lost. Raises HfjError."""
    from psycopg2 import sql

    columns = list_of([row["name"] for row in session.rows(COLUMN_NAMES, {"schema": table.schema, "name": target})])
    wanted = session.value(sql.SQL("SELECT count(*) FROM {}").format(names(sql, table.schema, source)))
    got = session.value(
        sql.SQL("WITH come AS (INSERT INTO {} ({}) SELECT {} FROM {} RETURNING 1) SELECT count(*) FROM come").format(
            names(sql, table.schema, target), columns, columns, names(sql, table.schema, source)
        )
    )
    if got != wanted:
        raise HfjError("Nothing was changed: of %d rows in %s, %d would have arrived. A trigger or a rule is in the way." % (wanted, source, got))
    return int(got)


COLUMN_NAMES = """
SELECT a.attname::text AS name FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum
"""


def drop_inbound_key(sql: Any, item: Inbound) -> Any:
    """Return the statement that drops a foreign key to the table. Pure."""
    return sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(names(sql, item.key.schema, item.key.table), names(sql, item.key.name))


def add_inbound_key(sql: Any, item: Inbound, table: Table, columns: Sequenced[str], foreign: Sequenced[str]) -> Any:
    """Return the statement that makes a foreign key to the table anew, NOT VALID where the server takes that. Pure."""
    return sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}){}").format(
        names(sql, item.key.schema, item.key.table), names(sql, item.key.name), list_of(columns),
        names(sql, table.schema, table.name), list_of(foreign),
        # A parent that is not in use yet has no row to be looked at, and takes no other.
        sql.SQL("" if item.key.partitioned else " NOT VALID"),
    )  # fmt: skip


def _rename_indexes(session: Session, table: Table, main: Relation, old: str, new: str) -> None:
    for index in mirrored(table, main):
        rename_index(session, table.schema, index.name, index.name + old)
        rename_index(session, table.schema, index.name + new, index.name)


def rename_index(session: Session, schema: str, name: str, to: str) -> None:
    """Rename an index. Raises PostgresError."""
    from psycopg2 import sql

    session.execute(sql.SQL("ALTER INDEX {} RENAME TO {}").format(names(sql, schema, name), names(sql, to)))


def rename(session: Session, schema: str, name: str, to: str) -> None:
    """Rename a table. Raises PostgresError."""
    from psycopg2 import sql

    session.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(names(sql, schema, name), names(sql, to)))


def list_of(columns: Sequenced[str]) -> Any:
    """Return columns as a statement lists them."""
    from psycopg2 import sql

    return sql.SQL(", ").join(sql.Identifier(name) for name in columns)


def main_of(table: Table) -> Relation:
    """Return what has HAPI's name."""
    if table.main is None:
        raise AssertionError("a step was planned for a table that is not there")
    return table.main


# --- one step ------------------------------------------------------------------------------------------------------


def carry_out(
    session: Session,
    table: Table,
    step: Step,
    look: Look,
    other: Callable[[], Session],
    limits: Limits,
    told: Locking,
    allow_copy: bool = False,
) -> int:
    """Carry out one step on a table as it is now; return the rows that it copied. Raises PostgresError, HfjError.

    look reads the sequence; other opens a second session.
    """
    if step.action == "build_index":
        build_index(session, table)
    elif step.action == "drop_index":
        drop_index(session, table, step.object)
    elif step.action == "create_guard":
        create_guard(session, table, limits, told)
    elif step.action == "fill_guard":
        fill_guard(session, table, limits, told)
    elif step.action == "drop_guard":
        drop_guard(session, table, limits, told)
    elif step.action == "create_parent":
        create_parent(session, table, limits, told)
    elif step.action == "drop_parent":
        drop_parent(session, table, limits, told)
    elif step.action == "add_partition":
        parent = table.main if table.main is not None and table.main.kind == "p" else table.new
        if parent is None:
            raise HfjError("%s has no parent yet. Run this again." % table.name)
        add_partition(session, table, parent, step, limits, told)
    elif step.action == "add_check":
        if near(look(session), step.upper):
            raise HfjError("The sequence has come near %d meanwhile. Nothing is refused yet. Run this again: it takes another bound." % step.upper)
        add_check(session, table, step.upper, limits, told)
    elif step.action == "validate_check":
        validate_check(session, table, step.upper, look, other, limits, told)
    elif step.action == "drop_check":
        drop_check(session, table, limits, told)
    elif step.action == "validate_key":
        for item in table.inbound:
            if item.object == step.object:
                validate(session, item.key.schema, item.key.table, item.key.name, limits, told)
    elif step.action == "analyze":
        from psycopg2 import sql

        session.execute(sql.SQL("ANALYZE {}").format(names(sql, table.schema, table.name)))
    elif step.action == "swap":
        swap(session, table, step.upper, look, limits, told)
    elif step.action == "swap_back":
        return swap_back(session, table, allow_copy, limits, told)
    else:
        raise HfjError("There is no step %s." % step.action)
    return 0


# --- proof ---------------------------------------------------------------------------------------------------------


def pruned(session: Session, table: Table, id: int) -> list[str]:
    """Return the partitions that a look-up by resource visits, from EXPLAIN. Raises PostgresError."""
    from psycopg2 import sql

    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT * FROM {} WHERE {} = {}").format(
        names(sql, table.schema, table.name), names(sql, table.key), sql.Literal(id)
    )
    found = session.value(query)
    plan = json.loads(found) if isinstance(found, str) else found
    seen: list[str] = []

    def walk(node: dict[str, Any]) -> None:
        if "Relation Name" in node:
            seen.append(node["Relation Name"])
        for child in node.get("Plans", ()):
            walk(child)

    walk(plan[0]["Plan"])
    return sorted(set(seen))


def orphans(session: Session, table: Table, part: str, rows: int) -> int:
    """Return how many of the newest rows of a partition belong to a resource that is not there. Raises PostgresError.

    Bounded: both sides are look-ups in indexes.
    """
    from psycopg2 import sql

    query = sql.SQL(
        "SELECT count(*) FROM (SELECT {key} AS id FROM {part} ORDER BY {pk} DESC LIMIT %s) n"
        " WHERE NOT EXISTS (SELECT FROM {resource} r WHERE r.res_id = n.id)"
    ).format(
        key=names(sql, table.key), part=names(sql, table.schema, part), pk=names(sql, table.pk), resource=names(sql, table.schema, RESOURCE)
    )
    return int(session.value(query, (rows,)))


def twice(session: Session, table: Table, part: str, others: Sequenced[str], rows: int) -> int:
    """Return how many of the newest primary keys of a partition exist in another one too. Raises PostgresError.

    Each partition keeps a unique index on the primary key alone; between them only the sequence sees to it.
    """
    from psycopg2 import sql

    total = 0
    for other in others:
        query = sql.SQL(
            "SELECT count(*) FROM (SELECT {pk} AS id FROM {part} ORDER BY {pk} DESC LIMIT %s) n"
            " WHERE EXISTS (SELECT FROM {other} o WHERE o.{pk} = n.id)"
        ).format(pk=names(sql, table.pk), part=names(sql, table.schema, part), other=names(sql, table.schema, other))
        total += int(session.value(query, (rows,)))
    return total


def index_partners(session: Session, table: Table) -> list[str]:
    """Return the indexes of the parent that are not valid, which means that a partition lacks one. Raises PostgresError."""
    relation = read_relation(session, table.schema, table.name)
    return [index.name for index in relation.indexes if not index.valid] if relation else []
