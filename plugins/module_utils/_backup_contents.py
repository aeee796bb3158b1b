# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# ruff: noqa: S608 - statements are put together from constants of this file and from quoted identifiers

"""What a database holds, as the same statements tell it on the source and on a restored copy, and whether the two agree. Pure."""

from __future__ import annotations

import json
import re

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

# Both sides print a row as the same text only under the same settings; no search path, so that names come out in full.
SETTINGS = (
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, MDY'",
    "SET IntervalStyle = 'postgres'",
    "SET extra_float_digits = 3",
    "SET bytea_output = 'hex'",
    "SET xmloption = 'content'",
    "SET lc_monetary = 'C'",
    "SET search_path = pg_catalog",
    "SET row_security = off",
    "SET statement_timeout = 0",
    "SET lock_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET jit = off",
)

_OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
_NOT_OF_EXTENSION = (
    "NOT EXISTS (SELECT FROM pg_depend d WHERE d.deptype = 'e' AND d.objid = %(oid)s AND d.classid = 'pg_catalog.%(catalog)s'::regclass)"
)


def _own(oid: str, catalog: str) -> str:
    return "%s AND %s" % (_OURS, _NOT_OF_EXTENSION % {"oid": oid, "catalog": catalog})


TABLES = (
    "SELECT n.nspname::text AS schema, c.relname::text AS name, pg_table_size(c.oid) AS size,"
    " coalesce((SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") FROM pg_attribute a"
    " WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}') AS columns"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND %s"
    ' ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"' % _own("c.oid", "pg_class")
)

# What must be there besides rows, as one text an object. Expressions are left out: the server prints some in another way after they
# were read again, though they mean the same. What PostgreSQL makes by itself below a partitioned table may get another name.
OBJECTS = {
    "schema": "SELECT format('%%I, owner %%s', n.nspname, pg_get_userbyid(n.nspowner)) FROM pg_namespace n WHERE %s"
    % _own("n.oid", "pg_namespace"),
    "relation": (
        "SELECT format('%%I.%%I, kind %%s, owner %%s, rights %%s', n.nspname, c.relname, c.relkind, pg_get_userbyid(c.relowner),"
        " (SELECT string_agg(i::text, ' ' ORDER BY i::text COLLATE \"C\") FROM unnest(coalesce(c.relacl,"
        " acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", c.relowner))) i))"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't' AND %s" % _own("c.oid", "pg_class")
    ),
    "column": (
        "SELECT format('%%I.%%I.%%I, type %%s, not null %%s', n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),"
        " a.attnotnull) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped AND %s"
        % _own("c.oid", "pg_class")
    ),
    "partition": (
        "SELECT format('%%I.%%I of %%s', n.nspname, c.relname, i.inhparent::regclass) FROM pg_inherits i"
        " JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'f') AND %s"
        % _own("c.oid", "pg_class")
    ),
    "constraint": (
        "SELECT format('%%I on %%I.%%I, type %%s, validated %%s', k.conname, n.nspname, c.relname, k.contype, k.convalidated)"
        " FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE k.conparentid = 0 AND k.contype IN ('c', 'f', 'p', 'u', 'x') AND c.relpersistence <> 't' AND %s" % _own("c.oid", "pg_class")
    ),
    "index": (
        "SELECT format('%%I.%%I on %%I, unique %%s, columns %%s, method %%s', n.nspname, x.relname, c.relname, i.indisunique, i.indnatts,"
        " m.amname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid"
        " JOIN pg_am m ON m.oid = x.relam JOIN pg_namespace n ON n.oid = x.relnamespace WHERE c.relpersistence <> 't' AND %s"
        % _own("c.oid", "pg_class")
    ),
    "trigger": (
        "SELECT format('%%I on %%I.%%I, enabled %%s', t.tgname, n.nspname, c.relname, t.tgenabled) FROM pg_trigger t"
        " JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND c.relpersistence <> 't' AND %s" % _own("c.oid", "pg_class")
    ),
    "function": (
        "SELECT format('%%I.%%I(%%s), owner %%s, source %%s', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid),"
        " pg_get_userbyid(p.proowner), md5(p.prosrc)) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE %s"
        % _own("p.oid", "pg_proc")
    ),
    "extension": "SELECT format('%I', e.extname) FROM pg_extension e",
    "role": "SELECT format('%I, superuser %s, login %s', rolname, rolsuper, rolcanlogin) FROM pg_roles WHERE rolname !~ '^pg_'",
    "database": (
        "SELECT format('encoding %s, collation %s, character type %s, owner %s', pg_encoding_to_char(encoding), datcollate, datctype,"
        " pg_get_userbyid(datdba)) FROM pg_database WHERE datname = current_database()"
    ),
}

