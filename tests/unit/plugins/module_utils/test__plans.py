# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans were recorded on a real server; fixtures/plans/README.md tells how."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _plans
from ansible_collections.dghs.bd_fhir.plugins.module_utils._plans import Index, Scan, Table, judge_plan
from hypothesis import given
from hypothesis import strategies as st

RECORDED = Path(__file__).parents[1] / "fixtures/plans"
MILLIONS = 5_000_000.0
RESOURCE = Table(
    "hfj_resource", 300_000, 0, True,
    (Index("hfj_resource_pkey", ("res_id",)), Index("idx_res_date", ("res_updated",)),
     Index("idx_res_type_del_updated", ("res_type", "res_deleted_at"))),
    pages=3530,
)  # fmt: skip
TOKEN = Table(
    "hfj_spidx_token", 700_000, 0, True,
    (Index("pkey", ("sp_id",)), Index("idx_sp_token_hash_sv_v2", ("hash_sys_and_value", "res_id")), Index("idx_sp_token_hash_v2", ("hash_identity",)),
     Index("idx_sp_token_hash_v_v2", ("hash_value", "res_id"))),
    pages=9038,
)  # fmt: skip
EMPTY = {name: Table(name, None, None, False, (), pages=0) for name in ("hfj_res_link", "hfj_spidx_string")}
COLUMNS = {
    "hfj_resource": ("res_id", "res_type", "res_deleted_at", "res_updated"),
    "hfj_spidx_token": ("sp_id", "res_id", "hash_identity", "hash_sys_and_value", "hash_value", "sp_updated"),
    "hfj_res_link": ("src_path",),
    "hfj_spidx_string": ("sp_value_normalized", "hash_norm_prefix"),
}


def plan(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text())


def judge(name: str, large: float = MILLIONS, **changed: Table) -> list[Scan]:
    tables = {"hfj_resource": RESOURCE, "hfj_spidx_token": TOKEN, **EMPTY, **{f"hfj_{key}": value for key, value in changed.items()}}
    return judge_plan(plan(name), tables, COLUMNS, large)


def reasons(*args: Any, **changed: Any) -> list[tuple[str, str]]:
    return [(item.table, item.reason) for item in judge(*args, **changed)]


@pytest.mark.parametrize("name", ["token", "updated", "chain", "string", "type_only"])
def test_what_is_right(name: str) -> None:
    """Indexes; tables that are empty; a sequential scan that a LIMIT ends after a page."""
    assert judge(name) == []


def test_a_missing_index() -> None:
    gone = replace(TOKEN, indexes=tuple(item for item in TOKEN.indexes if item.columns[0] != "hash_value"))
    (found,) = judge("missing_index", spidx_token=gone)
    assert (found.reason, found.detail) == ("missing_index", "no index begins with hash_value")
    invalid = replace(TOKEN, indexes=tuple(replace(item, valid=item.columns[0] != "hash_value") for item in TOKEN.indexes))
    (found,) = judge("missing_index", spidx_token=invalid)
    assert found.detail == "idx_sp_token_hash_v_v2 is invalid, and no other index begins with hash_value"


@pytest.mark.parametrize("name", ["large_or", "large_in"])
def test_a_large_or(name: str) -> None:
    (found,) = judge(name)
    assert (found.table, found.reason) == ("hfj_spidx_token", "large_or")
    assert found.detail == {"large_or": "41 values or branches in one condition", "large_in": "200 values or branches in one condition"}[name]


def test_stale_statistics_come_before_every_other_reason() -> None:
    for table in (replace(TOKEN, analyzed=False), replace(TOKEN, rows=None), replace(TOKEN, modified=200_000.0)):
        for name in ("large_or", "missing_index", "count"):
            assert ("hfj_spidx_token", "stale_statistics") in reasons(name, spidx_token=replace(table, indexes=()))
    # A tenth is what autovacuum itself waits for.
    assert ("hfj_spidx_token", "stale_statistics") not in reasons("large_or", spidx_token=replace(TOKEN, modified=100_000.0))
    # A page or two are read whole whatever the statistics are.
    assert reasons("missing_index", spidx_token=replace(TOKEN, rows=None, pages=10)) == []


