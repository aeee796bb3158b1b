# Private to the dghs.bd_fhir collection: no stable interface, do not import it from elsewhere.
# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why PostgreSQL reads a whole table for a FHIR search, from the plan that EXPLAIN (FORMAT JSON) shows. Pure.

A sequential scan alone says nothing: on a small table, or below a LIMIT that many rows fulfil, it is right. Only where none of the
reasons that are mended more easily holds, and the table is large, partitioning is what helps.

Plans are generic ones: the statement is prepared, plan_cache_mode is force_generic_plan, and EXPLAIN EXECUTE is given NULLs, which a
generic plan does not look at. That works from PostgreSQL 12 on; EXPLAIN (GENERIC_PLAN) is new in 16.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

# HAPI 7.2.0 with its default settings, as pg_stat_statements of PostgreSQL 15 showed its statements.
DEFAULT_SEARCHES: tuple[tuple[str, str], ...] = (
    ("token (identifier, code)", "SELECT t0.RES_ID FROM HFJ_SPIDX_TOKEN t0 WHERE (t0.HASH_SYS_AND_VALUE = $1) fetch first $2 rows only"),
    (
        "string (name)",
        "SELECT t0.RES_ID FROM HFJ_SPIDX_STRING t0 WHERE ((t0.HASH_NORM_PREFIX = $1) AND (t0.SP_VALUE_NORMALIZED LIKE $2)) fetch first $3 rows only",
    ),
    (
        "date",
        "SELECT t0.RES_ID FROM HFJ_SPIDX_DATE t0 WHERE ((t0.HASH_IDENTITY = $1) AND (t0.SP_VALUE_HIGH_DATE_ORDINAL >= $2)) fetch first $3 rows only",
    ),
    (
        "reference (subject)",
        "SELECT t0.SRC_RESOURCE_ID FROM HFJ_RES_LINK t0 WHERE ((t0.SRC_PATH = $1) AND (t0.TARGET_RESOURCE_ID = $2)) fetch first $3 rows only",
    ),
    (
        "chain (patient.identifier)",
        "SELECT t0.SRC_RESOURCE_ID FROM HFJ_RES_LINK t0 INNER JOIN HFJ_SPIDX_TOKEN t1 ON (t0.TARGET_RESOURCE_ID = t1.RES_ID)"
        " WHERE ((t0.SRC_PATH = $1) AND ((t1.HASH_SYS_AND_VALUE = $2) OR (t1.HASH_SYS_AND_VALUE = $3))) fetch first $4 rows only",
    ),
    (
        "token and date (code, date)",
        "SELECT t1.RES_ID FROM HFJ_RESOURCE t1 INNER JOIN HFJ_SPIDX_TOKEN t0 ON (t1.RES_ID = t0.RES_ID)"
        " INNER JOIN HFJ_SPIDX_DATE t2 ON (t1.RES_ID = t2.RES_ID)"
        " WHERE ((t0.HASH_SYS_AND_VALUE = $1) AND ((t2.HASH_IDENTITY = $2) AND (t2.SP_VALUE_HIGH_DATE_ORDINAL >= $3))) fetch first $4 rows only",
    ),
    (
        "sorted by _lastUpdated",
        "SELECT t1.RES_ID FROM HFJ_RESOURCE t1 INNER JOIN HFJ_SPIDX_TOKEN t0 ON (t1.RES_ID = t0.RES_ID)"
        " WHERE (t0.HASH_VALUE = $1) ORDER BY t1.RES_UPDATED DESC NULLS LAST fetch first $2 rows only",
    ),
    (
        "type and _lastUpdated",
        "SELECT t0.RES_ID FROM HFJ_RESOURCE t0 WHERE (((t0.RES_TYPE = $1) AND (t0.RES_DELETED_AT IS NULL)) AND (t0.RES_UPDATED >= $2))"
        " fetch first $3 rows only",
    ),
)

