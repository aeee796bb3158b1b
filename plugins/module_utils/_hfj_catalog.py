# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading what _hfj.py judges: tables, foreign keys, the sequence of the ids, standbys and the free disk. Nothing here changes anything."""

from __future__ import annotations

import re
import time

from collections.abc import Sequence as Sequenced
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from ._hfj import CHECK, FIRST, GUARD, GUARD_BYTES, LOWEST, NEW, PAIR, RESOURCE, RESOURCE_ID, UNIQUE, Bounds, Column, ForeignKey, Guard, HfjError
from ._hfj import Inbound, Index, Part, Relation, Sequence, Table, busiest_hour, by_hash, guard_faults, guarded_index, hash_name, names_made
from ._hfj import own_unique, parse_bound, parse_check, part_name
from ._postgres import PostgresError

if TYPE_CHECKING:
    from ._compose import Container, Docker
    from ._postgres import Session

HFJ_ARGUMENTS: dict[str, Any] = {
    "service": {"type": "str", "default": "postgres-fhir"},
    "database": {"type": "str", "default": "fhirdb"},
    "schema": {"type": "str", "default": "public"},
    "sequence": {"type": "str", "default": "seq_resource_id"},
    "unique_guard": {"type": "bool", "default": False},
    "first_bound": {"type": "int", "default": 0},
    "width": {"type": "int", "default": 0},
    "months": {"type": "int", "default": 12},
    "ahead": {"type": "int", "default": 2},
    "wait_days": {"type": "float", "default": 30},
    "alarm_days": {"type": "float", "default": 60},
    "max_lag_bytes": {"type": "bytes", "default": "256MB"},
}
RANGES = {
    "first_bound": (0, 1 << 62),
    "width": (0, 1 << 61),
    "months": (1, 1200),
    "ahead": (1, 100),
    "wait_days": (0, 36500),
    "alarm_days": (0, 36500),
    "max_lag_bytes": (0, 1 << 62),
}

# What the comment on a guard says of its rows.
FILLED = "bd_fhir: filled up to %d"
COMPLETE = "bd_fhir: complete"
# How many rows a sample reads.
SAMPLE = 50000
# Days over which growth is measured.
GROWTH_DAYS = 30
# At so many ids of that time it is looked when they came, to find the busiest hour.
PEAK_SAMPLES = 200