TABLE_LIST = "SELECT coalesce(jsonb_agg(q), '[]')::text FROM (%s) q" % TABLES

SEQUENCES = "SELECT coalesce(jsonb_object_agg(format('%I.%I', schemaname, sequencename), last_value), '{}')::text FROM pg_sequences"
# How far a server that recovers may be ahead: it writes 32 values into its log before they are given out, counted in what a session keeps.
AHEAD = """
SELECT coalesce(jsonb_object_agg(format('%I.%I', schemaname, sequencename), increment_by * (32 + cache_size)), '{}')::text FROM pg_sequences
"""
CYCLING = "SELECT format('%I.%I', schemaname, sequencename) AS name FROM pg_sequences WHERE cycle"
# A hole in a large object is restored as zeros, so zeros at the ends of a page count for nothing.
LARGE_OBJECTS = (
    "SELECT (SELECT count(*) FROM pg_largeobject_metadata)::text || ' ' ||"
    " (SELECT coalesce(sum(hashtextextended(ROW(loid, pageno, btrim(data, '\\x00'::bytea))::text COLLATE \"C\", 0)), 0)"
    " FROM pg_largeobject WHERE btrim(data, '\\x00'::bytea) <> ''::bytea)::text"
)
WRITTEN = "SELECT schemaname::text AS schema, relname::text AS name, n_tup_ins AS ins, n_tup_upd AS upd, n_tup_del AS del FROM pg_stat_user_tables"


def identifier(name: str) -> str:
    """Return an SQL identifier, always quoted."""
    return '"' + name.replace('"', '""') + '"'


def title(schema: str, name: str) -> str:
    """Return the name of a table as people read it; parts that are no plain word are quoted, so that no two tables share one."""
    return ".".join(part if re.match(r"[a-z_][a-z0-9_]*\Z", part) else identifier(part) for part in (schema, name))


@dataclass(frozen=True)
class Table:
    """A table with rows of its own."""

    schema: str
    name: str
    columns: tuple[str, ...]
    size: int = 0

    @property
    def title(self) -> str:
        return title(self.schema, self.name)

    def statement(self) -> str:
        """Return the query for the number of rows and a sum over them that does not depend on their order."""
        row = "ROW(%s)" % ", ".join("t." + identifier(name) for name in self.columns)
        return "SELECT count(*)::text || ' ' || coalesce(sum(hashtextextended(%s::text COLLATE \"C\", 0)), 0)::text FROM ONLY %s.%s t" % (
            row,
            identifier(self.schema),
            identifier(self.name),
        )


@dataclass
class Contents:
    """What a database holds, in a form that can be compared."""

    tables: dict[str, tuple[int, str]] = field(default_factory=dict)  # title -> rows, sum
    objects: dict[str, set[str]] = field(default_factory=dict)  # kind -> texts
    sequences: dict[str, Optional[int]] = field(default_factory=dict)
    large_objects: tuple[int, str] = (0, "0")

    @property
    def rows(self) -> int:
        return sum(rows for rows, _sum in self.tables.values())


def objects_statement(kind: str) -> str:
    """Return the query for all objects of a kind as one line of JSON."""
    return "SELECT coalesce(jsonb_agg(o ORDER BY o COLLATE \"C\"), '[]')::text FROM (%s) q(o)" % OBJECTS[kind]


def statements(tables: Sequence[Table]) -> list[str]:
    """Return the queries whose answers, one line each, parse_contents() reads."""
    return [item.statement() for item in tables] + [objects_statement(kind) for kind in OBJECTS] + [SEQUENCES, LARGE_OBJECTS]


def script(tables: Sequence[Table], workers: int) -> str:
    """Return statements() as a file for psql."""
    settings = [*SETTINGS, "SET max_parallel_workers_per_gather = %d" % workers]
    return "".join(line + ";\n" for line in settings + statements(tables))


def parse_sum(line: str) -> tuple[int, str]:
    """Parse the answer for a table. Raises ValueError."""
    rows, _space, value = line.partition(" ")
    if not re.match(r"-?[0-9]+\Z", value):
        raise ValueError("not a count and a sum")
    return int(rows), value