# What HAPI's SearchBuilder makes, and no other statement of HAPI: it names its tables t0, t1, …
SEARCH = re.compile(r"^\s*select\s+(count\s*\(\s*)?(distinct\s+)?t\d+\.", re.IGNORECASE)
# Such a statement has words, parameters and comparisons. A text or a number of its own is none of it: it could be a patient's.
_PIECE = re.compile(r"\s+|/\*, \.\.\. \*/|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<parameter>\$\d+)|(?P<sign><>|!=|<=|>=|[(),.*=<>])")
_ALIAS = re.compile(r"t\d+\Z")
_KEYWORDS = frozenset((
    "select", "distinct", "from", "where", "and", "or", "not", "in", "like", "ilike", "escape", "between", "is", "null", "true", "false", "inner",
    "left", "right", "full", "outer", "cross", "join", "on", "as", "order", "by", "group", "having", "asc", "desc", "nulls", "first", "last",
    "limit", "offset", "fetch", "next", "row", "rows", "only", "union", "all", "any", "exists", "case", "when", "then", "else", "end",
))  # fmt: skip
# What may stand before a bracket. Of functions only these: whatever else is called could be anybody's, and runs while it is planned.
_BEFORE_BRACKET = frozenset((
    "select", "from", "where", "and", "or", "not", "in", "like", "between", "join", "on", "as", "by", "having", "union", "all", "any", "exists",
    "when", "then", "else",
))  # fmt: skip
_FUNCTIONS = frozenset(("count", "min", "max", "coalesce", "upper", "lower"))
_FETCH = re.compile(r"fetch\s+first\s+\$\d+\s+rows\s+only", re.IGNORECASE)
_PARAMETER = re.compile(r"\$(\d+)")
# A parameter there would let the planner assume a tenth of all rows. HAPI asks for a page and some more.
PAGE = 1000

# Below this many rows, or in so few pages, reading a table whole is as good as anything.
SMALL_ROWS = 50_000
SMALL_PAGES = 1000
# As many branches of an OR, or values of an IN, are large.
LARGE_OR = 20
# A search that wants a larger share of a table than this is best served by reading it.
UNSELECTIVE = 0.05
# Changes since the last ANALYZE, as a share of the rows: autovacuum itself analyzes at a tenth.
STALE_SHARE = 0.25

REASONS = ("stale_statistics", "large_or", "missing_index", "unselective", "table_size")
HINTS = {
    "stale_statistics": "ANALYZE the table, and see why autovacuum does not: the planner counts on what the table was.",
    "large_or": "The search asks for many values at once, or joins conditions by OR. Let the client ask for fewer, or page by identifier.",
    "missing_index": "Compare the indexes with those of HAPI's schema, and make the missing one, CONCURRENTLY.",
    "unselective": "The search itself asks for a large part of the table. Look at who asks, and for what; no index and no partition helps.",
    "table_size": "Indexes and statistics are in order; the table is too large for the plan. Partitioning is due.",
}


@dataclass(frozen=True)
class Index:
    """An index, with its columns in their order."""

    name: str
    columns: tuple[str, ...]
    valid: bool = True


@dataclass(frozen=True)
class Table:
    """What the catalog says of a table. rows is None when it was never analyzed."""

    name: str
    rows: Optional[float]
    modified: Optional[float] = None
    analyzed: bool = True
    indexes: tuple[Index, ...] = ()
    # The partitioned table that this one is a part of.
    parent: str = ""
    # As it is now, whatever the statistics say. None when that could not be read.
    pages: Optional[float] = None


@dataclass(frozen=True)
class Scan:
    """A table that is read whole, and why."""

    table: str
    rows: Optional[float]
    wanted: float
    reason: str
    detail: str


def tables_of(text: str, known: Collection[str]) -> Optional[tuple[str, ...]]:
    """Return the tables of a statement, None when it is no search of HAPI that may be planned.

    known: the tables of HAPI. A statement may name them, columns of theirs by an alias, parameters and a few functions of PostgreSQL's own,
    and nothing else: no other table, no view, no function or operator of somebody else, no literal, no second statement.
    """
    text = text.strip()
    if not SEARCH.match(text):
        return None
    found: list[str] = []
    pieces: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        match = _PIECE.match(text, place)
        if not match:
            return None
        place = match.end()
        if match.lastgroup:
            pieces.append((match.lastgroup, match.group().lower()))
    for number, (kind, piece) in enumerate(pieces):
        before = pieces[number - 1][1] if number else ""
        after = pieces[number + 1][1] if number + 1 < len(pieces) else ""
        # Only a column of an alias: no other schema.
        if piece == "." and (not _ALIAS.match(before) or (number > 1 and pieces[number - 2][1] == ".")):
            return None
        if kind != "word" or before == ".":
            # A column before a bracket would be a call.
            if kind == "word" and after == "(":
                return None
            continue
        if after == "(":
            if piece not in _BEFORE_BRACKET and piece not in _FUNCTIONS:
                return None
        elif piece in known and piece not in _KEYWORDS:
            found.append(piece)
        elif not _ALIAS.match(piece) and piece not in _KEYWORDS:
            return None
    return tuple(dict.fromkeys(found)) or None


