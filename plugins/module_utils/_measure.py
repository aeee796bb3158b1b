# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How large the databases are and how they are used, read without counting rows and without reading a table of HAPI whole.

Every statement on a table of HAPI is explained first and not run when its plan would read a table whole; with enable_seqscan off
that means that there is no index for it. What can't be read is named, and the rest is read all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Optional, TypeVar

from . import _plans
from ._findings import finding
from ._growth import iso
from ._phase import Measure
from ._postgres import PostgresError, Session

T = TypeVar("T")

PAGE_BYTES = 8192
# Rows of HFJ_RES_VER that are looked at to see where a window begins.
FIRST_ROWS = 500
# Clients that are told apart at most.
MOST_CLIENTS = 20_000
# Pages of each partition that a sample of the audit table looks at, about.
SAMPLE_PAGES = 500
# Statements of the site that are explained, and that are looked at to find so many.
MOST_SEARCHES = 20
MOST_STATEMENTS = 200
# Pages below which the size of an index or the dead rows of a table do not matter.
SMALL_PAGES = 1000
BLOATED = 0.5
# Days that counters must have counted before something counts as unused.
UNUSED_DAYS = 30.0

DATABASE = """
SELECT pg_catalog.now() AS now, pg_catalog.current_setting('server_version_num')::int AS version,
       pg_catalog.pg_is_in_recovery() AS in_recovery, d.oid::bigint AS oid, s.stats_reset AS stats_reset,
       pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all
  FROM pg_catalog.pg_database d LEFT JOIN pg_catalog.pg_stat_database s ON s.datid = d.oid
 WHERE d.datname = pg_catalog.current_database()
"""
DATABASE_BYTES = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"
SYSTEM = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"
SENDERS = """
SELECT application_name, state FROM pg_catalog.pg_stat_replication
 WHERE application_name NOT IN ('pg_basebackup', 'pg_receivewal', 'pgbackrest') AND state <> 'backup'
"""
# No lock is taken for any of it: sizes, which need one, are read apart.
TABLES = """
SELECT c.oid::bigint AS oid, c.relname AS name, c.relkind::text AS kind, c.reltuples::float8 AS rows, c.relpages AS pages,
       p.relname AS parent, s.n_live_tup AS live, s.n_dead_tup AS dead, s.n_mod_since_analyze AS modified, s.n_tup_ins AS inserted,
       greatest(s.last_analyze, s.last_autoanalyze) AS analyzed_at, greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at,
       coalesce((SELECT option_value FROM pg_catalog.pg_options_to_table(c.reloptions) WHERE option_name = 'autovacuum_vacuum_scale_factor'),
                pg_catalog.current_setting('autovacuum_vacuum_scale_factor'))::float8 AS scale,
       coalesce((SELECT option_value FROM pg_catalog.pg_options_to_table(c.reloptions) WHERE option_name = 'autovacuum_vacuum_threshold'),
                pg_catalog.current_setting('autovacuum_vacuum_threshold'))::float8 AS threshold,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
  LEFT JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
  LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND (c.relname LIKE %(pattern)s OR p.relname LIKE %(pattern)s)
 ORDER BY c.relname
"""
SIZES = """
SELECT c.oid::bigint AS oid, pg_catalog.pg_relation_size(c.oid) AS heap_bytes, pg_catalog.pg_total_relation_size(c.oid) AS total_bytes
  FROM pg_catalog.pg_class c WHERE c.oid = ANY(%s::oid[])
"""
INDEXES = """
SELECT t.relname AS "table", c.relname AS name, i.indisvalid AND i.indisready AS valid, i.indisunique AS is_unique, i.indisprimary AS is_primary,
       c.relpages AS pages, c.reltuples::float8 AS rows, s.idx_scan AS scans, m.amname AS method,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number ORDER BY k.place) AS columns,
       ARRAY(SELECT a.attlen::int FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number ORDER BY k.place) AS widths
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
  JOIN pg_catalog.pg_am m ON m.oid = c.relam
  LEFT JOIN pg_catalog.pg_stat_all_indexes s ON s.indexrelid = c.oid
 WHERE i.indrelid = ANY(%s::oid[]) AND c.relkind = 'i'
 ORDER BY t.relname, c.relname
"""
WIDTHS = 'SELECT tablename AS "table", attname AS name, avg_width AS width FROM pg_catalog.pg_stats WHERE schemaname = %s AND tablename LIKE %s'
# Whoever may become such a role counts as one.
MIGHTY = """
SELECT bool_or(r.rolsuper OR r.rolcreaterole OR r.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'))
  FROM pg_catalog.pg_roles r WHERE pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER')
"""
EXTENSION = """
SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'
"""
STATEMENTS = """
SELECT query, min(queryid)::text AS queryid, sum(calls)::bigint AS calls, sum(total_exec_time) / greatest(sum(calls), 1) AS mean_ms
  FROM {}.pg_stat_statements
 WHERE dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
   AND query ~* '^\\s*select\\s+(count\\s*\\(\\s*)?(distinct\\s+)?t\\d+\\.' AND query ~* '\\mhfj_'
 GROUP BY query ORDER BY sum(total_exec_time) DESC LIMIT %s
"""
HIDDEN = "SELECT true FROM {}.pg_stat_statements WHERE query = '<insufficient privilege>' LIMIT 1"