SERVER = """
SELECT pg_catalog.current_setting('server_version_num')::int AS version, pg_catalog.pg_is_in_recovery() AS in_recovery,
       (SELECT r.setting::float8 / 1000 FROM pg_catalog.pg_settings r WHERE r.name = 'deadlock_timeout') AS deadlock_timeout,
       current_user::text AS "user"
"""
RELATION = """
SELECT c.oid::bigint AS oid, c.relname::text AS name, c.relkind::text AS kind, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       c.relispartition AS partition, coalesce(pg_catalog.pg_get_partkeydef(c.oid), '') AS partition_key, c.reltuples::float8 AS reltuples,
       CASE c.relkind WHEN 'p' THEN
         (SELECT coalesce(sum(pg_catalog.pg_total_relation_size(t.relid)), 0) FROM pg_catalog.pg_partition_tree(c.oid) t WHERE t.isleaf)
         WHEN 'r' THEN pg_catalog.pg_total_relation_size(c.oid) ELSE 0 END::bigint AS bytes,
       greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid))::float8 AS rows
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s
"""
INDEXES = """
SELECT x.relname::text AS name, i.indisunique AS "unique", i.indisprimary AS "primary", i.indisvalid AND i.indisready AS valid,
       pg_catalog.pg_get_indexdef(i.indexrelid) AS definition,
       pg_catalog.format('CREATE %%sINDEX %%I ON %%s%%I.%%I USING ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname,
                         CASE c.relkind WHEN 'p' THEN 'ONLY ' ELSE '' END, n.nspname, c.relname) AS prefix,
       EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype = 'u') AS "constraint",
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY u(num, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.num
              WHERE u.place <= i.indnkeyatts ORDER BY u.place) AS columns
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE i.indrelid = %(oid)s ORDER BY 1
"""
# Both ends of every foreign key that touches a table; for all tables with oid 0.
KEYS = """
SELECT k.conname::text AS name, n.nspname::text AS schema, c.relname::text AS "table", c.relkind = 'p' AS partitioned, k.conrelid::bigint AS oid,
       fn.nspname::text AS foreign_schema, f.relname::text AS foreign_table, k.confrelid::bigint AS foreign_oid,
       k.convalidated AS validated, k.conparentid <> 0 AS inherited,
       k.confupdtype = 'a' AND k.confdeltype = 'a' AND k.confmatchtype = 's' AND NOT k.condeferrable AS plain,
       pg_catalog.pg_get_constraintdef(k.oid) AS definition,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u(num, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.place) AS columns,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u(num, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.place) AS foreign_columns
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class f ON f.oid = k.confrelid JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
 WHERE k.contype = 'f' AND (%(oid)s = 0 OR k.conrelid = %(oid)s OR k.confrelid = %(oid)s) ORDER BY n.nspname, c.relname, k.conname
"""
PARTS = """
SELECT c.relname::text AS name, n.nspname::text AS schema, pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound,
       pg_catalog.pg_total_relation_size(c.oid)::bigint AS bytes,
       greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid), 0)::float8 AS rows
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE i.inhparent = %(oid)s AND c.relispartition ORDER BY 1
"""
CHECKS = """
SELECT k.conname::text AS name, pg_catalog.pg_get_constraintdef(k.oid) AS definition, k.convalidated AS validated
  FROM pg_catalog.pg_constraint k WHERE k.conrelid = %(oid)s AND k.contype = 'c'
"""
COLUMNS = """
SELECT a.attname::text AS name, a.attnotnull AS required, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       a.attcollation::bigint AS "collation", coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '') AS "default", a.attgenerated::text AS generated
  FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
# What belongs to the oid of a table and would not go over to a parent. The guard's own triggers are seen to.
OBSTACLES = """
SELECT 'trigger ' || t.tgname::text AS what FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
 WHERE t.tgrelid = %(oid)s AND NOT t.tgisinternal AND (p.pronamespace <> c.relnamespace OR p.proname <> '{resource}{guard}')
UNION ALL SELECT 'rule ' || r.rulename::text FROM pg_catalog.pg_rewrite r WHERE r.ev_class = %(oid)s
UNION ALL SELECT DISTINCT 'view ' || v.oid::regclass::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
  JOIN pg_catalog.pg_class v ON v.oid = r.ev_class
 WHERE d.refobjid = %(oid)s AND d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
   AND r.ev_class <> %(oid)s
UNION ALL SELECT 'row security' FROM pg_catalog.pg_class c WHERE c.oid = %(oid)s AND (c.relrowsecurity OR c.relforcerowsecurity)
UNION ALL SELECT 'publication ' || p.pubname::text FROM pg_catalog.pg_publication_rel l JOIN pg_catalog.pg_publication p ON p.oid = l.prpubid
 WHERE l.prrelid = %(oid)s
UNION ALL SELECT 'exclusion constraint ' || k.conname::text FROM pg_catalog.pg_constraint k WHERE k.conrelid = %(oid)s AND k.contype = 'x'
UNION ALL SELECT 'child table ' || i.inhrelid::regclass::text FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = %(oid)s AND NOT c.relispartition
UNION ALL SELECT 'parent table ' || i.inhparent::regclass::text FROM pg_catalog.pg_inherits i WHERE i.inhrelid = %(oid)s
UNION ALL SELECT 'identity column ' || a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = %(oid)s AND a.attidentity <> ''
UNION ALL SELECT 'unlogged or temporary' FROM pg_catalog.pg_class c WHERE c.oid = %(oid)s AND c.relpersistence <> 'p'
 ORDER BY 1