def prepared(text: str, schema: str, known: Collection[str]) -> tuple[str, int]:
    """Return a statement that tables_of() takes, to be planned where only pg_catalog is searched, and how many parameters it has.

    Its tables get their schema, and its limit a page's size.
    """
    text = _FETCH.sub("fetch first %d rows only" % PAGE, text.strip())
    quoted = '"%s".' % schema.replace('"', '""')
    text = re.sub(r"(?<!\.)\b[A-Za-z_][A-Za-z0-9_]*", lambda word: quoted * (word.group().lower() in known) + word.group(), text)
    return text, max((int(number) for number in _PARAMETER.findall(text)), default=0)


def nodes(plan: Mapping[str, Any], above: tuple[Mapping[str, Any], ...] = ()) -> Iterator[tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]]:
    """Yield every node of a plan with those above it, the nearest last."""
    yield plan, above
    for child in plan.get("Plans") or []:
        yield from nodes(child, (*above, plan))


def root_of(answer: Any) -> Mapping[str, Any]:
    """Return the plan in what EXPLAIN (FORMAT JSON) answers. Raises ValueError when it is none."""
    if isinstance(answer, list) and answer and isinstance(answer[0], Mapping) and isinstance(answer[0].get("Plan"), Mapping):
        found: Mapping[str, Any] = answer[0]["Plan"]
        return found
    raise ValueError("EXPLAIN answered no plan")


def reads_whole(plan: Mapping[str, Any]) -> list[str]:
    """Return the tables that a plan reads from end to end."""
    return sorted({str(node.get("Relation Name", "")) for node, _above in nodes(plan) if node.get("Node Type") == "Seq Scan"})


def sorts(plan: Mapping[str, Any]) -> bool:
    """Tell whether a plan sorts, which means that no index gives the order."""
    return any("Sort" in str(node.get("Node Type")) for node, _above in nodes(plan))


def _limited(above: Sequence[Mapping[str, Any]]) -> Optional[float]:
    """Return the rows of a LIMIT that ends the scan below early; None where something has to see all of them first."""
    for node in reversed(above):
        kind = str(node.get("Node Type"))
        if kind == "Limit":
            return float(node.get("Plan Rows") or 0)
        if kind not in ("Gather", "Append", "Result", "Subquery Scan"):
            return None
    return None


def or_branches(condition: str) -> int:
    """Return how many values or branches a condition offers: the larger of its ORs and its longest list."""
    branches: int = condition.count(" OR ") + 1 if " OR " in condition else 0
    lists: list[str] = re.findall(r"ANY \('\{([^}]*)\}'", condition) + re.findall(r"ANY \(ARRAY\[([^\]]*)\]", condition)
    return max([branches, *(item.count(",") + 1 for item in lists)])


def columns_of(condition: str, known: Sequence[str]) -> list[str]:
    """Return which of the known columns a condition compares, in their order in it."""
    # Texts may hold anything.
    bare = re.sub(r"'(?:[^']|'')*'", "''", condition)
    words = re.findall(r"[A-Za-z_][A-Za-z0-9_]*", bare)
    return [word for place, word in enumerate(words) if word in known and word not in words[:place]]


def stale(table: Table) -> str:
    """Return in words why the statistics of a table can't be relied on, '' when they can."""
    if not table.analyzed or table.rows is None:
        return "it was never analyzed"
    if table.modified is not None and table.modified > STALE_SHARE * max(table.rows, 1):
        return "%s rows changed since the last ANALYZE, of %s" % (format(table.modified, ",.0f"), format(table.rows, ",.0f"))
    return ""