IDS = "SELECT min(res_id), max(res_id) FROM {}"
NEWEST = "SELECT max(pid) AS pid, max(res_updated) AS at FROM {}"
FIRST = "SELECT pid, res_id, res_ver, res_updated FROM {} WHERE res_updated >= %s ORDER BY res_updated LIMIT %s"
EARLIER = "SELECT true FROM {} WHERE res_updated < %s ORDER BY res_updated DESC LIMIT 1"

# From one client to the next by the index: the events of each are not read. The month is the beginning of the window's first partition,
# so that no walk passes over what a client did before the window.
CLIENTS = """
WITH RECURSIVE walk AS (
    (SELECT a.client_id, 1 AS number FROM {table} a WHERE a.client_id IS NOT NULL AND a.{key} >= %(month)s ORDER BY a.client_id LIMIT 1)
    UNION ALL
    SELECT (SELECT a.client_id FROM {table} a WHERE a.client_id > walk.client_id AND a.{key} >= %(month)s ORDER BY a.client_id LIMIT 1),
           walk.number + 1
      FROM walk WHERE walk.client_id IS NOT NULL AND walk.number < %(most)s
)
SELECT w.client_id::text AS client FROM walk w
 WHERE w.client_id IS NOT NULL AND EXISTS (SELECT FROM {table} a WHERE a.client_id = w.client_id AND a.{key} >= %(since)s)
"""
SAMPLED = """
SELECT DISTINCT a.client_id::text AS client FROM {table} a TABLESAMPLE SYSTEM (%(percent)s) REPEATABLE (1)
 WHERE a.client_id IS NOT NULL AND a.{key} >= %(since)s
"""
# By its size of now: what was never analyzed has no rows that anybody knows of. A table without partitions is no tree.
LARGEST_BYTES = """
SELECT greatest(pg_catalog.pg_relation_size(%(table)s::regclass), (SELECT max(pg_catalog.pg_relation_size(t.relid))
  FROM pg_catalog.pg_partition_tree(%(table)s::regclass) t WHERE t.isleaf))
"""


class NoIndex(Exception):
    """A statement would have read a table whole. The text says which."""