def parse_contents(tables: Sequence[Table], lines: Sequence[str]) -> Contents:
    """Build Contents from the answers to statements(). Raises ValueError when they are not as many, or not of that form."""
    kinds = list(OBJECTS)
    if len(lines) != len(tables) + len(kinds) + 2:
        raise ValueError("%d answers where %d are expected" % (len(lines), len(tables) + len(kinds) + 2))
    rest = lines[len(tables) :]
    return Contents(
        tables={item.title: parse_sum(line) for item, line in zip(tables, lines)},
        objects={kind: set(json.loads(line)) for kind, line in zip(kinds, rest)},
        sequences=json.loads(rest[-2]),
        large_objects=parse_sum(rest[-1]),
    )


def named(items: Iterable[str], most: int = 3) -> str:
    """Return the first few of many names."""
    ordered = sorted(items)
    more = len(ordered) - most
    return ", ".join(ordered[:most]) + (" and %d more" % more if more > 0 else "")


def sequence_differences(
    before: Mapping[str, Any], after: Mapping[str, Any], restored: Mapping[str, Any], cycling: Iterable[str], ahead: Mapping[str, int]
) -> list[str]:
    """Compare sequences, which belong to no snapshot: a restored one stands between before and after the backup, or as far ahead as it may."""
    found = []
    for name in sorted(set(before) & set(after)):
        if name in cycling:
            continue
        if name not in restored:
            found.append("the sequence %s is missing" % name)
            continue
        low, high, value = before[name], after[name], restored[name]
        if low is None or value is None or high is None:
            # None: nobody has taken a value yet.
            right = value is None if high is None else (low is None or value is not None)
        else:
            furthest = high + ahead.get(name, 0)
            right = min(low, high, furthest) <= value <= max(low, high, furthest)
        if not right:
            found.append("the sequence %s stands at %s, and stood at %s to %s while the backup was made" % (name, value, low, high))
    return found


@dataclass(frozen=True)
class Written:
    """How many rows of a table were written between two readings of the server's counters."""

    inserted: int
    updated: int
    deleted: int


@dataclass
class Later:
    """What the source says when the backup is complete: the bounds within which a restored copy may stand."""

    sequences: Mapping[str, Optional[int]]
    cycling: Sequence[str] = ()
    # None: the backup holds exactly the source's snapshot. Otherwise it is of some moment between that and now.
    written: Optional[Mapping[str, Written]] = None
    objects: Mapping[str, set[str]] = field(default_factory=dict)
    tables: frozenset[str] = frozenset()
    # Sequence -> how far beyond its value of now the copy may be.
    ahead: Mapping[str, int] = field(default_factory=dict)


def explained(source: tuple[int, str], restored: tuple[int, str], written: Optional[Written]) -> bool:
    """Tell whether a table may have come from one state to the other by what was written."""
    if source == restored:
        return True
    if written is None or written == Written(0, 0, 0):
        return False
    return source[0] - written.deleted <= restored[0] <= source[0] + written.inserted


def differences(source: Contents, restored: Contents, later: Later) -> list[str]:
    """Return what the restored copy holds in another way than the source, [] when it is the same."""
    found = []
    for name, value in source.tables.items():
        there = restored.tables.get(name)
        if there is None:
            if later.written is None or name in later.tables:
                found.append("the table %s is missing, or has other columns" % name)
        elif not explained(value, there, later.written.get(name) if later.written is not None else None):
            why = "other contents" if there[0] == value[0] else "%d rows instead of %d" % (there[0], value[0])
            found.append("the table %s has %s" % (name, why))
    for kind, texts in source.objects.items():
        there_now = restored.objects.get(kind, set())
        also = later.objects.get(kind, texts)
        lost, extra = (texts & also) - there_now, there_now - (texts | also)
        if lost:
            found.append("missing %s: %s" % (kind, named(lost)))
        if extra:
            found.append("additional %s: %s" % (kind, named(extra)))
    found += sequence_differences(source.sequences, later.sequences, restored.sequences, later.cycling, later.ahead)
    if source.large_objects != restored.large_objects and later.written is None:
        found.append("%d large objects instead of %d, or other contents" % (restored.large_objects[0], source.large_objects[0]))
    return found


def since(before: Mapping[str, Written], after: Mapping[str, Written]) -> dict[str, Written]:
    """Return what was written between two readings of the counters; counters that were set back count from zero."""
    found = {}
    for name, now in after.items():
        then = before.get(name, Written(0, 0, 0))
        if now.inserted < then.inserted or now.updated < then.updated or now.deleted < then.deleted:
            then = Written(0, 0, 0)
        found[name] = Written(now.inserted - then.inserted, now.updated - then.updated, now.deleted - then.deleted)
    return found
