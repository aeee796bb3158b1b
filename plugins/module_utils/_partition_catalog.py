# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Partitions as a server has them: reading them into what _partitions judges, and carrying out the steps that it plans.

Needs a session of _postgres, and neither Ansible nor Docker. Nothing here depends on the time zone, the date style or the search
path of the session, and nothing reads a date through the driver, which can't hold all that PostgreSQL can.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Optional

from ._findings import finding
from ._partitions import (
    Coverage,
    Loose,
    Parent,
    Partition,
    PartitionError,
    Server,
    Settings,
    Step,
    bound_text,
    check_settings,
    coverage,
    findings,
    grant_changes,
    judge_function,
    month_in,
    moves,
    parse_bound,
    parse_time,
    plan,
    plan_function,
    resolve_zone,
    stem_of,
    unusable,
)
from ._postgres import PostgresError

if TYPE_CHECKING:
    from ._postgres import Session

# Options that the modules share. No Ansible is needed for them.
PARTITION_ARGUMENTS: dict[str, Any] = {
    "service": {"type": "str", "default": "postgres-audit"},
    "database": {"type": "str", "default": "auditdb"},
    "schema": {"type": "str", "default": "audit"},
    "tables": {"type": "list", "elements": "str", "default": ["audit_events", "fhir_rejected_submissions"]},
    "months_ahead": {"type": "int", "default": 6},
    "time_zone": {"type": "str", "default": "UTC"},
    "alarm_days": {"type": "float", "default": 45},
    "maintenance_function": {"type": "str", "default": "create_next_month_partitions"},
    "now": {"type": "str", "default": ""},
}

OLDEST_SERVER = 140000
DEFAULT_LOCK_TIMEOUT = 3.0
DEFAULT_LOCK_TRIES = 10

# A lock was not got in time, or two wanted each other's.
BUSY = ("55P03", "40P01")
# Seconds for which writers may wait for one step that is bounded, from its lock on.
LOCKED_SECONDS = 30.0
# How many times a table is read again because something has changed meanwhile.
ROUNDS = 3
# Seconds. The rows of a detached month are read before it is attached, and it may be a large one.
READ_TIMEOUT = 3600
READ_LOCK_TIMEOUT = 30
# No such table any more, or no such schema.
GONE = ("42P01", "3F000")
DENIED = "42501"
CANCELLED = "57014"

_PRIVILEGE = re.compile(r"[A-Z]+( [A-Z]+)*\Z")
_BEGINNING = datetime.min.replace(tzinfo=timezone.utc)
_END = datetime.max.replace(tzinfo=timezone.utc)

SERVER = """
SELECT pg_catalog.current_setting('server_version_num')::int AS version,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       extract(epoch FROM pg_catalog.clock_timestamp())::text AS now,
       pg_catalog.current_setting('TimeZone') AS time_zone,
       current_user::text AS "user",
       (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) AS is_superuser
"""

# What of a relation is read, whether it is the parent, a partition or neither. c is its row of pg_class. What is looked up here is
# looked up by an index: the statistics of a catalog that has just got thousands of rows would mislead a join.
_RELATION = """
       c.oid::bigint AS oid, (SELECT n.nspname::text FROM pg_catalog.pg_namespace n WHERE n.oid = c.relnamespace) AS schema,
       c.relname::text AS name, c.relkind::text AS relkind, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))::text[] AS acl,
       c.relreplident::text AS replica_identity, coalesce(pg_catalog.obj_description(c.oid, 'pg_class'), '') AS comment,"""
_SIZE = """
       coalesce(CASE c.relkind WHEN 'f' THEN 0
                WHEN 'p' THEN (SELECT sum(pg_catalog.pg_total_relation_size(t.relid)) FROM pg_catalog.pg_partition_tree(c.oid) t WHERE t.isleaf)
                ELSE pg_catalog.pg_total_relation_size(c.oid) END, 0)::bigint AS bytes,
       greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid), 0)::float8 AS rows,
       CASE c.relkind WHEN 'p' THEN EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid) ELSE false END AS has_children"""

