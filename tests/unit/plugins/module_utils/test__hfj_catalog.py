# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading for the partitioning of HAPI's tables, from answers that are played; from a server: tests/integration/real/test_hfj_partition.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _hfj_catalog as catalog
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hfj import Bounds, ForeignKey, Guard, HfjError, Index, Part, Relation, Sequence, Table
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError

KEY = ForeignKey("fk_t", "public", "t", ("res_id",), "public", "hfj_resource", ("res_id",))


class Dated:
    """A session on resources of which some hundred were made each day, until now."""

    def __init__(self, days: float, per_day: int) -> None:
        self.highest = int(days * per_day)
        self.per_day = per_day
        self.asked = 0

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        self.asked += 1
        at = max(params[0], 1)
        return [{"id": at, "age": (self.highest - at) / self.per_day}] if at <= self.highest else []


@pytest.mark.parametrize(("days", "per_day"), [(5, 1000), (90, 1000), (1000, 10000), (2000, 1000000)])
def test_growth_is_found_by_halves(days: float, per_day: int) -> None:
    session = Dated(days, per_day)
    found = catalog.read_growth(session, "public", session.highest)  # type: ignore[arg-type]
    assert found == pytest.approx(per_day, rel=0.01)
    # Look-ups by the primary key, whatever there is.
    assert session.asked < 40


def test_growth_that_is_not_known() -> None:
    session = Dated(0.5, 1000)
    assert catalog.read_growth(session, "public", session.highest) is None  # type: ignore[arg-type]
    assert catalog.read_growth(SimpleNamespace(rows=lambda query, params: []), "public", 5) is None  # type: ignore[arg-type]


def test_a_sequence_that_is_not_there() -> None:
    asked: list[str] = []

    def rows(query: Any, params: Any) -> list[dict[str, Any]]:
        asked.append("sequence" if query == catalog.SEQUENCE else "table")
        return [] if query == catalog.SEQUENCE else [{"oid": 1}]

    def value(query: Any) -> int:
        asked.append("highest")
        return 7

    with pytest.raises(HfjError, match="no sequence public.other.*seq_resource_id in 7.2"):
        catalog.read_sequence(SimpleNamespace(rows=rows, value=value), "public", "other")  # type: ignore[arg-type]
    # The other way round, an id of the next block would look as if nobody had given it out.
    assert asked == ["table", "highest", "sequence"]
    with pytest.raises(HfjError, match="no table public.hfj_resource"):
        catalog.read_sequence(SimpleNamespace(rows=lambda query, params: []), "public", "other")  # type: ignore[arg-type]


def test_the_column_of_the_resource() -> None:
    relation = Relation(
        1, "public", "hfj_res_link", "r",
        keys=(
            ForeignKey("a", "public", "t", ("target_resource_id",), "public", "hfj_resource", ("res_id",)),
            ForeignKey("b", "public", "t", ("src_resource_id",), "public", "hfj_resource", ("res_id",)),
            ForeignKey("c", "public", "t", ("tag_id",), "public", "hfj_tag_def", ("tag_id",)),
        ),
    )  # fmt: skip
    columns = {name: {"required": name != "target_resource_id"} for name in ("pid", "target_resource_id", "src_resource_id", "tag_id")}
    assert catalog._key_of(relation, columns) == "src_resource_id"
    assert catalog._key_of(Relation(1, "public", "t", "r"), columns) == ""


def disk(rc: int = 0, out: str = "") -> Any:
    return SimpleNamespace(docker=lambda *args, check: (rc, out, ""))


def test_free_space() -> None:
    session: Any = SimpleNamespace(value=lambda query: "/var/lib/postgresql/data")
    container: Any = SimpleNamespace(id="c0ffee")
    text = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 100 40 60 40% /data\n"
    assert catalog.free_bytes(disk(out=text), container, session) == 61440
    assert catalog.free_bytes(disk(1, text), container, session) is None
    assert catalog.free_bytes(disk(0, "what\n"), container, session) is None

    def refuse(query: str) -> str:
        raise PostgresError("no right", "statement", "42501")

    assert catalog.free_bytes(disk(out=text), container, SimpleNamespace(value=refuse)) is None  # type: ignore[arg-type]


