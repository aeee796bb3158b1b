# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pure part; what is read is tested on a real server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _measure, _plans
from ansible_collections.dghs.bd_fhir.plugins.module_utils._measure import Look, NoIndex
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 26, 3, tzinfo=timezone.utc)
SINCE = NOW - timedelta(days=7)
RECORDED = Path(__file__).parents[1] / "fixtures/plans"


def table(**more: Any) -> dict[str, Any]:
    return {
        "oid": 1, "name": "hfj_resource", "kind": "r", "parent": None, "rows": 1000.0, "pages": 10, "live": 1000, "dead": 0, "modified": 0,
        "inserted": 1000, "analyzed_at": NOW, "vacuumed_at": NOW, "scale": 0.2, "threshold": 50.0, "columns": ["res_id"], **more,
    }  # fmt: skip


def index(**more: Any) -> dict[str, Any]:
    return {
        "table": "hfj_resource", "name": "i", "valid": True, "is_unique": False, "is_primary": False, "pages": 5000, "rows": 1_000_000.0,
        "scans": 5, "method": "btree", "columns": ["res_id"], "widths": [8], **more,
    }  # fmt: skip


# --- how many ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "pages", "heap", "wanted"),
    [
        (1000, 10, 10 * 8192, 1000), (1000, 10, 20 * 8192, 2000), (1000, 10, None, 1000), (-1, 0, 0, 0), (-1, 0, 8192, None),
        (-1, 10, 80 * 8192, None),
        (0, 0, 0, 0), (0, 0, None, 0), (0, 0, 8192, None), (None, 0, None, None), (1000, 10, 0, 0),
    ],
)  # fmt: skip
def test_rows_as_the_planner_estimates_them(rows: Optional[float], pages: int, heap: Optional[int], wanted: Optional[float]) -> None:
    assert _measure.estimate(table(rows=rows, pages=pages), heap) == wanted


def test_resources() -> None:
    sizes = {1: {"heap_bytes": 81920}}
    found = _measure.resources([table()], sizes, (1, 5000))
    assert (found.value, found.quality, found.as_of) == (1000, "estimate", NOW)
    # A table can't have more rows than numbers.
    found = _measure.resources([table()], sizes, (1, 900))
    assert (found.value, found.quality) == (900, "at_most")
    found = _measure.resources([table(rows=-1.0, analyzed_at=None)], sizes, (101, 600))
    assert (found.value, found.quality) == (500, "at_most")
    assert "never analyzed" in found.method
    assert _measure.resources([table(rows=-1.0)], sizes, None).value is None
    assert _measure.resources([], {}, None).why == "there is no HFJ_RESOURCE"
    assert _measure.resources([table(rows=-1.0, pages=0)], {1: {"heap_bytes": 0}}, (1, 0)).value == 0


def test_resources_of_partitions_not_of_their_parent() -> None:
    """Case 145: nobody vacuums or analyzes a partitioned parent; its partitions are judged."""
    parts = [table(name=f"p{number}", oid=number, parent="hfj_resource", analyzed_at=NOW - timedelta(days=number)) for number in (1, 2)]
    tables = [table(kind="p", rows=-1.0, pages=0, analyzed_at=None, dead=None), *parts]
    found = _measure.resources(tables, {}, (1, 5000))
    assert (found.value, found.as_of) == (2000, NOW - timedelta(days=2))
    assert _measure.table_findings(tables) == []
    assert set(_measure.catalog(tables, {}, [], set())) == {"p1", "p2"}


# --- how fast ------------------------------------------------------------------------------------------------------


def versions(count: int, first_id: int = 1, first_pid: int = 1, at: datetime = SINCE, version: int = 1) -> list[dict[str, Any]]:
    bare = at.replace(tzinfo=None)
    return [{"pid": first_pid + n, "res_id": first_id + n, "res_ver": version, "res_updated": bare + timedelta(seconds=n)} for n in range(count)]


def test_few_versions_are_counted() -> None:
    rate = _measure.rate_of(versions(70) + versions(7, version=2), True, 900, 900, SINCE, NOW)
    assert (rate.created.value, rate.created.quality, rate.versions, rate.days) == (10, "exact", 11, 7)
    nothing = _measure.rate_of([], True, 900, 900, SINCE, NOW)
    assert (nothing.created.value, nothing.versions) == (0, 0)