# One query for a table, whatever number of partitions it has: each kind of row is told by `part`.
# set_config is local to this one statement. The CASE makes it come before the bounds are put into words.
TABLE = (
    """
WITH pinned AS MATERIALIZED (
SELECT pg_catalog.set_config('TimeZone', 'UTC', true) || pg_catalog.set_config('DateStyle', 'ISO, YMD', true) AS done
), parent AS MATERIALIZED (
SELECT c.oid, c.relnamespace, c.relkind, p.partstrat, p.partattrs, p.partdefid
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
), own AS MATERIALIZED (
SELECT i.inhrelid AS oid, i.inhdetachpending AS pending
  FROM pg_catalog.pg_inherits i
  JOIN parent ON parent.oid = i.inhparent
 WHERE parent.relkind = 'p'
), columns AS MATERIALIZED (
SELECT a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attnotnull, a.attgenerated
  FROM pg_catalog.pg_attribute a
  JOIN parent ON parent.oid = a.attrelid
 WHERE a.attnum > 0 AND NOT a.attisdropped
), candidates AS MATERIALIZED (
SELECT c.oid
  FROM pg_catalog.pg_class c
 WHERE c.relnamespace = (SELECT parent.relnamespace FROM parent WHERE parent.relkind = 'p') AND NOT c.relispartition
   AND c.relkind IN ('r', 'p', 'f') AND c.oid <> (SELECT parent.oid FROM parent)
   AND c.relname ~ %(month)s
)
SELECT 'parent' AS part,"""  # noqa: S608 - constants
    + _RELATION
    + """
       0::bigint AS bytes, 0::float8 AS rows, true AS has_children,
       '' AS bound, false AS is_default, false AS pending, 0::float8 AS dead, 0 AS age, NULL::bool AS vacuumed,
       parent.partstrat::text AS strategy,
       (SELECT array_agg(coalesce(a.attname::text, '(an expression)') ORDER BY k.place)
          FROM pg_catalog.unnest(parent.partattrs::int2[]) WITH ORDINALITY AS k (attnum, place)
          LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = parent.oid AND a.attnum = k.attnum AND k.attnum <> 0) AS names,
       coalesce((SELECT pg_catalog.format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END, NULL)
          FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = parent.oid AND a.attnum = parent.partattrs[0] AND a.attnum <> 0), 'an expression') AS key_type,
       NULL::text[] AS misfits, false AS may_select
  FROM parent
  JOIN pg_catalog.pg_class c ON c.oid = parent.oid
UNION ALL
SELECT 'partition',"""
    + _RELATION
    + _SIZE
    + """,
       CASE WHEN (SELECT pinned.done FROM pinned) IS NOT NULL THEN pg_catalog.pg_get_expr(c.relpartbound, c.oid) END,
       c.oid = parent.partdefid, own.pending,
       pg_catalog.pg_stat_get_dead_tuples(c.oid)::float8, CASE c.relkind WHEN 'r' THEN pg_catalog.age(c.relfrozenxid) ELSE 0 END,
       c.relallvisible > 0 OR pg_catalog.pg_stat_get_last_vacuum_time(c.oid) IS NOT NULL
         OR pg_catalog.pg_stat_get_last_autovacuum_time(c.oid) IS NOT NULL,
       NULL, NULL, NULL, NULL, CASE c.oid WHEN parent.partdefid THEN pg_catalog.has_table_privilege(c.oid, 'SELECT') END
  FROM own
  CROSS JOIN parent
  JOIN pg_catalog.pg_class c ON c.oid = own.oid
UNION ALL
SELECT 'loose',"""
    + _RELATION
    + _SIZE
    + """,
       '', false, false, 0, 0, NULL, NULL, NULL, NULL,
       ARRAY(SELECT CASE WHEN mine.attname IS NULL THEN 'it has no column ' || columns.attname
                         WHEN columns.attname IS NULL THEN 'it has a column ' || mine.attname || ' too many'
                         WHEN (mine.atttypid, mine.atttypmod) <> (columns.atttypid, columns.atttypmod)
                           THEN 'its column ' || mine.attname || ' is ' || pg_catalog.format_type(mine.atttypid, mine.atttypmod) || ', not '
                                || pg_catalog.format_type(columns.atttypid, columns.atttypmod)
                         WHEN mine.attcollation <> columns.attcollation THEN 'its column ' || mine.attname || ' has another collation'
                         WHEN mine.attgenerated <> columns.attgenerated THEN 'its column ' || mine.attname || ' is generated in another way'
                         ELSE 'its column ' || mine.attname || ' may be NULL' END
                FROM columns
                FULL JOIN (SELECT * FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) mine
                  ON mine.attname = columns.attname
               WHERE mine.attname IS NULL OR columns.attname IS NULL OR mine.attcollation <> columns.attcollation
                  OR mine.attgenerated <> columns.attgenerated OR (columns.attnotnull AND NOT mine.attnotnull)
                  OR (mine.atttypid, mine.atttypmod) <> (columns.atttypid, columns.atttypmod)
               ORDER BY coalesce(columns.attname, mine.attname))
       || ARRAY(SELECT 'it has no constraint ' || k.conname || ' ' || pg_catalog.pg_get_constraintdef(k.oid)
                  FROM pg_catalog.pg_constraint k
                 WHERE k.conrelid = parent.oid AND k.contype = 'c'
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint m WHERE m.conrelid = c.oid AND m.contype = 'c' AND m.conname = k.conname
                                      AND NOT m.connoinherit AND m.convalidated
                                      AND pg_catalog.pg_get_constraintdef(m.oid) = pg_catalog.pg_get_constraintdef(k.oid))
                 ORDER BY k.conname)
       || ARRAY(SELECT 'its primary key is not on the same columns'
                  FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_constraint m ON m.contype = 'p' AND m.conrelid = c.oid
                 WHERE k.conrelid = parent.oid AND k.contype = 'p'
                   AND ARRAY(SELECT a.attname FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
                               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum ORDER BY u.place)
                    <> ARRAY(SELECT a.attname FROM pg_catalog.unnest(m.conkey) WITH ORDINALITY AS u (attnum, place)
                               JOIN pg_catalog.pg_attribute a ON a.attrelid = m.conrelid AND a.attnum = u.attnum ORDER BY u.place))
       || ARRAY(SELECT 'it inherits from another table' FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
       || CASE WHEN c.relkind <> 'p' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid)
               THEN ARRAY['other tables inherit from it'] ELSE '{}' END
       || CASE WHEN c.relpersistence <> 'p' THEN ARRAY['it is unlogged'] ELSE '{}' END
       || CASE WHEN c.reloftype <> 0 THEN ARRAY['it is a typed table'] ELSE '{}' END
       || CASE WHEN c.relkind = 'f' AND EXISTS (SELECT FROM pg_catalog.pg_index x WHERE x.indrelid = parent.oid AND x.indisunique)
               THEN ARRAY['it is a foreign table, and the table has a unique index'] ELSE '{}' END,
       pg_catalog.has_table_privilege(c.oid, 'SELECT')
  FROM candidates
  CROSS JOIN parent
  JOIN pg_catalog.pg_class c ON c.oid = candidates.oid
UNION ALL
SELECT 'reference', f.confrelid::bigint, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       ARRAY[coalesce((SELECT up.conname FROM pg_catalog.pg_constraint up WHERE up.oid = f.conparentid), f.conname) || ' of '
             || (SELECT pg_catalog.format('%%I.%%I', rn.nspname, r.relname) FROM pg_catalog.pg_class r
                   JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace WHERE r.oid = f.conrelid)],
       NULL, NULL, NULL
  FROM pg_catalog.pg_constraint f
 WHERE f.contype = 'f' AND (SELECT parent.relkind FROM parent) = 'p'
UNION ALL
SELECT 'names', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       ARRAY(SELECT c.relname::text FROM pg_catalog.pg_class c
              WHERE c.relnamespace = (SELECT parent.relnamespace FROM parent) AND c.relname ~ %(month)s
                AND c.oid NOT IN (SELECT candidates.oid FROM candidates) AND c.oid NOT IN (SELECT own.oid FROM own)
              UNION
             SELECT t.typname::text FROM pg_catalog.pg_type t
              WHERE t.typnamespace = parent.relnamespace AND t.typrelid = 0 AND t.typcategory <> 'A' AND t.typname ~ %(month)s),
       NULL, NULL, NULL
  FROM parent
 WHERE parent.relkind = 'p'
UNION ALL
SELECT 'siblings', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       ARRAY(SELECT c.relname::text FROM pg_catalog.pg_class c
              WHERE c.relnamespace = parent.relnamespace AND c.relkind = 'p' AND c.oid <> parent.oid),
       NULL, NULL, NULL
  FROM parent
 WHERE parent.relkind = 'p'
"""
)

# A name that may end like a month; month_in() says whether it does.
LIKE_A_MONTH = "[0-9]{4}[_.m-]?[0-9]{2}([_.d-]?01)?$"
STRATEGIES = {"r": "range", "l": "list", "h": "hash"}
KINDS = {"r": "table", "p": "partitioned", "f": "foreign"}
IDENTITIES = {"d": "default", "f": "full", "n": "nothing", "i": "index"}
TYPES = {"timestamp with time zone": "timestamptz", "timestamp without time zone": "timestamp"}