def test_a_search_that_wants_a_large_part() -> None:
    assert reasons("count") == [("hfj_resource", "unselective"), ("hfj_spidx_token", "unselective")]
    assert reasons("type_sorted") == [("hfj_resource", "unselective")]


def test_the_size_is_the_reason_only_when_nothing_else_is() -> None:
    large = replace(RESOURCE, rows=8_000_000.0)
    (found,) = judge("type_sorted", resource=large)
    assert (found.reason, found.detail) == ("table_size", "8,000,000 rows, with an index and fresh statistics")
    assert reasons("type_sorted", resource=replace(large, modified=4_000_000.0)) == [("hfj_resource", "stale_statistics")]
    assert reasons("type_sorted", resource=replace(large, indexes=())) == [("hfj_resource", "missing_index")]


def test_a_partition_is_judged_and_its_table_named() -> None:
    parts = plan("count")
    text = json.dumps(parts).replace('"Relation Name": "hfj_spidx_token"', '"Relation Name": "hfj_spidx_token_p3"')
    tables = {"hfj_resource": RESOURCE, "hfj_spidx_token_p3": replace(TOKEN, name="hfj_spidx_token_p3", parent="hfj_spidx_token")}
    found = judge_plan(json.loads(text), tables, {**COLUMNS, "hfj_spidx_token_p3": COLUMNS["hfj_spidx_token"]}, MILLIONS)
    assert [item.table for item in found] == ["hfj_resource", "hfj_spidx_token"]


def test_workers_share_the_rows() -> None:
    assert judge("type_sorted")[0].wanted > 100_000


def test_tables_of_others_are_left_alone_and_what_is_no_plan_is_refused() -> None:
    assert judge_plan(plan("missing_index"), {}, {}, MILLIONS) == []
    for answer in (None, [], [{}], [{"Plan": 5}], "x", {"Plan": {}}):
        with pytest.raises(ValueError, match="EXPLAIN answered no plan"):
            judge_plan(answer, {}, {}, MILLIONS)


@given(st.floats(50_000, 1e9), st.floats(1, 100))
def test_a_larger_table_is_never_less_due(rows: float, factor: float) -> None:
    def due(count: float) -> bool:
        return any(item.reason == "table_size" for item in judge("type_sorted", resource=replace(RESOURCE, rows=count)))

    assert due(rows) <= due(rows * factor)
    order = ["no", "plan", "due"]
    states = [_plans.partitioning(value, 5e6, 1e7, [])["state"] for value in (rows, rows * factor)]
    assert order.index(states[0]) <= order.index(states[1])


def test_whether_partitioning_is_due() -> None:
    slow = Scan("hfj_resource", 8e6, 4e6, "table_size", "")
    assert _plans.partitioning(4_999_999, 5e6, 1e7, []) == {"state": "no", "why": "4,999,999 resources, fewer than 5,000,000"}
    assert _plans.partitioning(5_000_000, 5e6, 1e7, [])["state"] == "plan"
    assert _plans.partitioning(10_000_000, 5e6, 1e7, [])["state"] == "due"
    assert _plans.partitioning(6e6, 5e6, 1e7, [slow]) == {
        "state": "due",
        "why": "searches read hfj_resource whole, though indexes and statistics are in order",
    }
    assert _plans.partitioning(None, 5e6, 1e7, [])["state"] == "unknown"
    for reason in _plans.REASONS[:-1]:
        assert _plans.partitioning(6e6, 5e6, 1e7, [replace(slow, reason=reason)])["state"] == "plan"
        assert _plans.HINTS[reason]


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("(hash_value = $1)", 0), ("((a = $1) OR (b = $2))", 2), ("(a = ANY ('{1,2,3}'::bigint[]))", 3), ("(a = ANY (ARRAY[$1, $2]))", 2),
        ("((a = ANY ('{1,2,3}'::bigint[])) OR (b = 1))", 3), ("", 0),
    ],
)  # fmt: skip
def test_branches(condition: str, wanted: int) -> None:
    assert _plans.or_branches(condition) == wanted


def test_columns_are_not_found_in_texts() -> None:
    assert _plans.columns_of("((name = 'hash_value OR res_id'::text) AND (res_id = $1))", ["hash_value", "res_id", "name"]) == ["name", "res_id"]