def without_index(condition: str, table: Table, known: Sequence[str]) -> str:
    """Return in words which index a condition lacks, '' when each of its parts has one that begins with a column of it."""
    parts = re.split(r" OR ", condition) if " OR " in condition else [condition]
    for part in parts:
        columns = columns_of(part, known)
        if not columns:
            continue
        served = [index for index in table.indexes if index.columns and index.columns[0] in columns]
        if any(index.valid for index in served):
            continue
        if served:
            return "%s is invalid, and no other index begins with %s" % (served[0].name, " or ".join(columns))
        return "no index begins with %s" % " or ".join(columns)
    return ""


def judge_scan(node: Mapping[str, Any], above: Sequence[Mapping[str, Any]], table: Table, columns: Sequence[str], large: float) -> Optional[Scan]:
    """Return why a sequential scan is there, None when it is right. large: rows from which a table counts as too large."""
    # Parallel workers share the rows.
    workers = max([float(item.get("Workers Planned") or 0) for item in above], default=0.0)
    wanted = float(node.get("Plan Rows") or 0) * (1 + workers)
    never = stale(table)
    if (table.pages is not None and table.pages < SMALL_PAGES) or (table.rows is not None and table.rows < SMALL_ROWS and not never):
        return None
    condition = str(node.get("Filter") or "")
    limited = _limited(above)

    def scan(reason: str, detail: str) -> Scan:
        return Scan(table.name, table.rows, wanted, reason, detail)

    if never:
        return scan("stale_statistics", never)
    rows = float(table.rows or 1)
    if limited is not None and limited < wanted and wanted > UNSELECTIVE * rows:
        # It ends after a few rows, since so many fulfil the condition.
        return None
    branches = or_branches(condition)
    if branches >= LARGE_OR:
        return scan("large_or", "%d values or branches in one condition" % branches)
    lacking = without_index(condition, table, columns)
    if lacking:
        return scan("missing_index", lacking)
    if wanted > UNSELECTIVE * rows and rows < large:
        return scan("unselective", "%s of %s rows are wanted" % (format(min(wanted, rows), ",.0f"), format(rows, ",.0f")))
    return scan("table_size", "%s rows, with an index and fresh statistics" % format(rows, ",.0f"))


def judge_plan(answer: Any, tables: Mapping[str, Table], columns: Mapping[str, Sequence[str]], large: float) -> list[Scan]:
    """Return the tables that a plan reads whole though it should not, each with its reason. Raises ValueError.

    tables and columns by name of the table. A partition is judged by its own figures and its parent's name.
    """
    found: dict[tuple[str, str], Scan] = {}
    for node, above in nodes(root_of(answer)):
        if node.get("Node Type") != "Seq Scan":
            continue
        name = str(node.get("Relation Name", ""))
        if name not in tables:
            continue
        table = tables[name]
        scan = judge_scan(node, above, table, columns.get(name, ()), large)
        if scan:
            shown = table.parent or name
            found.setdefault((shown, scan.reason), Scan(shown, scan.rows, scan.wanted, scan.reason, scan.detail))
    return sorted(found.values(), key=lambda item: (REASONS.index(item.reason), item.table))


def cost(answer: Any) -> float:
    """Return what the planner thinks a plan costs. Raises ValueError."""
    return float(root_of(answer).get("Total Cost") or 0)


def partitioning(resources: Optional[float], plan_at: float, due_at: float, scans: Sequence[Scan]) -> dict[str, Any]:
    """Return whether partitioning is due, and why: by size alone, or by plans for which nothing else helps."""
    by_size = sorted({scan.table for scan in scans if scan.reason == "table_size" and (scan.rows or 0) >= plan_at})
    if by_size:
        return {"state": "due", "why": "searches read %s whole, though indexes and statistics are in order" % ", ".join(by_size)}
    if resources is None:
        return {"state": "unknown", "why": "the number of resources is not known"}
    if resources >= due_at:
        return {"state": "due", "why": "%s resources, %s or more" % (format(resources, ",.0f"), format(due_at, ",.0f"))}
    if resources >= plan_at:
        return {"state": "plan", "why": "%s resources, %s or more" % (format(resources, ",.0f"), format(plan_at, ",.0f"))}
    return {"state": "no", "why": "%s resources, fewer than %s" % (format(resources, ",.0f"), format(plan_at, ",.0f"))}