# The oldest and the newest key of a table in words, the same as the bounds. {} are the key and the table.
SPAN = """
WITH pinned AS MATERIALIZED (
SELECT pg_catalog.set_config('TimeZone', 'UTC', true) || pg_catalog.set_config('DateStyle', 'ISO, YMD', true) AS done
)
SELECT q.count, CASE WHEN (SELECT pinned.done FROM pinned) IS NOT NULL THEN q.low::text END AS low,
       CASE WHEN (SELECT pinned.done FROM pinned) IS NOT NULL THEN q.high::text END AS high
  FROM (SELECT count(*) AS count, min({key}) AS low, max({key}) AS high FROM {table}) q
"""

# Rows of the default partition between each bound and the next. {} are the key, the bounds, their type and the table.
COUNTS = """
SELECT pg_catalog.width_bucket(t.{key}, ARRAY[{bounds}]::{type}[]) AS place, count(*) AS count
  FROM {table} t
 GROUP BY 1
"""

FUNCTION = """
SELECT pg_catalog.pg_get_functiondef(p.oid) AS definition, pg_catalog.pg_get_userbyid(p.proowner)::text AS owner,
       (SELECT bool_and(pg_catalog.pg_has_role(p.proowner, c.relowner, 'USAGE'))
          FROM pg_catalog.pg_class c
         WHERE c.relnamespace = n.oid AND c.relname = ANY (%(tables)s) AND c.relkind = 'p') AS owns
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = %(schema)s AND p.proname = %(name)s AND p.prokind IN ('f', 'p') AND p.pronargs = p.pronargdefaults
 ORDER BY p.pronargs
 LIMIT 1
"""

# Which roles' objects the session may alter.
ROLES = "SELECT r.rolname::text AS name FROM pg_catalog.pg_roles r WHERE pg_catalog.pg_has_role(r.oid, 'USAGE')"
SCHEMA_RIGHTS = """
SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usage,
       pg_catalog.has_schema_privilege(%s::name, n.oid, 'CREATE') AND pg_catalog.has_schema_privilege(%s::name, n.oid, 'USAGE') AS creates
  FROM pg_catalog.pg_namespace n
 WHERE n.nspname = %s
"""

# What a relation is now, as a step needs it.
NOW = """
SELECT c.oid::bigint AS oid, c.relkind::text AS relkind, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))::text[] AS acl, c.relreplident::text AS replica_identity,
       coalesce(pg_catalog.obj_description(c.oid, 'pg_class'), '') AS comment, c.relispartition AS attached,
       EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid) AS triggers,
       (SELECT p.partdefid::bigint FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = c.oid) AS default_oid,
       (SELECT s.spcname::text FROM pg_catalog.pg_tablespace s WHERE s.oid = c.reltablespace) AS tablespace,
       current_user::text AS "user", (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) AS is_superuser,
       pg_catalog.current_setting('server_version_num')::int AS version
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
"""
# Columns that can be written, in their order.
COLUMNS = """
SELECT a.attname::text AS name FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
 ORDER BY a.attnum
"""
# The index of a partition that belongs to the parent's index of REPLICA IDENTITY.
IDENTITY_INDEX = """
SELECT mine.relname::text FROM pg_catalog.pg_index x
  JOIN pg_catalog.pg_inherits i ON i.inhparent = x.indexrelid
  JOIN pg_catalog.pg_index y ON y.indexrelid = i.inhrelid AND y.indrelid = %(partition)s
  JOIN pg_catalog.pg_class mine ON mine.oid = y.indexrelid
 WHERE x.indrelid = %(parent)s AND x.indisreplident
"""
# Who may call a function, one row at least. A grantee of '' is PUBLIC.
CALLERS = """
SELECT p.prorettype = 'pg_catalog.void'::pg_catalog.regtype AND p.prokind = 'f' AS void,
       CASE a.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END AS grantee, a.is_grantable AS grantable
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  LEFT JOIN LATERAL pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a ON a.grantee <> p.proowner
 WHERE n.nspname = %s AND p.proname = %s AND p.pronargs = 0
"""
# Who holds locks on the table or its partitions: what a step had to wait for.
HOLDERS = """
SELECT DISTINCT a.pid, coalesce(a.usename::text, '') AS "user", a.application_name AS application, coalesce(a.state, '') AS state,
       coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::int AS seconds
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.granted AND l.locktype = 'relation' AND a.pid <> pg_catalog.pg_backend_pid()
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND l.relation IN (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                       WHERE n.nspname = %(schema)s AND c.relname = %(table)s
                      UNION ALL
                      SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhparent
                        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s AND c.relname = %(table)s)
 ORDER BY 5 DESC
 LIMIT 3
"""
# In ATTACH PARTITION this spares the server a scan while the table is locked.
BOUNDS_CHECK = "bd_fhir_bounds"


class CatalogError(Exception):
    """A step can't be carried out, or nothing can be done on this server. The text is complete."""


@dataclass(frozen=True)
class Reading:
    """A table, and what could not be seen of it."""

    parent: Parent
    findings: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Function:
    """The site's own function that makes partitions. definition is '' when there is none."""

    definition: str = ""
    owner: str = ""
    owns: bool = False  # its owner may alter the tables


@dataclass
class TableReport:
    """All that is to be said of one table."""

    schema: str
    name: str
    parent: Optional[Parent] = None  # None: it could not be read
    coverage: Optional[Coverage] = None  # None: no table by month
    findings: list[dict[str, Any]] = field(default_factory=list)
    plan: list[Step] = field(default_factory=list)
    error: str = ""
    unseen: tuple[dict[str, Any], ...] = ()  # those of the findings that tell what could not be seen

    @property
    def full_name(self) -> str:
        return "%s.%s" % (self.schema, self.name)


# --- settings ------------------------------------------------------------------------------------------------------