def test_each_branch_of_an_or_needs_its_index() -> None:
    table = Table("t", 1e6, 0, True, (Index("i", ("a",)),))
    assert _plans.without_index("((a = 1) OR (b = 2))", table, ["a", "b"]) == "no index begins with b"
    assert _plans.without_index("((a = 1) AND (b = 2))", table, ["a", "b"]) == ""
    assert _plans.without_index("(length(x) > 1)", table, ["a", "b"]) == ""


# --- statements ----------------------------------------------------------------------------------------------------


KNOWN = ("hfj_resource", "hfj_spidx_token", "hfj_spidx_string", "hfj_spidx_date", "hfj_res_link")


def test_the_default_searches_can_be_prepared() -> None:
    for name, query in _plans.DEFAULT_SEARCHES:
        text, count = _plans.prepared(query, 'my "hapi', KNOWN)
        assert name
        tables = _plans.tables_of(query, KNOWN)
        assert tables
        # Nothing is found by a search path.
        assert text.count('"my ""hapi".HFJ_') == text.count("HFJ_") == len(tables)
        assert text.endswith("fetch first 1000 rows only")
        assert count == query.count("$") - 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SELECT t0.RES_ID FROM HFJ_RESOURCE t0", ("hfj_resource",)),
        ("SELECT COUNT(DISTINCT t1.RES_ID) FROM HFJ_RESOURCE t1 LEFT OUTER JOIN hfj_spidx_token t0 ON (t0.RES_ID = t1.RES_ID)\n"
         " WHERE t0.HASH_VALUE = $1",
         ("hfj_resource", "hfj_spidx_token")),
        ("select distinct t0.a, MAX(t0.b) from hfj_resource t0 where t0.a in ($1, $2 /*, ... */) or not exists (select t1.* from hfj_resource t1)"
         " group by t0.a order by max(t0.b) desc nulls last", ("hfj_resource",)),
        ("SELECT min(res_id) FROM hfj_resource", None), ("WITH x AS (DELETE FROM y) SELECT t0.a FROM x", None), ("DELETE FROM hfj_resource", None),
        ("select rt1_0.RES_ID from HFJ_RESOURCE rt1_0", None), ("SELECT t0.a", None),
    ],
)  # fmt: skip
def test_only_searches_of_hapi_are_taken(text: str, wanted: Any) -> None:
    assert _plans.tables_of(text, KNOWN) == wanted


@pytest.mark.parametrize(
    "rest",
    [
        # What may be a patient's.
        "t0.sp_value_normalized = 'RAHIM'", "t0.a = E'x'", "t0.a = $x$RAHIM$x$", "t0.a = $$x$$", "t0.a = 1717171717", "t0.a = U&'x'", "t0.a = 1e5",
        # What may be anybody's: functions, operators, casts, tables and views.
        "planted()", "t0.a = planted($1)", "public.planted($1)", 't0.a = "planted"($1)', "t0(t0.a)", "t0.planted(t0.a)", "hfj_resource($1)",
        "t0.a OPERATOR(public.=) $1", "t0.a ~ $1", "t0.a = CAST($1 AS planted)", "t0.a = $1::planted", "row($1) is null", "t0.a = planted",
        "exists (select t1.a from planted t1)", "exists (select t1.a from public.hfj_resource t1)", "t0.public.hfj_resource.a = $1",
        # What hides something or begins another statement.
        "t0.a = $1; DROP TABLE hfj_resource", "t0.a = $1 -- x", "t0.a = $1 /* planted() */", "t0.a = $1;", "t0.a = $1 into x",
        "t0.a = $1 for update",
    ],
)  # fmt: skip
def test_a_search_with_anything_else_in_it_is_not_taken(rest: str) -> None:
    begin = "SELECT t0.RES_ID FROM HFJ_SPIDX_STRING t0 WHERE "
    assert _plans.tables_of(begin + "t0.a = $1", KNOWN)
    assert _plans.tables_of(begin + rest, KNOWN) is None


def test_sorts_and_whole_reads() -> None:
    root = _plans.root_of(plan("type_sorted"))
    assert _plans.sorts(root)
    assert _plans.reads_whole(root) == ["hfj_resource"]
    assert not _plans.sorts(_plans.root_of(plan("token")))
    kept = copy.deepcopy(plan("count"))
    assert _plans.cost(kept) > 0