@dataclass
class Look:
    """One database that is looked at: what could not be read is kept beside what could."""

    session: Session
    service: str
    schema: str
    unread: list[dict[str, Any]] = field(default_factory=list)

    def table(self, name: str) -> Any:
        """Return the quoted name of a table of the schema."""
        from psycopg2 import sql

        return sql.Identifier(self.schema, name)

    def missing(self, what: str, why: str) -> None:
        """Note what could not be read."""
        self.unread.append({"what": what, "service": self.service, "why": why})

    def attempt(self, what: str, read: Callable[[], T], otherwise: T) -> T:
        """Return what can be read, else the other value, and note it. A lost session is raised: there is nothing more to read."""
        try:
            return read()
        except NoIndex as exc:
            self.missing(what, str(exc))
        except PostgresError as exc:
            if exc.kind == "lost":
                raise
            self.missing(what, str(exc))
        return otherwise

    def by_index(self, statement: Any, params: Any = None, ordered: bool = False) -> list[dict[str, Any]]:
        """Run a statement if its plan reads no table whole, and (ordered) sorts nothing. Raises NoIndex, PostgresError."""
        from psycopg2 import sql

        plan = _plans.root_of(self.session.value(sql.SQL("EXPLAIN (FORMAT JSON) ") + statement, params))
        whole = _plans.reads_whole(plan)
        if whole:
            raise NoIndex("no index serves it, and %s is not read whole for it" % ", ".join(whole))
        if ordered and _plans.sorts(plan):
            raise NoIndex("no index gives the order that it needs")
        return self.session.rows(statement, params)


def begin(session: Session, lock_seconds: int) -> None:
    """Let a session only read, wait for no lock for long, and read no table whole where there is an index."""
    session.execute("SET default_transaction_read_only = on")
    # Whoever may create in another schema could put an operator there that fits better, and it would run as us.
    session.execute("SET search_path = pg_catalog")
    session.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", ("%ds" % lock_seconds,))
    session.execute("SET max_parallel_workers_per_gather = 0")
    session.execute("SET jit = off")
    for name in ("seqscan", "sort"):
        session.execute("SET enable_%s = off" % name)


# --- HAPI's database -----------------------------------------------------------------------------------------------


def estimate(table: Mapping[str, Any], heap_bytes: Optional[int]) -> Optional[float]:
    """Return the rows of a table as the planner would: as dense as at the last ANALYZE, in as many pages as it has now. Pure."""
    rows, pages = table["rows"], table["pages"]
    if heap_bytes == 0:
        return 0.0
    if rows is None or rows < 0:
        return None
    if not pages:
        # Nothing was in it at the last look; of a table that has pages by now nothing is known.
        return 0.0 if heap_bytes is None else None
    now = pages if heap_bytes is None else heap_bytes / PAGE_BYTES
    return float(round(rows / pages * now))