def moment_of(text: str) -> Optional[datetime]:
    """Return a moment from RFC 3339, None for ''. Pure. Raises PartitionError."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]\Z", "+00:00", text.strip()))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise PartitionError("now is %r, which is no moment with an offset. Write it as 2027-12-20T00:00:00Z." % text)
    return moment.astimezone(timezone.utc)


def settings_of(params: dict[str, Any], **more: Any) -> Settings:
    """Return the settings that PARTITION_ARGUMENTS give. Pure. Raises PartitionError."""
    tables = params["tables"]
    if not tables or not all(tables):
        raise PartitionError("tables is empty, or names a table without a name. Name at least one table.")
    for name in tables:
        if tables.count(name) > 1:
            raise PartitionError("tables names %s twice." % name)
    names = ("months_ahead", "time_zone", "alarm_days", "maintenance_function")
    settings = Settings(**{name: params[name] for name in names}, **more)
    check_settings(settings)
    return settings


# --- reading -------------------------------------------------------------------------------------------------------


def read_server(session: Session) -> Server:
    """Return what the server says of itself. Raises PostgresError, CatalogError for one that is too old."""
    row = session.rows(SERVER)[0]
    if row["version"] < OLDEST_SERVER:
        raise CatalogError("The server is PostgreSQL %d; 14 or newer is needed." % (row["version"] // 10000))
    now = datetime.fromtimestamp(0, timezone.utc) + timedelta(microseconds=round(float(row["now"]) * 1000000))
    return Server(row["version"], row["in_recovery"], now, row["time_zone"], row["user"], bool(row["is_superuser"]))


def read_parent(session: Session, schema: str, table: str) -> Parent:
    """Return a table with its partitions. Raises PostgresError."""
    return read_table(session, schema, table).parent


def read_table(session: Session, schema: str, table: str) -> Reading:
    """Return a table with its partitions by one query, and one more for each table that has to be looked into. Raises PostgresError."""
    rows = session.rows(TABLE, {"schema": schema, "table": table, "month": LIKE_A_MONTH})
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        parts.setdefault(row["part"], []).append(row)
    if "parent" not in parts:
        return Reading(Parent(0, schema, table, strategy=""))
    head = parts["parent"][0]
    references: dict[int, set[str]] = {}
    for row in parts.get("reference", ()):
        references.setdefault(row["oid"], set()).update(row["names"])
    parent = replace(
        Parent(head["oid"], head["schema"], head["name"], STRATEGIES.get(head["strategy"], "")),
        keys=tuple(head["names"] or ()),
        key_type=TYPES.get(head["key_type"], head["key_type"]),
        owner=head["owner"],
        acl=tuple(head["acl"]),
        replica_identity=IDENTITIES[head["replica_identity"]],
        comment=head["comment"],
        partitions=tuple(_partition(row, references.get(row["oid"], set())) for row in parts.get("partition", ())),
    )
    if not by_month(parent):
        # Nothing more is judged of such a table, and a key that is no time has no span.
        return Reading(parent)
    unseen: list[dict[str, Any]] = []
    taken = set(parts["names"][0]["names"])
    loose = []
    for row in parts.get("loose", ()):
        if _belongs(parent, row, parts["siblings"][0]["names"]):
            loose.append(_loose(session, parent, row))
        else:
            taken.add(row["name"])
    parent = replace(parent, loose=tuple(loose), taken=frozenset(taken))
    default = [row for row in parts.get("partition", ()) if row["is_default"]]
    if default:
        parent = _with_default(session, parent, default[0], unseen)
    return Reading(parent, tuple(unseen))


def _partition(row: dict[str, Any], references: set[str]) -> Partition:
    bound = parse_bound(row["bound"] or "")
    return Partition(
        oid=row["oid"],
        schema=row["schema"],
        name=row["name"],
        kind=KINDS.get(row["relkind"], row["relkind"]),
        lower=bound.lower,
        upper=bound.upper,
        bound=row["bound"] or "",
        default=bool(row["is_default"]),
        detach_pending=row["pending"],
        owner=row["owner"],
        acl=tuple(row["acl"]),
        replica_identity=IDENTITIES[row["replica_identity"]],
        comment=row["comment"],
        bytes=row["bytes"],
        rows=row["rows"],
        has_children=row["has_children"],
        opaque=bound.opaque,
        dead=row["dead"],
        age=row["age"],
        vacuumed=row["vacuumed"],
        referenced_by=tuple(sorted(references)),
    )


def _belongs(parent: Parent, row: dict[str, Any], siblings: Sequence[str]) -> bool:
    """Tell whether a table that is attached nowhere looks like a month of this parent, and not of another table beside it. Pure."""
    if month_in(row["name"]) is None:
        return False

    def named(table: str) -> bool:
        return bool(row["name"].startswith((table, stem_of(table))))

    mine = len(parent.name) if named(parent.name) else 0
    if any(named(sibling) and len(sibling) > mine for sibling in siblings):
        return False
    return bool(mine) or not row["misfits"]


def _loose(session: Session, parent: Parent, row: dict[str, Any]) -> Loose:
    misfits = list(row["misfits"])
    span = None
    if not row["may_select"]:
        misfits.append("its rows can't be read by this user")
    elif not misfits:
        try:
            span = read_span(session, row["schema"], row["name"], parent.keys[0])[1]
        except PostgresError as exc:
            if exc.kind == "lost":
                raise
            misfits.append("its rows could not be read: %s" % exc)
    return Loose(row["oid"], row["schema"], row["name"], not misfits, "; ".join(misfits), span, row["bytes"])


def _with_default(session: Session, parent: Parent, row: dict[str, Any], unseen: list[dict[str, Any]]) -> Parent:
    """Return the parent with what its default partition holds."""
    why = "" if row["may_select"] else "this user may not read it"
    if not why:
        try:
            count, span = read_span(session, row["schema"], row["name"], parent.keys[0])
            return replace(parent, default_rows=count, default_span=span)
        except PostgresError as exc:
            if exc.kind == "lost":
                raise
            why = str(exc)
    unseen.append(
        finding(
            "default_unreadable", "error", "%s.%s" % (row["schema"], row["name"]), "a default partition without rows", why,
            "Whether rows have fallen into the default partition is not known. Log in as a role that may read it, or grant SELECT on it.",
        )
    )  # fmt: skip
    return replace(parent, default_rows=0)


def read_span(session: Session, schema: str, table: str, key: str) -> tuple[int, Optional[tuple[datetime, datetime]]]:
    """Return the number of rows of a table, and its oldest and newest key. Raises PostgresError.

    What datetime can't hold, such as infinity, is its beginning or its end.
    """
    from psycopg2 import sql

    row = session.rows(sql.SQL(SPAN).format(key=sql.Identifier(key), table=sql.Identifier(schema, table)))[0]
    if row["low"] is None:
        return row["count"], None
    return row["count"], (_moment(row["low"]), _moment(row["high"]))


def _moment(text: str) -> datetime:
    return parse_time(text) or (_BEGINNING if text.startswith("-") or text.endswith("BC") else _END)


def read_function(session: Session, schema: str, name: str, tables: Sequence[str]) -> Function:
    """Return the function of this name that can be called without an argument. Raises PostgresError."""
    rows = session.rows(FUNCTION, {"schema": schema, "name": name, "tables": list(tables)}) if name else []
    return Function(rows[0]["definition"], rows[0]["owner"], bool(rows[0]["owns"])) if rows else Function()


# --- judging -------------------------------------------------------------------------------------------------------


def look(session: Session, server: Server, schema: str, table: str, settings: Settings, now: datetime) -> TableReport:
    """Read and judge one table. One that can't be read or judged is a finding. Raises PostgresError when the session is lost."""
    report = TableReport(schema, table)
    try:
        reading = read_table(session, schema, table)
        judge(report, replace(reading, parent=with_counts(session, reading.parent, server, settings, now)), server, settings, now)
    except (PostgresError, PartitionError) as exc:
        if isinstance(exc, PostgresError) and exc.kind == "lost":
            raise
        report.error = str(exc)
        report.findings.append(
            finding(
                "table_unreadable", "error", report.full_name, "a table that can be read", str(exc),
                "Nothing is known of this table. Log in as a role that may see it, and run this again.",
            )
        )  # fmt: skip
    return report