""".replace("{resource}", RESOURCE).replace("{guard}", GUARD)
GUARD_TABLE = """
SELECT c.oid::bigint AS oid, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner, pg_catalog.pg_total_relation_size(c.oid)::bigint AS bytes,
       greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid), 0)::float8 AS rows,
       coalesce(pg_catalog.obj_description(c.oid, 'pg_class'), '') AS comment,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum) AS columns,
       coalesce((SELECT pg_catalog.pg_get_userbyid(p.proowner)::text FROM pg_catalog.pg_proc p
                  WHERE p.pronamespace = c.relnamespace AND p.proname = c.relname AND p.pronargs = 0 AND p.prosecdef), '') AS function_owner
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind = 'r'
"""
GUARD_TRIGGERS = """
SELECT c.relname::text AS "table", t.tgtype::int AS kind
  FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = %(schema)s AND p.proname = %(name)s AND c.relnamespace = n.oid AND t.tgenabled IN ('O', 'A')
"""
UNINDEXED = """
SELECT c.relname::text AS name
  FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid
 WHERE h.inhparent = %(oid)s AND NOT EXISTS (
   SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnatts = 2
      AND ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY u(num, place)
                  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.num ORDER BY u.place) = %(columns)s::text[])
 ORDER BY 1
"""
BUILDING = """
SELECT p.pid, coalesce(100.0 * p.blocks_done / nullif(p.blocks_total, 0), 0)::float8 AS percent
  FROM pg_catalog.pg_stat_progress_create_index p WHERE p.relid = %(oid)s AND p.datname = pg_catalog.current_database()
"""
TAKEN = """
SELECT c.relname::text AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = ANY (%(names)s) ORDER BY 1
"""
SEQUENCE = """
SELECT coalesce(s.last_value, s.start_value) AS last, s.increment_by AS increment, s.cycle AS cycles,
       pg_catalog.has_sequence_privilege(pg_catalog.format('%%I.%%I', s.schemaname, s.sequencename), 'SELECT, USAGE') AS readable
  FROM pg_catalog.pg_sequences s WHERE s.schemaname = %(schema)s AND s.sequencename = %(name)s
"""
STANDBYS = """
SELECT coalesce(nullif(r.application_name, ''), r.client_addr::text, 'pid ' || r.pid::text) AS application,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), r.replay_lsn)::bigint AS lag_bytes
  FROM pg_catalog.pg_stat_replication r WHERE r.state <> 'backup' ORDER BY 1
"""
# Without sizes, which would wait for a lock on each table. One of HAPI's that is partitioned is looked at also when its foreign key is gone.
CANDIDATES = """
SELECT DISTINCT c.relname::text AS name
  FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
 WHERE k.contype = 'f' AND n.nspname = %(schema)s AND f.relnamespace = n.oid AND f.relname = %(resource)s
   AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND k.conparentid = 0
UNION SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind = 'p' AND NOT c.relispartition AND pg_catalog.left(c.relname::text, 4) = 'hfj_' ORDER BY 1
"""
# Whose CHECK refuses ids from N on. The definition of a constraint is read without a lock on its table.
WAITING = """
SELECT c.relname::text AS name
  FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND k.conname = %(check)s AND k.contype = 'c' AND c.relkind = 'r' AND NOT c.relispartition ORDER BY 1
"""


def check_ranges(params: dict[str, Any]) -> None:
    """Raise HfjError for options that the argument spec can't refuse. Pure."""
    for name, (least, most) in RANGES.items():
        if not least <= params[name] <= most:
            raise HfjError("%s is %s. It takes %d to %d." % (name, params[name], least, most))


def candidates(session: Session, schema: str) -> list[str]:
    """Return HFJ_RESOURCE and the tables that refer to it, but for parents that are still being prepared. Raises PostgresError."""
    rows = session.rows(CANDIDATES, {"schema": schema, "resource": RESOURCE})
    return list(dict.fromkeys([RESOURCE] + [row["name"] for row in rows if not row["name"].endswith(NEW)]))


def waiting(session: Session, schema: str) -> list[str]:
    """Return the tables that wait for their swap, or for its preparation to end: those with our CHECK. Raises PostgresError."""
    return [row["name"] for row in session.rows(WAITING, {"schema": schema, "check": CHECK})]