def test_many_are_the_distance_of_their_numbers() -> None:
    rate = _measure.rate_of(versions(500, 1000, 3000), True, 3000 + 14_000 - 1, 1000 + 7_000 - 1, SINCE, NOW)
    assert (rate.created.value, rate.created.quality, rate.versions) == (1000, "at_most", 2000)


def test_only_updates_at_the_begin_of_the_window() -> None:
    rate = _measure.rate_of(versions(500, 5, 3001, version=2), True, 3000 + 7_000, 90_000, SINCE, NOW)
    assert (rate.created.value, rate.created.quality) == (1000, "at_most")
    assert "versions" in rate.created.method
    assert _measure.rate_of(versions(500, version=2), True, None, 9, SINCE, NOW).created.value is None


def test_a_deployment_that_is_younger_than_the_window() -> None:
    rate = _measure.rate_of(versions(200, at=NOW - timedelta(days=2)), False, 200, 200, SINCE, NOW)
    assert (rate.created.value, round(rate.days)) == (100, 2)
    # A pause is none: something was there before.
    assert _measure.rate_of(versions(70, at=NOW - timedelta(days=2)), True, 200, 200, SINCE, NOW).created.value == 10
    # The first hour tells no day.
    assert _measure.rate_of(versions(200, at=NOW - timedelta(hours=1)), False, 200, 200, SINCE, NOW).created.value == 200


@given(st.integers(500, 10**9), st.integers(0, 10**9))
def test_more_numbers_are_never_fewer_a_day(newest: int, more: int) -> None:
    rates = [_measure.rate_of(versions(500), True, value, value, SINCE, NOW).created.value for value in (newest, newest + more)]
    assert rates[0] is not None
    assert rates[1] is not None
    assert rates[0] <= rates[1]


# --- tables and indexes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, []),
        ({"pages": 5000, "rows": -1.0}, ["statistics_missing"]),
        ({"pages": 5000, "analyzed_at": None}, ["statistics_missing"]),
        ({"pages": 10, "analyzed_at": None}, []),
        # Autovacuum begins at 200,050; twice as many it should not let be.
        ({"pages": 5000, "rows": 1_000_000.0, "dead": 400_000}, []),
        ({"pages": 5000, "rows": 1_000_000.0, "dead": 400_101}, ["vacuum_behind"]),
        ({"pages": 5000, "rows": 1_000_000.0, "dead": 30_000, "scale": 0.01}, ["vacuum_behind"]),
        ({"pages": 5000, "rows": 1_000_000.0, "dead": None, "live": None}, []),
    ],
)
def test_what_is_wrong_with_a_table(changed: dict[str, Any], wanted: list[str]) -> None:
    assert [item["id"] for item in _measure.table_findings([table(**changed)])] == wanted


def test_a_table_as_it_is_told() -> None:
    told = _measure.table_report(table(live=90, dead=10), {"heap_bytes": 81920, "total_bytes": 99})
    assert (told["dead_percent"], told["rows"], told["total_bytes"]) == (10.0, 1000, 99)
    empty = _measure.table_report(table(live=None, dead=None, analyzed_at=None), None)
    assert (empty["dead_percent"], empty["heap_bytes"], empty["analyzed_at"], empty["rows"]) == (0.0, None, None, 1000)


@pytest.mark.parametrize(
    ("changed", "days", "wanted"),
    [
        ({}, 90.0, []), ({"valid": False}, None, ["index_invalid"]), ({"valid": False, "pages": 1}, None, ["index_invalid"]),
        ({"scans": 0}, 90.0, ["index_unused"]), ({"scans": 0}, 29.0, []), ({"scans": 0}, None, []), ({"scans": 0, "is_unique": True}, 90.0, []),
        ({"scans": 0, "pages": 10}, 90.0, []), ({"pages": 20_000}, 90.0, ["index_bloated"]), ({"pages": 20_000, "widths": [-1]}, 90.0, []),
        ({"pages": 20_000, "method": "gin"}, 90.0, []), ({"rows": -1.0}, 90.0, []),
    ],
)  # fmt: skip
def test_case_140_what_is_wrong_with_an_index(changed: dict[str, Any], days: Optional[float], wanted: list[str]) -> None:
    """No advice to drop what was not used in counters that are young, or nobody knows how old."""
    item = index(**changed)
    assert [found["id"] for found in _measure.index_findings([item], [_measure.index_report(item, {})], days)] == wanted