def with_counts(session: Session, parent: Parent, server: Server, settings: Settings, now: datetime) -> Parent:
    """Return the table with the number of rows that each month would take out of its default partition, where that may be too many.

    Nothing is locked for it. Raises PartitionError, and PostgresError when the session is lost.
    """
    from psycopg2 import sql

    default = next((item for item in parent.partitions if item.default), None)
    if default is None or not settings.move_limit or (parent.default_rows or 0) <= settings.move_limit or not by_month(parent):
        return parent
    wanted = moves(parent, server, settings, now)
    if not wanted:
        return parent
    bounds = sorted({moment for span in wanted for moment in span})
    literals = sql.SQL(", ").join(sql.Literal(bound_text(moment, parent.key_type)) for moment in bounds)
    statement = sql.SQL(COUNTS).format(
        key=sql.Identifier(parent.keys[0]), bounds=literals, type=sql.SQL(parent.key_type), table=sql.Identifier(default.schema, default.name)
    )
    try:
        counts = {row["place"]: row["count"] for row in session.rows(statement)}
    except PostgresError as exc:
        if exc.kind == "lost":
            raise
        # Not known is too many.
        return parent
    # Months don't overlap: from the beginning of one to the next bound is that month.
    return replace(parent, default_counts=tuple((lower, upper, counts.get(bounds.index(lower) + 1, 0)) for lower, upper in wanted))


def judge(report: TableReport, reading: Reading, server: Server, settings: Settings, now: datetime) -> None:
    """Put into the report what is to be said of a table. Pure."""
    found = [*findings(reading.parent, server, now, settings), *reading.findings]
    steps = plan(reading.parent, server, settings, now)
    report.parent, report.findings, report.plan, report.coverage = reading.parent, found, steps, None
    report.unseen = reading.findings
    if by_month(reading.parent):
        zone = resolve_zone(reading.parent, server, settings)
        report.coverage = coverage(reading.parent, now, settings.months_ahead, zone)


def by_month(parent: Parent) -> bool:
    """Tell whether a table is one whose months can be counted. Pure."""
    return unusable(parent) is None


def judge_maintenance(
    session: Session, schema: str, reports: Sequence[TableReport], settings: Settings
) -> tuple[list[dict[str, Any]], list[Step]]:
    """Return what is wrong with the site's own function, and the step that replaces it where that is asked for. Raises PostgresError."""
    tables = [report for report in reports if report.parent is not None and by_month(report.parent)]
    if not settings.maintenance_function or not tables:
        return [], []
    names = [report.name for report in tables]
    function = read_function(session, schema, settings.maintenance_function, names)
    owner = tables[0].parent.owner if tables[0].parent else ""
    found = judge_function(function.definition, function.owner, function.owns, settings, "%s.%s" % (schema, settings.maintenance_function))
    return found, plan_function(schema, names, owner, function.definition, function.owner, function.owns, settings)


def denied(session: Session, server: Server, parent: Parent, steps: Sequence[Step]) -> str:
    """Return why this user can't carry out these steps, '' if nothing is known that speaks against it. Raises PostgresError."""
    if server.is_superuser or not steps:
        return ""
    mine = {row["name"] for row in session.rows(ROLES)}
    name = "%s.%s" % (parent.schema, parent.name)
    if parent.owner not in mine:
        return (
            "The user %s may not change %s, which belongs to the role %s. Log in as that role, as a member of it, or as a superuser."
            % (server.user, name, parent.owner)
        )
    makes = any(not step.existing and step.action in ("create", "move_default_rows", "replace_function") for step in steps)
    for row in session.rows(SCHEMA_RIGHTS, (parent.owner, parent.owner, parent.schema)):
        if not row["usage"]:
            return "The user %s may not use the schema %s: GRANT USAGE ON SCHEMA to it, or log in as a superuser." % (server.user, parent.schema)
        if makes and not row["creates"]:
            return (
                "The role %s, which owns %s, may not create tables in the schema %s: GRANT CREATE, USAGE ON SCHEMA to it, or log in as a"
                " superuser." % (parent.owner, name, parent.schema)
            )
    owners = {item.name: item.owner for item in parent.partitions}
    for step in steps:
        owner = owners.get(step.partition, "")
        if owner and owner not in mine:
            return "The user %s may not change %s.%s, which belongs to the role %s. Log in as a superuser, or as a member of both roles." % (
                server.user, step.partition_schema or parent.schema, step.partition, owner,
            )  # fmt: skip
    return ""


def predicted(parent: Parent, steps: Sequence[Step]) -> Parent:
    """Return what a table is after these steps. Pure."""
    for step in steps:
        if step.action == "replace_function":
            continue
        old = next((item for item in parent.partitions if item.name == step.partition and item.schema == step.partition_schema), None)
        rest = tuple(item for item in parent.partitions if item is not old)
        if step.action == "finalize_detach" and old:
            loose = Loose(old.oid, old.schema, old.name, True, bytes=old.bytes)
            parent = replace(parent, partitions=rest, loose=(*parent.loose, loose))
        elif step.action in ("attach", "create", "move_default_rows"):
            found = next((item for item in parent.loose if item.name == step.partition and item.schema == step.partition_schema), None)
            made = Partition(
                found.oid if found else 0, step.partition_schema or parent.schema, step.partition, lower=step.lower, upper=step.upper,
                owner=parent.owner, acl=parent.acl, replica_identity=parent.replica_identity, comment=parent.comment,
                bytes=found.bytes if found else 0, vacuumed=None,
            )  # fmt: skip
            parent = replace(parent, partitions=(*parent.partitions, made), loose=tuple(item for item in parent.loose if item is not found))
        elif old:
            changes: dict[str, dict[str, Any]] = {
                # The rights of the owner go along; if that is not enough, a step for them follows.
                "set_owner": {"owner": step.owner, "acl": parent.acl},
                "set_grants": {"acl": step.acl},
                "set_replica_identity": {"replica_identity": step.replica_identity},
                "set_comment": {"comment": step.comment},
            }
            new = replace(old, **changes.get(step.action, {}))
            parent = replace(parent, partitions=tuple(new if item is old else item for item in parent.partitions))
    return _without_moved(parent, [step for step in steps if step.action == "move_default_rows"])


def _without_moved(parent: Parent, steps: Sequence[Step]) -> Parent:
    """Return the table with an empty default partition, unless it has rows that none of these steps takes."""
    span = parent.default_span
    if span is None or not steps:
        return parent
    spans = [(step.lower, step.upper) for step in steps]
    taken = [item for item in parent.default_counts if item[:2] in spans]
    if len(taken) == len(steps):
        left = (parent.default_rows or 0) - sum(item[2] for item in taken)
        rest = tuple(item for item in parent.default_counts if item not in taken)
        return replace(parent, default_rows=left, default_span=span if left else None, default_counts=rest)
    first = any(step.lower is None or step.lower <= span[0] for step in steps)
    last = any(step.upper is None or span[1] < step.upper for step in steps)
    return replace(parent, default_rows=0, default_span=None) if first and last else parent