def leaves(tables: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Return the tables that hold the rows of one: itself, or its partitions. A partitioned parent is never vacuumed. Pure."""
    return [item for item in tables if item["kind"] == "r" and name in (item["name"], item["parent"])]


def resources(tables: Sequence[Mapping[str, Any]], sizes: Mapping[int, Mapping[str, Any]], ids: Optional[tuple[int, int]]) -> Measure:
    """Return how many resources there are: an estimate, never more than the range of their numbers. Pure."""
    parts = leaves(tables, "hfj_resource")
    counted = [estimate(item, (sizes.get(item["oid"]) or {}).get("heap_bytes")) for item in parts]
    span = None if ids is None else float(ids[1] - ids[0] + 1)
    analyzed = [item["analyzed_at"] for item in parts if item["analyzed_at"]]
    oldest = min(analyzed) if analyzed and len(analyzed) == len(parts) else None
    known = [value for value in counted if value is not None]
    if parts and len(known) == len(parts):
        total = sum(known)
        if span is not None and span < total:
            return Measure(span, "range of RES_ID", "at_most")
        return Measure(total, "density at the last ANALYZE, times the pages of now", "estimate", as_of=oldest)
    if span is not None:
        return Measure(span, "range of RES_ID, since the table was never analyzed", "at_most")
    return Measure(
        None, why="HFJ_RESOURCE was never analyzed, and the range of its numbers could not be read" if parts else "there is no HFJ_RESOURCE"
    )


@dataclass(frozen=True)
class Rate:
    """What was written in a window, a day."""

    created: Measure
    versions: Optional[float]
    days: float


def rate_of(
    first: Sequence[Mapping[str, Any]], earlier: bool, newest_pid: Optional[int], newest_id: Optional[int], since: datetime, now: datetime
) -> Rate:
    """Return the resources and the versions a day since then. Pure.

    The numbers come from sequences, so that the first of a window and the last tell how many there are between. A restart of HAPI or a
    refused write leaves some out: it is at most so many. Few rows are all there, and counted. Before the first row there is no window.
    """
    start = since if earlier or not first else max(since, min(row["res_updated"] for row in first).replace(tzinfo=timezone.utc))
    days = max(1.0, (now - start).total_seconds() / 86400)
    created = [row["res_id"] for row in first if row["res_ver"] == 1]
    if len(first) < FIRST_ROWS:
        return Rate(Measure(round(len(created) / days, 2), "every version of the window", "exact"), round(len(first) / days, 2), days)
    versions = None if newest_pid is None else max(0.0, (newest_pid - min(row["pid"] for row in first) + 1) / days)
    if created and newest_id is not None:
        value = max(0, newest_id - min(created) + 1) / days
        return Rate(Measure(round(value, 2), "range of RES_ID in the window", "at_most"), versions and round(versions, 2), days)
    if versions is not None:
        return Rate(
            Measure(round(versions, 2), "versions in the window, since none of its first is a new resource", "at_most"), round(versions, 2), days
        )
    return Rate(Measure(None, why="the newest numbers could not be read"), None, days)


def read_rate(look: Look, now: datetime, days: int, newest_id: Optional[int]) -> Rate:
    """Return what was written in the last days. HAPI writes moments without a zone; they are taken for UTC. Raises NoIndex, PostgresError."""
    from psycopg2 import sql

    table = look.table("hfj_res_ver")
    since = now.astimezone(timezone.utc) - timedelta(days=days)
    bare = since.replace(tzinfo=None)
    first = look.by_index(sql.SQL(FIRST).format(table), (bare, FIRST_ROWS), ordered=True)
    earlier = bool(look.by_index(sql.SQL(EARLIER).format(table), (bare,), ordered=True))
    newest = look.by_index(sql.SQL(NEWEST).format(table))
    return rate_of(first, earlier, newest[0]["pid"], newest_id, since, now)


def read_ids(look: Look) -> tuple[int, int]:
    """Return the smallest and the largest RES_ID, 1 and 0 of an empty table. Raises NoIndex, PostgresError."""
    from psycopg2 import sql

    row = look.by_index(sql.SQL(IDS).format(look.table("hfj_resource")))[0]
    return (1, 0) if row["max"] is None else (row["min"], row["max"])


# --- tables and indexes --------------------------------------------------------------------------------------------


def table_report(table: Mapping[str, Any], size: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is told of a table. Pure."""
    live, dead = table["live"] or 0, table["dead"] or 0
    return {
        "name": table["name"],
        "parent": table["parent"] or "",
        "rows": estimate(table, size["heap_bytes"] if size else None),
        "heap_bytes": size["heap_bytes"] if size else None,
        "total_bytes": size["total_bytes"] if size else None,
        "dead_rows": table["dead"],
        "dead_percent": round(100.0 * dead / (live + dead), 1) if live + dead else 0.0,
        "analyzed_at": iso(table["analyzed_at"]),
        "vacuumed_at": iso(table["vacuumed_at"]),
    }


def table_findings(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what is wrong with tables. Only what holds rows is judged. Pure."""
    found = []
    for table in tables:
        if table["kind"] != "r":
            continue
        if table["pages"] > SMALL_PAGES and (table["rows"] is None or table["rows"] < 0 or not table["analyzed_at"]):
            found.append(
                finding(
                    "statistics_missing", "warning", table["name"], "a table that was analyzed", "nobody knows when, if ever",
                    "ANALYZE it, as after every restore: its size is only guessed until then.",
                )
            )  # fmt: skip
        trigger = table["threshold"] + table["scale"] * max(table["rows"] or 0, 0)
        if table["pages"] > SMALL_PAGES and (table["dead"] or 0) > 2 * trigger:
            found.append(
                finding(
                    "vacuum_behind", "warning", table["name"], "at most %s dead rows, at which autovacuum begins" % format(trigger, ",.0f"),
                    "%s, vacuumed %s" % (format(table["dead"], ",.0f"), iso(table["vacuumed_at"]) or "never that is known"),
                    "Look for an old transaction (pg_stat_activity, xact_start) or a slot that holds rows back, then VACUUM it.",
                )
            )  # fmt: skip
    return found


def expected_pages(index: Mapping[str, Any], widths: Mapping[tuple[str, str], int]) -> Optional[float]:
    """Return how many pages a b-tree needs at most for its rows, at its fill factor of 90; None when a width is not known. Pure."""
    if index["method"] != "btree" or index["rows"] is None or index["rows"] < 0:
        return None
    total = 0
    for name, length in zip(index["columns"], index["widths"]):
        width = length if length > 0 else widths.get((index["table"], name))
        if width is None:
            return None
        total += width
    entry = 8 + (total + 7) // 8 * 8 + 4
    return float(max(1.0, index["rows"] * entry / ((PAGE_BYTES - 40) * 0.9)))


def index_report(index: Mapping[str, Any], widths: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """Return what is told of an index. bloat is an estimate; None where it can't be made. Pure."""
    pages = expected_pages(index, widths)
    bloat = None if pages is None or not index["pages"] else round(max(0.0, 1 - pages / index["pages"]), 2)
    return {
        "table": index["table"],
        "name": index["name"],
        "valid": index["valid"],
        "columns": list(index["columns"]),
        "bytes": index["pages"] * PAGE_BYTES,
        "scans": index["scans"],
        "bloat": bloat,
    }


def index_findings(indexes: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]], counted_days: Optional[float]) -> list[dict[str, Any]]:
    """Return what is wrong with indexes. counted_days: for how long their uses were surely counted. Pure."""
    found = []
    for index, report in zip(indexes, reports):
        where = "%s on %s" % (index["name"], index["table"])
        if not index["valid"]:
            found.append(
                finding(
                    "index_invalid", "warning", where, "an index that searches can use", "an invalid one, from a build that did not end",
                    "Unless somebody builds it right now (pg_stat_progress_create_index): DROP INDEX CONCURRENTLY, and create it anew.",
                )
            )  # fmt: skip
            continue
        if index["pages"] <= SMALL_PAGES:
            continue
        if report["bloat"] is not None and report["bloat"] > BLOATED:
            found.append(
                finding(
                    "index_bloated", "info", where, "at most twice the pages that its rows need",
                    "an estimated %d %% of it empty" % (100 * report["bloat"]),
                    "REINDEX INDEX CONCURRENTLY at a quiet hour. It is an estimate: measure with pgstattuple first if it matters.",
                )
            )  # fmt: skip
        if index["scans"] == 0 and not index["is_unique"] and counted_days is not None and counted_days >= UNUSED_DAYS:
            found.append(
                finding(
                    "index_unused", "info", where, "an index that is used", "no use in the %.0f days that were counted" % counted_days,
                    "Reads on a standby are not counted here. HAPI's own schema has its reasons; ask before an index goes. REINDEX does not help.",
                )
            )  # fmt: skip
    return found