def test_a_width_that_statistics_tell() -> None:
    item = index(pages=20_000, widths=[-1])
    assert _measure.index_report(item, {("hfj_resource", "res_id"): 8})["bloat"] == 0.86
    assert _measure.index_report(item, {("hfj_res_ver", "res_id"): 8})["bloat"] is None
    # Postgres keeps equal entries once: fewer pages than expected are no bloat.
    assert _measure.index_report(index(pages=500), {})["bloat"] == 0


def test_for_how_long_was_counted() -> None:
    ago = {days: NOW - timedelta(days=days) for days in (1, 40, 90)}
    assert _measure.counted_days(None, None, NOW) is None
    assert _measure.counted_days(ago[90], None, NOW) is None
    assert _measure.counted_days(None, ago[40], NOW) == 40
    assert _measure.counted_days(ago[1], ago[40], NOW) == 1
    assert _measure.counted_days(ago[90], ago[40], NOW) == 40


def test_a_table_with_statistics_whose_counters_were_lost_is_no_stale_one() -> None:
    found = _measure.catalog([table(analyzed_at=None)], {1: {"heap_bytes": 81920}}, [index()], {"hfj_resource"})["hfj_resource"]
    assert (found.analyzed, found.pages, found.indexes[0].columns) == (True, 10, ("res_id",))
    assert not _measure.catalog([table(analyzed_at=None)], {}, [], set())["hfj_resource"].analyzed


def test_one_finding_for_each_table_and_reason() -> None:
    scan = {"table": "t", "reason": "large_or", "detail": "x", "hint": "y"}
    plans = {
        "searches": [
            {"name": "a", "scans": [scan]},
            {"name": "query 5 (t)", "scans": [scan, {**scan, "reason": "table_size"}]},
        ]
    }
    found = _measure.plan_findings(plans)
    assert [item["found"].split(":")[0] for item in found] == ["a sequential scan, because of large_or", "a sequential scan, because of table_size"]
    assert found[1]["expected"] == "an index, for the search: query 5 (t)"


KNOWN = ("hfj_resource", "hfj_spidx_string", "hfj_spidx_token", "hfj_spidx_date", "hfj_res_link")


class Statements:
    """A session that plans everything the same, with pg_stat_statements as it is given."""

    def __init__(self, mighty: bool = False, schema: Optional[str] = "public", rows: Sequence[tuple[str, str]] = ()) -> None:
        self.mighty, self.schema = mighty, schema
        self.found = [{"query": query, "queryid": number, "calls": 3, "mean_ms": 1.5} for number, query in rows]
        self.ran: list[str] = []

    def value(self, query: Any, params: Any = None) -> Any:
        if query == _measure.MIGHTY:
            return self.mighty
        if query == _measure.EXTENSION:
            return self.schema
        return json.loads((RECORDED / "token.json").read_text()) if str(query).startswith("EXPLAIN") else None

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        return self.found

    def execute(self, query: Any, params: Any = None) -> None:
        self.ran.append(str(query))


OWN = ("77", "SELECT t0.RES_ID FROM HFJ_SPIDX_STRING t0 WHERE (t0.SP_VALUE_NORMALIZED LIKE $1)")
NAMED = ("78", "SELECT t0.RES_ID FROM HFJ_SPIDX_STRING t0 WHERE (t0.SP_VALUE_NORMALIZED LIKE 'RAHIM%')")