def read_keys(session: Session, oid: int = 0) -> list[tuple[int, int, ForeignKey]]:
    """Return the foreign keys of and to a table (0: all) with the oids of both ends. Raises PostgresError."""
    return [
        (
            row["oid"],
            row["foreign_oid"],
            ForeignKey(
                row["name"], row["schema"], row["table"], tuple(row["columns"]), row["foreign_schema"], row["foreign_table"],
                tuple(row["foreign_columns"]), row["validated"], row["inherited"], row["plain"], row["partitioned"],
                row["definition"],
            ),
        )
        for row in session.rows(KEYS, {"oid": oid})
    ]  # fmt: skip


def read_relation(session: Session, schema: str, name: str, key: str = "") -> Optional[Relation]:
    """Return a table with its indexes, foreign keys and partitions; None if there is none. Raises PostgresError."""
    rows = session.rows(RELATION, {"schema": schema, "name": name})
    if not rows:
        return None
    row = rows[0]
    where = {"oid": row["oid"]}
    indexes = []
    for item in session.rows(INDEXES, where):
        rest = item["definition"][len(item["prefix"]) :] if item["definition"].startswith(item["prefix"]) else item["definition"]
        indexes.append(
            Index(item["name"], rest, item["unique"], item["primary"], item["constraint"], item["valid"], tuple(item["columns"]))
        )
    parts = []
    for item in session.rows(PARTS, where) if row["kind"] == "p" else []:
        try:
            lower, upper, default = parse_bound(item["bound"])
        except ValueError:
            # Partitioned by something else: told as foreign, since none of its parts is ours.
            if by_hash(item["bound"]):
                parts.append(Part(item["name"], None, None, False, item["bytes"], item["rows"]))
            continue
        parts.append(Part(item["name"], lower, upper, default, item["bytes"], item["rows"]))
    bound, valid = None, False
    checks = set()
    for item in session.rows(CHECKS, where):
        if item["name"] != CHECK:
            # Whether it is validated is no matter of its shape.
            checks.add((item["name"], item["definition"].removesuffix(" NOT VALID")))
        elif key:
            bound, valid = parse_check(item["definition"], key), item["validated"]
    columns = [
        Column(item["name"], item["type"], item["collation"], item["required"], item["default"], item["generated"])
        for item in session.rows(COLUMNS, where)
    ]
    return Relation(
        row["oid"], schema, row["name"], row["kind"], row["owner"], row["bytes"],
        sum(part.rows for part in parts) if row["kind"] == "p" else row["rows"],
        tuple(indexes), tuple(key for source, _target, key in read_keys(session, row["oid"]) if source == row["oid"] and not key.inherited),
        tuple(sorted(parts, key=lambda part: (part.default, part.lower is not None, part.lower or 0))), row["partition_key"], bound, valid,
        row["reltuples"] >= 0 if row["kind"] == "p" else True,
        tuple(item["what"] for item in session.rows(OBSTACLES, where)) if row["kind"] in ("r", "p") else (), tuple(columns),
        frozenset(checks),
    )  # fmt: skip


def read_table(session: Session, schema: str, name: str) -> Table:
    """Return a table of HAPI with what was prepared for it. Raises PostgresError."""
    plain = read_relation(session, schema, name)
    if plain is None:
        return Table(schema, name)
    columns = {row["name"]: row for row in session.rows(COLUMNS, {"oid": plain.oid})}
    key = _key_of(plain, columns)
    first = read_relation(session, schema, name + FIRST, key)
    if plain.partition_key.startswith("HASH"):
        source = read_relation(session, schema, hash_name(name, 0), key) or plain
    else:
        source = first if first is not None and plain.kind == "p" else plain
    pks = [index.columns for index in source.indexes if index.primary]
    pk = pks[0][0] if pks and len(pks[0]) == 1 else ""
    found = [item for _source, target, item in read_keys(session, plain.oid) if target == plain.oid and not item.inherited]
    building = session.rows(BUILDING, {"oid": plain.oid})
    return Table(
        schema, name, pk, key, bool(key) and not columns[key]["required"],
        read_relation(session, schema, name, key), read_relation(session, schema, name + NEW, key), first,
        # Who refers to the key of the partitions alone needs no partner.
        tuple(Inbound(item, "" if key == pk else _partner(session, item, key)) for item in found), (),
        building[0]["pid"] if building else 0, building[0]["percent"] if building else 0.0,
        read_guard(session, schema, plain) if name == RESOURCE else None,
    )  # fmt: skip