def counted_days(stats_reset: Optional[datetime], oldest_sample: Optional[datetime], now: datetime) -> Optional[float]:
    """Return for how many days the counters have surely counted; None when nobody knows.

    Since their reset, but not from before the first sample of this very database: after a restore they begin anew, and tell nobody. Pure.
    """
    if oldest_sample is None:
        return None
    begin_at = oldest_sample if stats_reset is None else max(oldest_sample, stats_reset)
    return max(0.0, (now - begin_at).total_seconds() / 86400)


# --- plans ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Searches:
    """The searches to explain, where they come from, and why not from the site itself. No text of a statement is told: it may hold anything."""

    items: list[dict[str, Any]]
    source: str = "default"
    why: str = ""


def read_searches(look: Look, known: Collection[str]) -> Searches:
    """Return the searches to explain. known: the tables that they may name. Raises PostgresError."""
    from psycopg2 import sql

    default = [
        {"name": name, "query": query, "queryid": None, "tables": list(_plans.tables_of(query, known) or ()), "calls": None, "mean_ms": None}
        for name, query in _plans.DEFAULT_SEARCHES
    ]
    if look.session.value(MIGHTY):
        return Searches(default, why="a superuser, or who may become one, plans no statement of others: log in as a role that only reads")
    schema = look.session.value(EXTENSION)
    if schema is None:
        return Searches(default, why="pg_stat_statements is not in this database")
    named = sql.Identifier(schema)
    try:
        rows = look.session.rows(sql.SQL(STATEMENTS).format(named), (MOST_STATEMENTS,))
        hidden = not rows and look.session.value(sql.SQL(HIDDEN).format(named))
    except PostgresError as exc:
        if exc.kind == "lost":
            raise
        look.missing("the site's own searches", str(exc))
        return Searches(default, why="pg_stat_statements could not be read")
    if hidden:
        look.missing("the site's own searches", "pg_stat_statements hides the statements of others from this role: GRANT pg_read_all_stats to it")
        return Searches(default, why="pg_stat_statements hides them")
    own = []
    for row in rows:
        tables = _plans.tables_of(row["query"], known)
        if tables:
            name = "query %s (%s)" % (row["queryid"], ", ".join(tables))
            own.append({**row, "name": name, "tables": list(tables), "mean_ms": round(float(row["mean_ms"]), 3)})
    if own:
        return Searches(own[:MOST_SEARCHES], "pg_stat_statements")
    why = "pg_stat_statements has none yet"
    if rows:
        why = "none of %d statements is surely a search of HAPI: they hold literals, or name something else" % len(rows)
    return Searches(default, why=why)