# --- carrying out --------------------------------------------------------------------------------------------------


@contextmanager
def transaction(session: Session, lock_timeout: float) -> Iterator[None]:
    """A transaction that gives up on a lock soon, reads dates as UTC, and takes no name from another schema than it says."""
    session.execute("BEGIN")
    try:
        for name, value in (
            ("lock_timeout", "%dms" % max(1, round(lock_timeout * 1000))),
            # Rows are moved and scanned here, which takes as long as it takes; _until() sets a bound where writers wait.
            ("statement_timeout", "0"),
            ("TimeZone", "UTC"),
            ("DateStyle", "ISO, YMD"),
            ("search_path", "pg_catalog, pg_temp"),
        ):
            session.execute("SELECT pg_catalog.set_config(%s, %s, true)", (name, value))
        yield
        session.execute("COMMIT")
    except BaseException:
        with suppress(PostgresError):
            session.execute("ROLLBACK")
        raise


def patiently(
    session: Session,
    what: str,
    work: Callable[[], Any],
    lock_timeout: float,
    tries: int,
    pause: Callable[[float], None] = time.sleep,
    holders: Callable[[], str] = str,
) -> Any:
    """Return what work returns in a transaction that gives up on a lock soon and is tried again. Raises PostgresError, CatalogError.

    A lock is waited for at most lock_timeout seconds at a time, since whoever comes later waits behind us. holders: who had it.
    """
    told = PostgresError("It was not tried.")
    for number in range(tries):
        try:
            with transaction(session, lock_timeout):
                return work()
        except PostgresError as exc:
            if exc.sqlstate not in BUSY:
                raise
            told = exc
        if number + 1 < tries:
            pause(min(5.0, 0.2 * 2**number))
    text = "%s was tried %d times, and a lock was not got within %g seconds each." % (what, tries, lock_timeout)
    raise PostgresError(" ".join(part for part in (text, holders(), str(told)) if part), told.kind, told.sqlstate)