def read_guard(session: Session, schema: str, relation: Relation) -> Optional[Guard]:
    """Return the guard of HFJ_RESOURCE; None if there is none. Raises PostgresError."""
    where = {"schema": schema, "name": RESOURCE + GUARD}
    rows = session.rows(GUARD_TABLE, where)
    # Somebody else's table of that name is told as a name that is taken.
    if not rows or tuple(rows[0]["columns"]) != PAIR:
        return None
    row = rows[0]
    indexes = [
        item["name"]
        for item in session.rows(INDEXES, {"oid": row["oid"]})
        if item["unique"] and item["valid"] and tuple(item["columns"]) == PAIR
    ]
    found = re.match(re.escape(FILLED).replace("%d", r"(-?\d+)") + r"\Z", row["comment"])
    filled = None if row["comment"] == COMPLETE else int(found.group(1)) if found else LOWEST
    triggers = frozenset((item["table"], item["kind"]) for item in session.rows(GUARD_TRIGGERS, where))
    bare = session.rows(UNINDEXED, {"oid": relation.oid, "columns": list(PAIR)}) if relation.kind == "p" else []
    return Guard(
        row["oid"], RESOURCE + GUARD, row["owner"], row["bytes"], row["rows"], indexes[0] if indexes else "", filled, row["function_owner"],
        triggers, tuple(item["name"] for item in bare),
    )  # fmt: skip


def _key_of(relation: Relation, columns: dict[str, Any]) -> str:
    """Return the column that tells to which resource a row belongs: the one with a foreign key to it, NOT NULL before others."""
    if relation.name == RESOURCE:
        return RESOURCE_ID if RESOURCE_ID in columns else ""
    found = [
        key.columns[0]
        for key in relation.keys
        if key.foreign_table == RESOURCE and key.foreign_columns == (RESOURCE_ID,) and len(key.columns) == 1
    ]
    order = list(columns)
    found.sort(key=lambda name: (not columns[name]["required"], order.index(name)))
    return found[0] if found else ""


def _partner(session: Session, key: ForeignKey, ours: str) -> str:
    """Return the column of a table that refers to ours which holds the same resource: of the same name, or with a key to HFJ_RESOURCE."""
    rows = session.rows(RELATION, {"schema": key.schema, "name": key.table})
    if len(key.columns) == 2:
        return key.columns[1]
    columns = {row["name"]: row for row in session.rows(COLUMNS, {"oid": rows[0]["oid"]})} if rows else {}
    names = [name for name, row in columns.items() if row["required"] and row["type"] == "bigint"]
    others = [
        item.columns[0]
        for source, _target, item in read_keys(session, rows[0]["oid"] if rows else 0)
        if rows and source == rows[0]["oid"] and item.foreign_table == RESOURCE and len(item.columns) == 1 and item.columns[0] in names
    ]
    return ours if ours in names else others[0] if len(others) == 1 else ""


def with_taken(session: Session, table: Table, bounds: Bounds) -> Table:
    """Return a table with the names that somebody else has and that partitioning would make. Raises PostgresError."""
    if table.main is None or table.main.kind != "r":
        return table
    names = names_made(table, bounds)
    ours = {index.name for item in (table.main, table.new) if item for index in item.indexes}
    ours |= {part.name for part in table.new.parts} if table.new else set()
    ours |= {part_name(index.name, part.lower or 0) for index in own_unique(table, table.main) for part in (table.new.parts if table.new else ())}
    ours |= {table.name + UNIQUE} | ({table.new.name} if table.new and table.new.kind == "p" else set())
    ours |= {table.guard.name, table.guard.index} if table.guard else set()
    rows = session.rows(TAKEN, {"schema": table.schema, "names": names})
    return replace(table, taken=tuple(row["name"] for row in rows if row["name"] not in ours))