def explain(look: Look, query: str, known: Collection[str]) -> Any:
    """Return the generic plan of a statement with parameters. Nothing is run. Raises PostgresError."""
    text, count = _plans.prepared(query, look.schema, known)
    session = look.session
    # psycopg2 leaves a percent sign alone when it is given no parameters.
    session.execute("PREPARE bd_fhir_search AS " + text)
    try:
        call = "(%s)" % ", ".join(["NULL"] * count) if count else ""
        return session.value("EXPLAIN (FORMAT JSON) EXECUTE bd_fhir_search" + call)
    finally:
        session.execute("DEALLOCATE bd_fhir_search")


def catalog(
    tables: Sequence[Mapping[str, Any]], sizes: Mapping[int, Mapping[str, Any]], indexes: Sequence[Mapping[str, Any]], described: set[str]
) -> dict[str, _plans.Table]:
    """Return the tables as a plan is judged by them. described: those that have statistics, though the counters forgot since when. Pure."""
    found = {}
    for item in tables:
        if item["kind"] != "r":
            continue
        own = tuple(_plans.Index(index["name"], tuple(index["columns"]), index["valid"]) for index in indexes if index["table"] == item["name"])
        size = sizes.get(item["oid"])
        rows = estimate(item, size["heap_bytes"] if size else None)
        modified = None if item["modified"] is None else float(item["modified"])
        analyzed = bool(item["analyzed_at"]) or item["name"] in described
        pages = None if size is None else size["heap_bytes"] / PAGE_BYTES
        found[item["name"]] = _plans.Table(item["name"], rows, modified, analyzed, own, item["parent"] or "", pages)
    return found