@pytest.mark.parametrize(
    ("session", "source", "why"),
    [
        (Statements(rows=[NAMED, OWN]), "pg_stat_statements", ""),
        (Statements(True, rows=[OWN]), "default", "a superuser, or who may become one, plans no statement of others"),
        (Statements(schema=None), "default", "pg_stat_statements is not in this database"),
        (Statements(), "default", "pg_stat_statements has none yet"),
        (Statements(rows=[NAMED]), "default", "none of 1 statements is surely a search of HAPI"),
    ],
    ids=["own", "superuser", "no_extension", "none", "literals"],
)
def test_whose_searches_are_planned(session: Statements, source: str, why: str) -> None:
    """A superuser plans nothing of others, and of no statement of the site the text is told."""
    plans = _measure.read_plans(Look(session, "postgres", "hapi"), {}, dict.fromkeys(KNOWN, ()), 1.0)  # type: ignore[arg-type]
    assert (plans["source"], plans["why"].startswith(why), bool(plans["why"])) == (source, True, bool(why))
    ran = [text for text in session.ran if text.startswith("PREPARE")]
    assert all('FROM "hapi".HFJ_' in text for text in ran)
    assert not [text for text in session.ran if "search_path" in text]
    assert "RAHIM" not in json.dumps(plans) + "".join(ran)
    told = [(item["name"], item["queryid"], item["tables"]) for item in plans["searches"]]
    if source == "default":
        assert [name for name, _id, _tables in told] == [name for name, _query in _plans.DEFAULT_SEARCHES]
    else:
        assert told == [("query 77 (hfj_spidx_string)", "77", ["hfj_spidx_string"])]
    assert "LIKE" not in json.dumps(plans)


def test_a_session_finds_nothing_of_others() -> None:
    session: Any = Statements()
    _measure.begin(session, 5)
    assert "SET search_path = pg_catalog" in session.ran


# --- what is read --------------------------------------------------------------------------------------------------


class Stub:
    """A session that answers EXPLAIN with a recorded plan."""

    def __init__(self, plan: str) -> None:
        self.plan = json.loads((RECORDED / f"{plan}.json").read_text())
        self.ran: list[Any] = []

    def value(self, query: Any, params: Any = None) -> Any:
        return self.plan

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        self.ran.append(query)
        return []


@pytest.mark.parametrize(
    ("plan", "ordered", "why"), [("missing_index", False, "hfj_spidx_token is not read whole"), ("sorted", True, "no index gives")]
)
def test_a_statement_that_would_read_a_table_whole_is_not_run(plan: str, ordered: bool, why: str) -> None:
    from psycopg2 import sql

    stub: Any = Stub("type_sorted" if plan == "sorted" else plan)
    if plan == "sorted":
        del stub.plan[0]["Plan"]["Plans"][0]["Plans"][0]["Plans"]
    with pytest.raises(NoIndex, match=why):
        Look(stub, "postgres", "public").by_index(sql.SQL("SELECT 1"), ordered=ordered)
    assert stub.ran == []
    fine: Any = Stub("token")
    assert Look(fine, "postgres", "public").by_index(sql.SQL("SELECT 1"), ordered=True) == []
    assert len(fine.ran) == 1


def test_what_can_not_be_read_is_noted_and_a_lost_session_ends_it() -> None:
    look = Look(None, "postgres", "public")  # type: ignore[arg-type]

    def fail(kind: str) -> Any:
        raise PostgresError("no", kind)

    def no_index() -> Any:
        raise NoIndex("none")

    assert look.attempt("a", lambda: fail("statement"), 5) == 5
    assert look.attempt("b", no_index, None) is None
    assert look.unread == [{"what": "a", "service": "postgres", "why": "no"}, {"what": "b", "service": "postgres", "why": "none"}]
    with pytest.raises(PostgresError):
        look.attempt("c", lambda: fail("lost"), None)


def test_the_reading_role_gets_every_column_that_is_read() -> None:
    """playbooks/files/assess_role.sql names the columns of the default searches and of our own statements."""
    script = (Path(__file__).parents[4] / "playbooks/files/assess_role.sql").read_text()
    for _name, query in _plans.DEFAULT_SEARCHES:
        for column in {
            word.split(".")[1].lower() for word in query.replace("(", " ").replace(")", " ").split() if word.startswith("t") and "." in word
        }:
            assert column in script


@pytest.mark.parametrize(
    ("pages", "percent"), [(None, 100.0), (0, 100.0), (500, 100.0), (1000, 50.0), (50_000, 1.0), (50_000_000, 0.01)]
)
def test_a_sample_of_the_audit_table_is_small_whatever_is_known_of_its_rows(pages: Optional[int], percent: float) -> None:
    assert _measure.sampled_percent(pages and pages * _measure.PAGE_BYTES) == percent