def test_what_is_told_of_a_table() -> None:
    main = Relation(1, "public", "t", "p", bytes=7, rows=1000.0, keys=(KEY,), parts=(Part("t_p0", None, 500, rows=10.0),))
    found = catalog.report(Table("public", "t", "sp_id", "res_id", False, main), Sequence("s", 100, 50, False, 100, 5.0), Bounds(500, 10, 2))
    assert (found["rows"], found["rows_per_day"], found["bounds"]) == (1000, 50, {"first": 500, "width": 10, "ahead": 2})
    assert found["partitions"] == [{"name": "t_p0", "lower": None, "upper": 500, "bytes": 0, "rows": 10}]
    assert found["foreign_keys"][0]["foreign_table"] == "hfj_resource"
    assert catalog.report(Table("public", "t"), Sequence("s", 100, 50), Bounds(500, 10, 2))["rows_per_day"] is None


def test_options_out_of_range() -> None:
    params = {name: least for name, (least, _most) in catalog.RANGES.items()}
    catalog.check_ranges(params)
    for name, value in (("ahead", 0), ("months", 0), ("width", -1), ("first_bound", -1), ("wait_days", -0.5)):
        with pytest.raises(HfjError, match=name):
            catalog.check_ranges({**params, name: value})


def test_what_is_told_of_a_guard() -> None:
    pair = Index("idx_res_type_fhir_id", "btree (res_type, fhir_id)", True, columns=("res_type", "fhir_id"))
    main = Relation(1, "public", "hfj_resource", "r", rows=1000.0, indexes=(pair,))
    table = Table("public", "hfj_resource", "res_id", "res_id", False, main)

    def told(table: Table) -> Any:
        return catalog.report(table, Sequence("s", 100, 50, False, 200, 5.0), Bounds(500, 10, 2))["guard"]

    assert (told(table)["state"], told(table)["expected_bytes"], told(table)["faults"]) == ("none", 120000, [])
    triggers = frozenset(("hfj_resource", kind) for kind in (5, 9, 17))
    guard = Guard(7, "hfj_resource_bd_guard", "app", 5, 6.0, "i", 50, "app", triggers)
    found = told(replace(table, guard=guard))
    assert (found["state"], found["percent"], found["rows"], found["bytes"]) == ("filling", 25.0, 6, 5)
    assert told(replace(table, guard=replace(guard, filled=catalog.LOWEST)))["percent"] == 0
    assert told(replace(table, guard=replace(guard, filled=None)))["state"] == "complete"
    assert told(replace(table, guard=replace(guard, triggers=frozenset())))["state"] == "broken"
    assert told(Table("public", "t", "sp_id", "res_id", False, replace(main, name="t"))) is None


def test_the_table_of_somebody_else_is_no_guard() -> None:
    def answers(columns: list[str], comment: str = "") -> Any:
        row = {"oid": 7, "owner": "app", "bytes": 1, "rows": 2.0, "comment": comment, "columns": columns, "function_owner": "app"}
        return SimpleNamespace(rows=lambda query, params: [row] if query == catalog.GUARD_TABLE else [])

    relation = Relation(1, "public", "hfj_resource", "r")
    assert catalog.read_guard(answers(["i"]), "public", relation) is None
    for comment, filled in (
        ("", catalog.LOWEST), ("ours", catalog.LOWEST), ("bd_fhir: filled up to 50", 50), ("bd_fhir: filled up to -5", -5),
        ("bd_fhir: complete", None),
    ):  # fmt: skip
        found = catalog.read_guard(answers(["res_type", "fhir_id"], comment), "public", relation)
        assert found is not None
        assert found.filled == filled