def read_plans(look: Look, tables: Mapping[str, _plans.Table], columns: Mapping[str, Sequence[str]], large: float) -> dict[str, Any]:
    """Return the plans of searches and what is wrong with them. Raises PostgresError when the session is lost."""
    searches = read_searches(look, columns)
    session = look.session
    # As HAPI's own sessions plan.
    for name in ("enable_seqscan", "enable_sort", "max_parallel_workers_per_gather", "jit"):
        session.execute("RESET " + name)
    session.execute("SET plan_cache_mode = force_generic_plan")
    reports = []
    scans: list[_plans.Scan] = []
    for search in searches.items:
        try:
            answer = explain(look, search["query"], columns)
            bad = _plans.judge_plan(answer, tables, columns, large)
        except (PostgresError, ValueError) as exc:
            if isinstance(exc, PostgresError) and exc.kind == "lost":
                raise
            look.missing("the plan of %s" % search["name"], str(exc))
            continue
        scans += bad
        reports.append(
            {
                **{key: value for key, value in search.items() if key != "query"},
                "cost": round(_plans.cost(answer), 2),
                "scans": [
                    {
                        "table": item.table,
                        "rows": item.rows,
                        "wanted": item.wanted,
                        "reason": item.reason,
                        "detail": item.detail,
                        "hint": _plans.HINTS[item.reason],
                    }
                    for item in bad
                ],
            }
        )
    return {"source": searches.source, "why": searches.why, "searches": reports, "scans": scans}


def plan_findings(plans: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a finding for each reason of each table. Pure."""
    found = []
    seen = set()
    for search in plans["searches"]:
        for item in search["scans"]:
            if (item["table"], item["reason"]) in seen:
                continue
            seen.add((item["table"], item["reason"]))
            found.append(
                finding(
                    "search_reads_table", "warning", item["table"], "an index, for the search: %s" % search["name"],
                    "a sequential scan, because of %s: %s" % (item["reason"], item["detail"]), item["hint"],
                )
            )  # fmt: skip
    return found


# --- the audit database --------------------------------------------------------------------------------------------


def sampled_percent(size: Optional[int]) -> float:
    """Return which share of its pages is looked at in a table whose largest partition has so many bytes. Pure."""
    return min(100.0, max(0.01, 100.0 * SAMPLE_PAGES / max(1.0, (size or 0) / PAGE_BYTES)))


def read_vendors(look: Look, table: str, key: str, now: datetime, days: int) -> Measure:
    """Return how many clients had traffic in the last days. Raises PostgresError."""
    from psycopg2 import sql

    since = now.astimezone(timezone.utc) - timedelta(days=days)
    month = since.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    names = {"table": look.table(table), "key": sql.Identifier(key)}
    try:
        statement = sql.SQL(CLIENTS).format(**names)
        rows = look.by_index(statement, {"month": month, "since": since, "most": MOST_CLIENTS}, ordered=True)
        quality = "at_least" if len(rows) >= MOST_CLIENTS else "exact"
        return Measure(float(len(rows)), "index (client_id, %s), the last %d days" % (key, days), quality)
    except NoIndex as exc:
        # Without an index from client to client, a few pages of each month tell who is there, though not that nobody else is.
        quoted = '"%s"."%s"' % (look.schema.replace('"', '""'), table.replace('"', '""'))
        percent = sampled_percent(look.session.value(LARGEST_BYTES, {"table": quoted}))
        rows = look.session.rows(sql.SQL(SAMPLED).format(**names), {"percent": percent, "since": since})
        quality = "exact" if percent >= 100 else "at_least"
        return Measure(float(len(rows)), "a sample of %.4g %% of the pages: %s" % (percent, exc), quality)