def apply(
    session: Session,
    step: Step,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    tries: int = DEFAULT_LOCK_TRIES,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Carry out one step, in one transaction, and return the number of rows that it moved. Raises PostgresError, CatalogError."""
    what = "%s of %s.%s" % (step.action, step.schema, step.partition or step.table)
    try:
        moved: int = patiently(session, what, lambda: _carry_out(session, step), lock_timeout, tries, pause, lambda: _holders(session, step))
    except PostgresError as exc:
        if exc.sqlstate != CANCELLED or not step.bounded:
            raise
        raise PostgresError(
            "It was given up, because writers had waited for it for %g seconds; nothing of it is left, and no row was lost. In a quiet hour, run"
            " maintain_audit_partitions with -e audit_partitions_allow_long_move=true, or audit_partition with move_limit 0. %s"
            % (LOCKED_SECONDS, exc),
            exc.kind,
            exc.sqlstate,
        ) from None
    return moved


def attempt(session: Session, step: Step, lock_timeout: float, tries: int) -> tuple[int, Optional[PostgresError]]:
    """Carry out one step; return the rows that it moved, and the error that it ended with. Raises PostgresError when the session is lost."""
    try:
        return apply(session, step, lock_timeout, tries), None
    except PostgresError as exc:
        if exc.kind == "lost":
            raise
        return 0, PostgresError("%s of %s: %s" % (step.action, step.partition, exc), exc.kind, exc.sqlstate)
    except CatalogError as exc:
        return 0, PostgresError("%s of %s: %s" % (step.action, step.partition, exc))


def converge(
    session: Session,
    server: Server,
    report: TableReport,
    settings: Settings,
    now: datetime,
    carry_out: Callable[[Step], Optional[PostgresError]],
) -> tuple[TableReport, list[str]]:
    """Carry out the plan of a table; return what it is like afterwards, and why steps that are still needed failed.

    What has changed meanwhile is read again, and planned anew. A step that fails keeps no other from being tried, but for those that
    would wait for the same lock. Raises what carry_out raises, and PostgresError when the session is lost.
    """
    failed: dict[tuple[Any, ...], str] = {}
    for _round in range(ROUNDS):
        if not report.plan:
            break
        busy: set[str] = set()
        left_out: set[str] = set()  # partitions
        for step in report.plan:
            if lock_of(step) in busy or step.partition in left_out:
                continue
            told = carry_out(step)
            if told:
                failed[key_of(step)] = str(told)
                left_out.add(step.partition)
                if told.sqlstate in BUSY:
                    busy.add(lock_of(step))
        report = look(session, server, report.schema, report.name, settings, now)
        if any(key_of(step) in failed for step in report.plan):
            break
    left = {key_of(step) for step in report.plan}
    # A step that failed and is not needed any more was somebody else's who did the same.
    return report, [text for key, text in failed.items() if key in left]


def key_of(step: Step) -> tuple[Any, ...]:
    """Return what tells one step from another. Pure."""
    return step.action, step.partition_schema, step.partition, step.lower, step.upper


def _holders(session: Session, step: Step) -> str:
    try:
        rows = session.rows(HOLDERS, {"schema": step.schema, "table": step.table})
    except PostgresError:
        return ""
    words = ["pid %(pid)d of %(user)s (%(application)s, %(state)s, its transaction is %(seconds)d s old)" % row for row in rows]
    return "Locks on it are held by %s." % "; ".join(words) if words else ""


def _carry_out(session: Session, step: Step) -> int:
    """Carry out a step inside of a transaction."""
    from psycopg2 import sql

    if step.action == "replace_function":
        _replace_function(session, step)
        return 0
    parent_name = sql.Identifier(step.schema, step.table)
    place = step.partition_schema or step.schema
    name = sql.Identifier(place, step.partition)
    if step.action == "finalize_detach":
        session.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(parent_name, name))
        return 0
    if step.action in ("attach", "create", "move_default_rows"):
        return _attach(session, step, parent_name, name)
    now = _now(session, place, step.partition)
    if step.action == "set_owner":
        session.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(name, sql.Identifier(step.owner)))
        if step.acl:
            set_grants(session, place, step.partition, step.acl, step.owner)
    elif step.action == "set_grants":
        set_grants(session, place, step.partition, step.acl, step.owner or now["owner"])
    elif step.action == "set_replica_identity":
        _set_identity(session, step, _now(session, step.schema, step.table), now)
    elif step.action == "set_comment":
        _set_comment(session, name, now["relkind"], step.comment)
    else:
        raise CatalogError("There is no step %s." % step.action)
    return 0


def _now(session: Session, schema: str, name: str) -> dict[str, Any]:
    rows = session.rows(NOW, (schema, name))
    if not rows:
        raise CatalogError("%s.%s is not there any more. Somebody else is at work on it: run this again." % (schema, name))
    return rows[0]


def _attach(session: Session, step: Step, parent_name: Any, name: Any) -> int:
    """Make a table or take the one that is there, move rows into it, and attach it.

    ATTACH PARTITION lets others read and write the parent, which CREATE TABLE ... PARTITION OF does not.
    """
    from psycopg2 import sql

    parent = _now(session, step.schema, step.table)
    place = step.partition_schema or step.schema
    existing = step.existing or step.action == "attach"
    bounds = [_literal(moment, step.key_type) for moment in (step.lower, step.upper)]
    key = sql.Identifier(step.keys[0])
    inside = sql.SQL(" AND ").join(
        [sql.SQL("{} IS NOT NULL").format(key)]
        + [sql.SQL("{} %s {}" % sign).format(key, bound) for sign, bound in zip((">=", "<"), bounds) if bound is not None]
    )
    owner = step.owner or parent["owner"]
    checked = False
    if existing:
        now = _now(session, place, step.partition)
        if now["relkind"] == "r":
            # Its scan, which may take long, comes before the lock on the parent.
            session.execute(sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({})").format(name, sql.Identifier(BOUNDS_CHECK), inside))
            checked = True
    # A row on its way into the default partition would be refused there once its month is attached: so it has to wait before it chooses.
    mode = "SHARE ROW EXCLUSIVE" if parent["default_oid"] else "SHARE UPDATE EXCLUSIVE"
    session.execute(sql.SQL("LOCK TABLE ONLY {} IN %s MODE" % mode).format(parent_name))
    # Where there is a default partition, the server looks through all of it before it attaches another, and writers wait.
    deadline = time.monotonic() + LOCKED_SECONDS if step.bounded and parent["default_oid"] else None
    if not existing:
        _create(session, step, parent, parent_name, name, owner)
    moved = _move(session, step, parent, name, inside, deadline) if step.action == "move_default_rows" else 0
    if existing and now["owner"] != owner:
        session.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(name, sql.Identifier(owner)))
    _until(session, deadline)
    session.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            parent_name, name, bounds[0] or sql.SQL("MINVALUE"), bounds[1] or sql.SQL("MAXVALUE")
        )
    )
    if checked:
        session.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(name, sql.Identifier(BOUNDS_CHECK)))
    set_grants(session, place, step.partition, step.acl or tuple(parent["acl"]), owner)
    now = _now(session, place, step.partition)
    if step.replica_identity and IDENTITIES[now["replica_identity"]] != step.replica_identity:
        _set_identity(session, step, parent, now)
    if now["comment"] != step.comment:
        _set_comment(session, name, now["relkind"], step.comment)
    return moved


def _until(session: Session, deadline: Optional[float]) -> None:
    """Have the next statements of this transaction end at this moment. One that is cancelled takes all of the transaction with it."""
    if deadline is not None:
        left = max(1, round((deadline - time.monotonic()) * 1000))
        session.execute("SELECT pg_catalog.set_config('statement_timeout', %s, true)", ("%dms" % left,))


def _literal(moment: Optional[datetime], key_type: str) -> Any:
    from psycopg2 import sql

    text = bound_text(moment, key_type)
    return None if text is None else sql.Literal(text)


def _create(session: Session, step: Step, parent: dict[str, Any], parent_name: Any, name: Any, owner: str) -> None:
    """Make a table of its own with all that PARTITION OF would give it; indexes, foreign keys and triggers come with ATTACH."""
    from psycopg2 import sql

    switch = owner != parent["user"] and not parent["is_superuser"]
    if switch:
        session.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))
    space = sql.SQL(" TABLESPACE {}").format(sql.Identifier(parent["tablespace"])) if parent["tablespace"] else sql.SQL("")
    like = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION"
    session.execute(sql.SQL("CREATE TABLE {} (LIKE {} %s){}" % like).format(name, parent_name, space))
    if switch:
        session.execute("RESET ROLE")
    elif owner != parent["user"]:
        session.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(name, sql.Identifier(owner)))


def _move(session: Session, step: Step, parent: dict[str, Any], name: Any, inside: Any, deadline: Optional[float]) -> int:
    """Move the rows of a month out of the default partition, and prove that none is lost."""
    from psycopg2 import sql

    place = step.default_schema or step.schema
    default = sql.Identifier(place, step.default_partition)
    session.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(default))
    now = _now(session, place, step.default_partition)
    if now["triggers"] and parent["is_superuser"]:
        # The rows stay in the table: no trigger that forbids or counts deletions, and no foreign key, has a say in it.
        session.execute("SELECT pg_catalog.set_config('session_replication_role', 'replica', true)")
    columns = sql.SQL(", ").join(sql.Identifier(row["name"]) for row in session.rows(COLUMNS, (parent["oid"],)))
    _until(session, deadline)
    wanted = session.value(sql.SQL("SELECT count(*) FROM {} WHERE {}").format(default, inside))
    _until(session, deadline)
    moved = session.value(
        sql.SQL(
            "WITH gone AS (DELETE FROM {} WHERE {} RETURNING {}), come AS (INSERT INTO {} ({}) SELECT {} FROM gone RETURNING 1)"
            " SELECT count(*) FROM come"
        ).format(default, inside, columns, name, columns, columns)
    )
    _until(session, deadline)
    left = session.value(sql.SQL("SELECT count(*) FROM {} WHERE {}").format(default, inside))
    if now["triggers"] and parent["is_superuser"]:
        session.execute("SELECT pg_catalog.set_config('session_replication_role', 'origin', true)")
    if moved != wanted or left:
        raise CatalogError(
            "Nothing was changed on %s.%s: of %d rows in %s.%s for %s, %d would have arrived and %d stayed. A trigger or a rule is in the way."
            % (step.schema, step.table, wanted, place, step.default_partition, step.partition, moved, left)
        )
    return int(moved)


def _replace_function(session: Session, step: Step) -> None:
    """Put a right function in the place of the present one; who may call it stays."""
    from psycopg2 import sql

    name = sql.Identifier(step.schema, step.partition)
    found = session.rows(CALLERS, (step.schema, step.partition))
    if found and not found[0]["void"]:
        # What a function returns can't be replaced.
        session.execute(sql.SQL("DROP ROUTINE {}()").format(name))
    # Without parameters: it has percent signs.
    session.execute(step.sql)
    session.execute(sql.SQL("ALTER FUNCTION {}() OWNER TO {}").format(name, sql.Identifier(step.owner)))
    if not found or not found[0]["void"]:
        session.execute(sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(name))
    for row in found if found and not found[0]["void"] else ():
        if row["grantee"] is not None:
            session.execute(
                sql.SQL("GRANT EXECUTE ON FUNCTION {}() TO {}{}").format(
                    name,
                    sql.Identifier(row["grantee"]) if row["grantee"] else sql.SQL("PUBLIC"),
                    sql.SQL(" WITH GRANT OPTION" if row["grantable"] and row["grantee"] else ""),
                )
            )


def set_grants(session: Session, schema: str, table: str, acl: Sequence[str], owner: str) -> None:
    """Give a table these rights, whatever privileges this version of the server knows."""
    from psycopg2 import sql

    now = _now(session, schema, table)
    for grant in grant_changes(now["acl"], now["owner"], acl, owner, now["version"]):
        for privilege in grant.privileges:
            if not _PRIVILEGE.match(privilege):
                raise CatalogError("%r is no privilege." % privilege)
        session.execute(
            sql.SQL("%s {} {} {} {}{}" % ("REVOKE" if grant.revoke else "GRANT")).format(
                sql.SQL(", ".join(grant.privileges)),
                sql.SQL("ON TABLE {}").format(sql.Identifier(schema, table)),
                sql.SQL("FROM" if grant.revoke else "TO"),
                sql.Identifier(grant.grantee) if grant.grantee else sql.SQL("PUBLIC"),
                sql.SQL(" WITH GRANT OPTION" if grant.grantable and not grant.revoke else ""),
            )
        )


def _set_identity(session: Session, step: Step, parent: dict[str, Any], partition: dict[str, Any]) -> None:
    from psycopg2 import sql

    what = sql.SQL(step.replica_identity.upper())
    if step.replica_identity == "index":
        index = session.value(IDENTITY_INDEX, {"parent": parent["oid"], "partition": partition["oid"]})
        if not index:
            raise CatalogError(
                "%s.%s has no index that belongs to the replica identity of %s.%s. Set it by hand."
                % (step.partition_schema or step.schema, step.partition, step.schema, step.table)
            )
        what = sql.SQL("USING INDEX {}").format(sql.Identifier(index))
    name = sql.Identifier(step.partition_schema or step.schema, step.partition)
    session.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(name, what))


def _set_comment(session: Session, name: Any, relkind: str, comment: str) -> None:
    from psycopg2 import sql

    kind = "FOREIGN TABLE" if relkind == "f" else "TABLE"
    value = sql.Literal(comment) if comment else sql.SQL("NULL")
    session.execute(sql.SQL("COMMENT ON %s {} IS {}" % kind).format(name, value))


# --- figures -------------------------------------------------------------------------------------------------------

REJECTIONS = """
SELECT t.client_id::text AS client_id, count(*) AS events, count(*) FILTER (WHERE t.outcome = 'REJECTED') AS rejected
  FROM {} t
 WHERE t.{} > pg_catalog.statement_timestamp() - pg_catalog.make_interval(days => %s)
 GROUP BY t.client_id
"""


def rejection_rates(session: Session, schema: str, table: str, days: int, minimum: int, key: str = "event_time") -> list[dict[str, Any]]:
    """Return how many of each client's events of the last days were rejected, the worst first. Raises PostgresError.

    Fewer events than minimum are not enough for a rate to mean something.
    """
    from psycopg2 import sql

    rows = []
    for row in session.rows(sql.SQL(REJECTIONS).format(sql.Identifier(schema, table), sql.Identifier(key)), (days,)):
        rows.append(
            {
                "client_id": row["client_id"],
                "client": "unknown" if row["client_id"] is None else row["client_id"],
                "events": row["events"],
                "rejected": row["rejected"],
                "percent": round(100.0 * row["rejected"] / row["events"], 1),
                "enough": row["events"] >= minimum,
            }
        )
    return sorted(rows, key=lambda row: (not row["enough"], -row["percent"], row["client"]))


# --- telling -------------------------------------------------------------------------------------------------------


def iso(moment: Optional[datetime]) -> Optional[str]:
    """Return a moment as RFC 3339 in UTC. Pure."""
    return None if moment is None else moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def lock_of(step: Step) -> str:
    """Return what a step has to lock: where one has waited in vain, others that need the same would do so too. Pure."""
    if step.action == "finalize_detach":
        return "every transaction that may still read the partition"
    if step.action in ("attach", "create", "move_default_rows"):
        return "the table"
    return "one partition"


def step_report(step: Step) -> dict[str, Any]:
    """Return a step as modules tell it. Pure."""
    return {
        "action": step.action,
        "schema": step.schema,
        "table": step.table,
        "partition": step.partition,
        "lower": iso(step.lower),
        "upper": iso(step.upper),
        "why": step.why,
    }


def table_report(report: TableReport) -> dict[str, Any]:
    """Return a table as modules tell it. Pure."""
    parent, reach = report.parent, report.coverage
    return {
        "schema": report.schema,
        "table": report.name,
        "readable": parent is not None,
        "covered_from": iso(reach.covered_from) if reach else None,
        "covered_until": iso(reach.covered_until) if reach else None,
        "wanted_until": iso(reach.wanted_until) if reach else None,
        "days_left": round(reach.days_left, 2) if reach else 0.0,
        "gaps": [
            {"lower": iso(gap.lower), "upper": iso(gap.upper), "months": list(gap.months), "trailing": gap.trailing}
            for gap in (reach.gaps if reach else ())
        ],
        "default_rows": parent.default_rows if parent else None,
        "bytes": sum(item.bytes for item in parent.partitions) if parent else 0,
        "partitions": [
            {
                "schema": item.schema,
                "name": item.name,
                "kind": item.kind,
                "lower": iso(item.lower),
                "upper": iso(item.upper),
                "bound": item.bound,
                "default": item.default,
                "detach_pending": item.detach_pending,
                "bytes": item.bytes,
                "rows": int(item.rows),
            }
            for item in sorted(parent.partitions if parent else (), key=_order)
        ],
    }


def _order(item: Partition) -> tuple[bool, datetime, str]:
    return item.default, item.lower or _BEGINNING, item.name


def bounds_text(report: TableReport) -> str:
    """Return the partitions of a table in lines, for a difference. Pure."""
    parent = report.parent
    if parent is None:
        return ""
    lines = []
    for item in sorted(parent.partitions, key=_order):
        words = "default" if item.default else "%s to %s" % (iso(item.lower) or "the beginning", iso(item.upper) or "the end")
        more = [item.owner, " ".join(sorted(item.acl)), item.replica_identity, item.comment, "pending detach" if item.detach_pending else ""]
        lines.append("%s.%s: %s; %s\n" % (item.schema, item.name, words, "; ".join(word for word in more if word)))
    if parent.default_rows is not None:
        lines.append("rows in the default partition: %d\n" % parent.default_rows)
    return "".join(lines)