def read_sequence(session: Session, schema: str, name: str, growth: bool = True) -> Sequence:
    """Return the sequence of HFJ_RESOURCE's ids and how quickly it grows. Raises PostgresError, HfjError when it is not there."""
    from psycopg2 import sql

    if not session.rows(RELATION, {"schema": schema, "name": RESOURCE}):
        raise HfjError("There is no table %s.%s. Correct the schema or the database." % (schema, RESOURCE))
    # Before the sequence: while HAPI works, an id that is read after it may be of a later block, and would look as if nobody had given it out.
    highest = session.value(sql.SQL("SELECT max(res_id) FROM {}").format(sql.Identifier(schema, RESOURCE))) or 0
    rows = session.rows(SEQUENCE, {"schema": schema, "name": name})
    if not rows:
        raise HfjError(
            "There is no sequence %s.%s. Name HAPI's in sequence: it is seq_resource_id in 7.2." % (schema, name)
        )
    row = rows[0]
    if not row["readable"]:
        raise HfjError(
            "This user may not read the sequence %s.%s, and the server then shows no position. GRANT SELECT ON SEQUENCE %s.%s to it."
            % (schema, name, schema, name)
        )
    per_day = read_growth(session, schema, highest) if growth and highest else None
    peak = read_peak(session, schema, highest, per_day) if growth and highest else 0.0
    return Sequence(name, row["last"], row["increment"], row["cycles"], highest, per_day, peak)


def read_peak(session: Session, schema: str, highest: int, per_day: Optional[float]) -> float:
    """Return the most ids that came within an hour of the last month, from the dates of some rows. Raises PostgresError."""
    from psycopg2 import sql

    low = max(0, highest - int(per_day * GROWTH_DAYS)) if per_day else 0
    query = sql.SQL(
        "SELECT DISTINCT r.id, r.hour FROM pg_catalog.generate_series(%(low)s::bigint, %(highest)s::bigint, %(step)s::bigint) g(at), LATERAL"
        " (SELECT t.res_id AS id, (extract(epoch FROM t.res_published) / 3600)::float8 AS hour FROM {} t WHERE t.res_id >= g.at"
        " ORDER BY t.res_id LIMIT 1) r WHERE r.hour IS NOT NULL"
    ).format(sql.Identifier(schema, RESOURCE))
    step = max(1, (highest - low) // PEAK_SAMPLES)
    rows = session.rows(query, {"low": low, "highest": highest, "step": step})
    return busiest_hour([(row["id"], row["hour"]) for row in rows])


def read_growth(session: Session, schema: str, highest: int, days: float = GROWTH_DAYS) -> Optional[float]:
    """Return how many ids a day are given out, from the dates of some thirty rows found by the primary key. None: not known.

    The id of a month ago is searched by halves; nothing is counted.
    """
    from psycopg2 import sql

    at = sql.SQL(
        "SELECT r.res_id AS id, (extract(epoch FROM pg_catalog.clock_timestamp()::timestamp - r.res_published) / 86400)::float8 AS age"
        " FROM {} r WHERE r.res_id >= %s ORDER BY r.res_id LIMIT 1"
    ).format(sql.Identifier(schema, RESOURCE))
    rows = session.rows(at, (0,))
    if not rows or rows[0]["age"] is None:
        return None
    low, high = rows[0]["id"], highest
    oldest = rows[0]["age"]
    if oldest > days:
        while high - low > 1:
            middle = (low + high) // 2
            rows = session.rows(at, (middle,))
            if rows and rows[0]["age"] is not None and rows[0]["age"] > days:
                low = middle
            else:
                high = middle
        oldest = days
    # Less than a day is no sample: what a bulk load did in an hour says nothing.
    return (highest - low) / oldest if oldest >= 1 else None


def hapi_partitions(session: Session, schema: str) -> bool:
    """Return whether HAPI's own partitioning is or was in use. Raises PostgresError."""
    from psycopg2 import sql

    if session.rows(RELATION, {"schema": schema, "name": "hfj_partition"}) and session.rows(
        sql.SQL("SELECT 1 AS one FROM {} LIMIT 1").format(sql.Identifier(schema, "hfj_partition"))
    ):
        return True
    newest = sql.SQL("SELECT partition_id FROM {} ORDER BY res_id DESC LIMIT 1000").format(sql.Identifier(schema, RESOURCE))
    return any(row["partition_id"] is not None for row in session.rows(newest))


def read_standbys(session: Session) -> list[dict[str, Any]]:
    """Return who receives, and how far each is behind; None where this user may not see it. Raises PostgresError."""
    return session.rows(STANDBYS)


def measure(session: Session, table: Table, rows: int = SAMPLE) -> Optional[float]:
    """Return the seconds that reading and sorting a row takes, from a sample; None for an empty table. Raises PostgresError."""
    from psycopg2 import sql

    if table.main is None or not table.pk or not table.key:
        return None
    # What the index is built on, or the guard is filled with.
    pair = sql.SQL(", ").join(sql.Identifier(name) for name in (PAIR if table.narrow else table.pair))
    query = sql.SQL("SELECT count(*) AS n FROM (SELECT {} FROM (SELECT {} FROM {} LIMIT %s) s ORDER BY 1, 2 OFFSET 0) o").format(
        pair, pair, sql.Identifier(table.schema, table.name)
    )
    begun = time.monotonic()
    count = session.value(query, (rows,))
    return (time.monotonic() - begun) / count if count else None


def free_bytes(docker: Docker, container: Container, session: Session) -> Optional[int]:
    """Return the free space where the server keeps its data; None if it can't be told."""
    try:
        place = session.value("SELECT pg_catalog.current_setting('data_directory')")
    except PostgresError:
        return None
    rc, out, dummy = docker.docker("exec", container.id, "df", "-Pk", str(place), check=False)
    words = out.splitlines()[-1].split() if rc == 0 and out.strip() else []
    return int(words[3]) * 1024 if len(words) > 3 and words[3].isdigit() else None


def report(table: Table, sequence: Sequence, bounds: Bounds) -> dict[str, Any]:
    """Return a table as modules tell it. Pure."""
    main = table.main
    return {
        "schema": table.schema,
        "table": table.name,
        "state": table.state,
        "key": table.key,
        "primary_key": table.pk,
        "bytes": main.bytes if main else 0,
        "rows": max(int(main.rows), 0) if main else 0,
        "rows_per_day": _rows_per_day(table, sequence),
        "foreign_keys": [_key_report(key) for key in (main.keys if main else ())],
        "referenced_by": [_key_report(item.key) for item in table.inbound],
        "partitions": parts_report(main.parts if main else ()),
        "guard": _guard_report(table, sequence),
        "bounds": {"first": bounds.first, "width": bounds.width, "ahead": bounds.ahead},
    }


def parts_report(parts: Sequenced[Part]) -> list[dict[str, Any]]:
    """Return partitions as modules tell them. Pure."""
    return [{"name": part.name, "lower": part.lower, "upper": part.upper, "bytes": part.bytes, "rows": int(part.rows)} for part in parts]


def _guard_report(table: Table, sequence: Sequence) -> Optional[dict[str, Any]]:
    """Return what is told of a guard, or of the one that would be made; None for a table that needs none."""
    indexes = [index for index in (guarded_index(table.main), guarded_index(table.first)) if index is not None]
    if table.guard is None and not indexes:
        return None
    guard, rows = table.guard, max(table.main.rows, 0.0) if table.main else 0.0
    faults = guard_faults(table)
    percent = 0.0
    if guard is not None:
        percent = 100.0 if guard.filled is None else round(max(0.0, min(100.0, 100.0 * guard.filled / max(1, sequence.highest))), 1)
    return {
        "name": RESOURCE + GUARD,
        "state": "none" if guard is None else "broken" if faults else "complete" if guard.filled is None else "filling",
        "percent": percent,
        "faults": faults if guard is not None else [],
        "rows": int(guard.rows) if guard is not None else 0,
        "bytes": guard.bytes if guard is not None else 0,
        "expected_bytes": int(rows * GUARD_BYTES),
    }


def _key_report(key: ForeignKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "table": key.table,
        "columns": list(key.columns),
        "foreign_table": key.foreign_table,
        "foreign_columns": list(key.foreign_columns),
        "validated": key.validated,
    }


def _rows_per_day(table: Table, sequence: Sequence) -> Optional[int]:
    """Return the rows that a table gets in a day: as many for each new resource as there are today."""
    if table.main is None or not sequence.per_day or sequence.highest < 1 or table.main.rows < 0:
        return None
    return round(table.main.rows / sequence.highest * sequence.per_day)
