# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Planning of the partitioning of HAPI's tables; on real ones: tests/integration/real/test_hfj_partition.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _hfj as hfj
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hfj import (
    Bounds,
    Column,
    ForeignKey,
    Guard,
    HfjError,
    Inbound,
    Index,
    Part,
    Relation,
    Sequence,
    Table,
)

SEQUENCE = Sequence("seq_resource_id", 5001, 50, False, 5003, 100.0)
BOUNDS = Bounds(20000, 1000, 2)
KEY = ForeignKey("fk_t", "public", "t", ("res_id",), "public", "hfj_resource", ("res_id",))
PK = Index("t_pkey", "btree (sp_id)", True, True, columns=("sp_id",))
HASH = Index("idx_hash", "btree (hash)", columns=("hash",))
UNIQUE = Index("t_bd_uk", "btree (sp_id, res_id)", True, columns=("sp_id", "res_id"))


def plain(**more: Any) -> Table:
    """A table of HAPI as it is before."""
    return Table("public", "t", "sp_id", "res_id", False, Relation(1, "public", "t", "r", "app", 10**9, 1e6, (HASH, PK), (KEY,)), **more)


def parent(*lowers: int, indexes: tuple[Index, ...] = (HASH, UNIQUE)) -> Relation:
    """A parent that is not in use yet."""
    made = tuple(replace(index, name=index.name + "_bd_new") for index in indexes)
    parts = tuple(Part(f"t_p{lower}", lower, lower + 1000) for lower in lowers)
    keys = (replace(KEY, table="t_bd_new"),)
    return Relation(2, "public", "t_bd_new", "p", "app", indexes=made, keys=keys, parts=parts, partition_key="RANGE (res_id)")


def with_index(table: Table, valid: bool = True) -> Table:
    assert table.main is not None
    return replace(table, main=replace(table.main, indexes=(HASH, replace(UNIQUE, valid=valid), PK)))


def with_check(table: Table, bound: Optional[int] = 20000, valid: bool = True) -> Table:
    assert table.main is not None
    return replace(table, main=replace(table.main, check_bound=bound, check_valid=valid))


def prepared() -> Table:
    return replace(with_check(with_index(plain())), new=parent(20000, 21000))


def swapped(analyzed: bool = True, **more: Any) -> Table:
    parts = (Part("t_p0", None, 20000), Part("t_p20000", 20000, 21000), Part("t_p21000", 21000, 22000))
    main = Relation(2, "public", "t", "p", "app", parts=parts, keys=(KEY,), analyzed=analyzed, partition_key="RANGE (res_id)")
    return Table("public", "t", "sp_id", "res_id", False, main, None, Relation(1, "public", "t_p0", "r"), **more)


def actions(steps: list[hfj.Step]) -> list[str]:
    return [step.action for step in steps]


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in found]


INBOUND = Inbound(ForeignKey("fk_in", "public", "tag", ("pid",), "public", "t", ("sp_id",)), "res_id")
ALL = ["build_index", "create_parent", "add_partition", "add_partition", "add_check", "validate_check"]


@pytest.mark.parametrize(
    ("table", "state", "left"),
    [
        (plain(), "plain", ALL),
        (with_index(plain(), False), "preparing", ["drop_index", *ALL]),
        (with_index(plain()), "preparing", ALL[1:]),
        (replace(with_index(plain()), new=parent()), "preparing", ALL[2:]),
        (replace(with_index(plain()), new=parent(20000)), "preparing", ALL[3:]),
        (replace(with_index(plain()), new=parent(20000, 21000)), "preparing", ALL[4:]),
        (replace(with_check(with_index(plain()), 20000, False), new=parent(20000, 21000)), "preparing", ALL[5:]),
        (prepared(), "prepared", []),
        # By hand, or by a watch: without the parent the CHECK is of no use.
        (with_check(with_index(plain())), "preparing", ["drop_check", "create_parent", *ALL[2:]]),
        (replace(prepared(), new=parent(20000, 21000, indexes=(HASH,))), "preparing", ["drop_check", "drop_parent", *ALL[1:]]),
        (swapped(), "swapped", []),
        (swapped(False), "unfinished", []),
    ],
)  # fmt: skip
def test_every_state_has_its_way_on(table: Table, state: str, left: list[str]) -> None:
    assert table.state == state
    steps, bounds = hfj.plan_prepare(table, SEQUENCE, BOUNDS)
    assert actions(steps) == left
    assert bounds == BOUNDS


def test_another_index_means_another_parent() -> None:
    table = prepared()
    assert table.main is not None
    more = replace(table, main=replace(table.main, indexes=(*table.main.indexes, Index("idx_new", "btree (x)", columns=("x",)))))
    assert more.state == "preparing"
    steps, dummy = hfj.plan_prepare(more, SEQUENCE, BOUNDS)
    assert actions(steps) == ["drop_check", "drop_parent", *ALL[1:]]
    assert "another index" in steps[1].why


def test_another_column_means_another_parent() -> None:
    columns = (Column("sp_id", "bigint", 0, True), Column("hash", "bigint"))
    table = prepared()
    assert table.main is not None
    assert table.new is not None
    table = replace(table, main=replace(table.main, columns=columns), new=replace(table.new, columns=columns))
    assert table.state == "prepared"
    for other in (
        (*columns, Column("late", "integer")), columns[:1], columns[::-1], (columns[0], Column("hash", "text")),
        (columns[0], Column("hash", "bigint", 7)), (columns[0], Column("hash", "bigint", 0, True)),
        (columns[0], Column("hash", "bigint", default="5")),
    ):  # fmt: skip
        assert table.main is not None
        more = replace(table, main=replace(table.main, columns=other))
        assert more.state == "preparing"
        steps, dummy = hfj.plan_prepare(more, SEQUENCE, BOUNDS)
        assert actions(steps) == ["drop_check", "drop_parent", *ALL[1:]]
    assert table.main is not None
    checked = replace(table, main=replace(table.main, checks=frozenset({("c", "CHECK ((hash > 0))")})))
    assert checked.state == "preparing"
    # An index that has become unique, or a constraint: both looks see it, so that prepare does not end half done for ever.
    for index in (replace(HASH, unique=True), replace(HASH, constraint=True)):
        changed = replace(table, main=replace(table.main, indexes=(index, UNIQUE, PK)))
        assert changed.state == "preparing"
        assert "drop_parent" in actions(hfj.plan_prepare(changed, SEQUENCE, BOUNDS)[0])


def test_bounds_that_the_sequence_comes_near_are_made_anew() -> None:
    later = replace(SEQUENCE, last=18960, highest=18963)
    steps, bounds = hfj.plan_prepare(prepared(), later, Bounds(40000, 1000, 2))
    assert actions(steps) == ["drop_check", "drop_parent", *ALL[1:]]
    assert bounds.first == 40000
    # While it is far away what is there stays, unless the operator asks for something else.
    assert hfj.plan_prepare(prepared(), SEQUENCE, Bounds(40000, 1000, 2)) == ([], BOUNDS)
    assert hfj.plan_prepare(prepared(), SEQUENCE, Bounds(40000, 1000, 2), True)[0] != []


def test_the_swap_and_what_comes_after() -> None:
    assert actions(hfj.plan_swap(prepared())) == ["swap", "analyze"]
    assert actions(hfj.plan_swap(replace(prepared(), inbound=(INBOUND,)))) == ["swap", "validate_key", "analyze"]
    assert hfj.plan_swap(plain()) == hfj.plan_swap(swapped()) == []
    waiting = replace(INBOUND, key=replace(INBOUND.key, validated=False))
    left = swapped(False, inbound=(waiting, INBOUND))
    assert left.state == "unfinished"
    assert [(step.action, step.object) for step in hfj.plan_swap(left)] == [("validate_key", "tag.fk_in"), ("analyze", "t")]


def test_the_way_back_from_everywhere() -> None:
    assert hfj.plan_undo(plain()) == []
    assert actions(hfj.plan_undo(with_index(plain(), False))) == ["drop_index"]
    assert actions(hfj.plan_undo(prepared())) == ["drop_check", "drop_parent", "drop_index"]
    assert actions(hfj.plan_undo(swapped(inbound=(INBOUND,)))) == ["swap_back", "drop_index", "validate_key"]
    # Killed between the way back and the validation of what refers to the table.
    waiting = replace(INBOUND, key=replace(INBOUND.key, validated=False))
    assert actions(hfj.plan_undo(plain(inbound=(waiting, INBOUND)))) == ["validate_key"]
    assert actions(hfj.plan_undo(with_index(plain(inbound=(waiting,))))) == ["drop_index", "validate_key"]
    assert hfj.plan_undo(Table("public", "t")) == []


def rewritten(*names: str, key: str = "HASH (res_id)", indexes: tuple[Index, ...] = (HASH, UNIQUE)) -> Table:
    parts = tuple(Part(name, None, None) for name in names)
    main = Relation(3, "public", "t", "p", "app", parts=parts, keys=(KEY,), indexes=indexes, partition_key=key)
    return Table("public", "t", "sp_id", "res_id", False, main)


def test_the_other_method_and_its_way_back() -> None:
    steps = hfj.plan_rewrite(plain(), 4)
    assert [(step.action, step.object, step.upper) for step in steps] == [("rewrite", "t", 4)]
    done = rewritten("t_h1", "t_h0")
    assert (done.state, hfj.rewritten_parts(done)) == ("rewritten", 2)
    assert hfj.plan_rewrite(done, 2) == []
    assert actions(hfj.plan_undo(done)) == ["rewrite_back"]
    assert ids(hfj.judge(done, BOUNDS)) == []
    assert ids(hfj.judge_back(replace(done, inbound=(INBOUND,)))) == []
    assert hfj.plan_swap(done) == hfj.plan_extend(done, SEQUENCE, 0, 2) == hfj.plan_watch(done, SEQUENCE) == []
    with pytest.raises(HfjError, match="t is 2 partitions by hash, and only a plain table can be rewritten"):
        hfj.plan_rewrite(done, 8)
    for other in (prepared(), swapped()):
        with pytest.raises(HfjError, match=f"t is {other.state}, and only a plain table"):
            hfj.plan_rewrite(other, 8)


@pytest.mark.parametrize(
    "other", [rewritten("t_h0", "t_h2"), rewritten("a", "b"), rewritten("t_h0", key="HASH (sp_id)"), rewritten("t_h0", indexes=(HASH,)), rewritten()],
)  # fmt: skip
def test_a_table_that_others_have_partitioned_by_hash(other: Table) -> None:
    assert other.state == "foreign"


def test_a_bound_by_hash() -> None:
    assert hfj.by_hash("FOR VALUES WITH (modulus 8, remainder 3)")
    assert not hfj.by_hash("FOR VALUES FROM (MINVALUE) TO (3)")


def test_a_table_to_which_a_partitioned_one_refers() -> None:
    item = replace(INBOUND, key=replace(INBOUND.key, partitioned=True))
    assert ids(hfj.judge(plain(inbound=(item,)), BOUNDS)) == ids(hfj.judge_back(swapped(inbound=(item,)))) == ["inbound_table_partitioned"]
    assert "Bring tag back with step=undo, make this one plain" in hfj.judge_back(swapped(inbound=(item,)))[0]["hint"]
    assert hfj.judge_back(swapped(inbound=(INBOUND,))) == hfj.judge_back(plain(inbound=(item,))) == []
    # One that is only prepared is empty: its key is made at once, and needs no validation after.
    waiting = replace(item, key=replace(item.key, table="tag_bd_new"))
    assert hfj.judge(plain(inbound=(waiting, INBOUND)), BOUNDS) == hfj.judge_back(swapped(inbound=(waiting,))) == []
    assert [step.object for step in hfj.plan_swap(replace(prepared(), inbound=(waiting, INBOUND)))] == ["t", "tag.fk_in", "t"]
    assert actions(hfj.plan_undo(swapped(inbound=(waiting,)))) == ["swap_back", "drop_index"]


def test_partitions_ahead_of_the_sequence() -> None:
    assert hfj.plan_extend(swapped(), SEQUENCE, 0, 2) == []
    steps = hfj.plan_extend(swapped(), replace(SEQUENCE, last=20501), 0, 2)
    assert [(step.object, step.lower, step.upper) for step in steps] == [("t_p22000", 22000, 23000)]
    far = hfj.plan_extend(swapped(), replace(SEQUENCE, last=24501), 500, 1)
    # What lies behind the sequence is needed too: no id may be without a place.
    assert [step.lower for step in far] == [22000, 22500, 23000, 23500, 24000, 24500, 25000]
    assert hfj.plan_extend(plain(), SEQUENCE, 0, 2) == []


def test_partitions_that_would_not_last() -> None:
    """Growth that has become larger than the width was made for: one wide partition, since each search visits every one."""
    fast = replace(SEQUENCE, per_day=1000.0)
    # 22,000 - 5,053 ids are left: 16 days.
    assert hfj.plan_extend(swapped(), fast, 0, 2, 15) == []
    steps = hfj.plan_extend(swapped(), fast, 0, 2, 60)
    assert [(step.object, step.lower, step.upper) for step in steps] == [("t_p22000", 22000, 142000)]
    table = swapped()
    assert table.main is not None
    after = replace(table, main=replace(table.main, parts=(*table.main.parts, Part("t_p22000", 22000, 142000))))
    assert hfj.judge_sequence(table, fast, 60) != []
    assert hfj.judge_sequence(after, fast, 60) == []
    # A little more in the same night makes no further one.
    assert hfj.plan_extend(after, replace(fast, per_day=1800.0), 0, 2, 60) == []
    # Also where the busiest hours alone would go beyond the end.
    assert len(hfj.plan_extend(swapped(), replace(SEQUENCE, peak_hour=9000.0), 0, 2, 60)) == 1


def test_the_watch() -> None:
    assert hfj.plan_watch(prepared(), SEQUENCE) == []
    assert actions(hfj.plan_watch(prepared(), replace(SEQUENCE, last=18960))) == ["drop_check"]
    assert hfj.plan_watch(swapped(), replace(SEQUENCE, last=99999)) == []


def test_bounds() -> None:
    assert [hfj.round_up(number) for number in (0, 7, 100, 101, 16051, 5400001)] == [1, 7, 100, 110, 17000, 5500000]
    assert hfj.propose(SEQUENCE, 30, 12, 2) == Bounds(16000, 1000000, 2)
    busy = replace(SEQUENCE, per_day=10000.0)
    assert hfj.propose(busy, 30, 12, 2) == Bounds(310000, 3700000, 2)
    assert hfj.propose(replace(SEQUENCE, per_day=None), 30, 12, 3, 0, 777) == Bounds(16000, 777, 3)
    assert hfj.propose(SEQUENCE, 30, 12, 2, 90000).first == 90000
    with pytest.raises(HfjError, match="first_bound is 6000, and the sequence seq_resource_id has given out ids up to 5051"):
        hfj.propose(SEQUENCE, 30, 12, 2, 6000)
    for number in (1, 5000, 123456789, 10**15):
        there = Sequence("s", number, 50)
        assert not hfj.near(there, hfj.propose(there, 0, 1, 1).first)


def test_the_busiest_hour_counts() -> None:
    assert hfj.busiest_hour([]) == hfj.busiest_hour([(1, 0.0)]) == 0
    # A day of 24 ids, and an hour in which 423 came; dates need not rise with the ids.
    points = [(number, float(number)) for number in range(24)] + [(100, 24.2), (300, 24.1), (523, 24.9), (600, 44.0)]
    assert hfj.busiest_hour(points) == 423
    # Between two samples that are far apart: as if they had come evenly.
    assert hfj.busiest_hour([(0, 0.0), (1000, 10.0)]) == 100
    busy = replace(SEQUENCE, peak_hour=360000.0)
    assert hfj.reserve(busy) == 720000
    assert hfj.near(busy, 700000)
    assert not hfj.near(SEQUENCE, 700000)
    # Four times as much as may come before a watch acts.
    assert hfj.propose(busy, 0, 12, 2).first == 2900000
    with pytest.raises(HfjError, match="720000 more may come before a watch acts"):
        hfj.propose(busy, 0, 12, 2, 700000)


def test_days_until_the_end() -> None:
    assert hfj.days_until(SEQUENCE, 15051) == 100
    assert hfj.days_until(SEQUENCE, 1) == 0
    assert hfj.days_until(replace(SEQUENCE, per_day=None), 15051) is None
    assert hfj.last_bound(swapped().main) == 22000
    assert hfj.last_bound(plain().main) is None
    assert ids(hfj.judge_sequence(swapped(), SEQUENCE, 60)) == []
    assert ids(hfj.judge_sequence(swapped(), SEQUENCE, 200)) == ["partitions_end"]
    assert ids(hfj.judge_sequence(swapped(), replace(SEQUENCE, last=21900, per_day=None), 60)) == ["partitions_end"]
    assert ids(hfj.judge_sequence(prepared(), replace(SEQUENCE, last=19900), 60)) == ["check_near"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FOR VALUES FROM (MINVALUE) TO ('1000')", (None, 1000, False)),
        ("FOR VALUES FROM ('1000') TO ('2000')", (1000, 2000, False)),
        ("FOR VALUES FROM ('-5') TO (MAXVALUE)", (-5, None, False)),
        ("DEFAULT", (None, None, True)),
    ],
)
def test_bounds_as_the_server_writes_them(text: str, found: tuple[Any, ...]) -> None:
    assert hfj.parse_bound(text) == found


@pytest.mark.parametrize("text", ["FOR VALUES WITH (modulus 8, remainder 0)", "FOR VALUES IN (1)", "FOR VALUES FROM ('1', '2') TO ('3', '4')"])
def test_bounds_of_others(text: str) -> None:
    with pytest.raises(ValueError, match="FOR VALUES"):
        hfj.parse_bound(text)


def test_the_check_as_the_server_writes_it() -> None:
    assert hfj.parse_check("CHECK ((res_id < 20000)) NOT VALID", "res_id") == 20000
    assert hfj.parse_check("CHECK ((res_id < '20000000000'::bigint))", "res_id") == 20000000000
    assert hfj.parse_check('CHECK (("Odd" < 5))', "Odd") == 5
    assert hfj.parse_check("CHECK (((res_id IS NOT NULL) AND (res_id < 20000))) NOT VALID", "res_id") == 20000
    for other in ("CHECK ((res_id <= 5))", "CHECK ((sp_id < 5))", "CHECK (((res_id < 5) OR true))", "CHECK (((res_id IS NOT NULL) AND (sp_id < 5)))"):
        assert hfj.parse_check(other, "res_id") is None


def test_what_is_in_the_way() -> None:
    table = plain()
    assert table.main is not None
    assert hfj.judge(table, BOUNDS) == []
    assert ids(hfj.judge(prepared(), BOUNDS)) == []
    assert ids(hfj.judge(swapped(), BOUNDS)) == []

    def damaged(**more: Any) -> list[str]:
        assert table.main is not None
        return ids(hfj.judge(replace(table, main=replace(table.main, **more)), BOUNDS))

    assert damaged(indexes=(HASH, PK, Index("uq", "btree (a)", True, columns=("a",)))) == ["unique_without_key"]
    assert damaged(indexes=(replace(HASH, valid=False), PK)) == ["index_invalid"]
    assert damaged(indexes=(replace(HASH, name="x" * 57), PK)) == ["name_too_long"]
    # Bytes, not letters.
    assert damaged(indexes=(replace(HASH, name="অ" * 20), PK)) == ["name_too_long"]
    assert damaged(keys=(replace(KEY, validated=False),)) == ["foreign_key_unfit"]
    assert damaged(keys=(replace(KEY, plain=False),)) == ["foreign_key_unfit"]
    assert damaged(obstacles=("view v",)) == ["table_obstacles"]
    assert damaged(kind="p") == damaged(kind="f") == ["already_partitioned"]
    assert ids(hfj.judge(replace(table, nullable=True), BOUNDS)) == ["partition_key_nullable"]
    assert ids(hfj.judge(replace(table, pk=""), BOUNDS)) == ["primary_key_other"]
    assert ids(hfj.judge(replace(table, key=""), BOUNDS)) == ["unique_without_key"]
    assert ids(hfj.judge(replace(table, taken=("t_p0",)), BOUNDS)) == ["partition_name_taken"]
    assert ids(hfj.judge(replace(table, building=7), BOUNDS)) == ["index_building"]
    assert ids(hfj.judge(replace(table, inbound=(replace(INBOUND, partner=""),)), BOUNDS)) == ["inbound_key_unfit"]
    assert ids(hfj.judge(Table("public", "t"), BOUNDS)) == ["table_missing"]
    assert ids(hfj.judge(swapped(False), BOUNDS)) == ["partition_unfinished"]
    assert ids(hfj.judge(replace(swapped(), new=parent()), BOUNDS)) == ["partition_leftover"]
    half = hfj.judge(replace(with_index(plain(), False), new=parent(20000)), BOUNDS)
    assert [(item["id"], item["found"]) for item in half] == [
        ("partition_half_done", "index invalid, parent there with 1 partitions, CHECK missing"),
    ]  # fmt: skip


def test_names_of_another_release() -> None:
    table = replace(plain(), name="hfj_res_link")
    assert hfj.names_differ(plain()) == ""
    assert hfj.names_differ(table).startswith("besides: fk_t, idx_hash, t_pkey; missing: fk_reslink_source")
    assert ids(hfj.judge(table, BOUNDS)) == ["schema_differs"]


def test_names_that_are_made() -> None:
    assert hfj.names_made(plain(), BOUNDS) == [
        "idx_hash_bd_new", "idx_hash_p0", "t_bd_new", "t_bd_uk_bd_new", "t_bd_uk_p0", "t_p0", "t_p20000", "t_p21000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("version", "severity"), [(150018, ""), (140000, "warning"), (160001, "warning"), (170010, "warning"), (180000, "error"), (130000, "error")]
)
def test_the_servers_version(version: int, severity: str) -> None:
    found = hfj.judge_server("db", version, False, False, SEQUENCE, [], 100)
    assert [item["severity"] for item in found] == ([severity] if severity else [])
    assert all(item["hint"].endswith("Rehearse on a copy.") for item in found)


def test_what_the_server_says() -> None:
    standbys = [{"application": "a", "lag_bytes": 100}, {"application": "b", "lag_bytes": 101}, {"application": "c", "lag_bytes": None}]
    found = hfj.judge_server("db", 150000, True, True, replace(SEQUENCE, cycles=True), standbys, 100)
    assert [(item["id"], item["object"]) for item in found] == [
        ("server_is_standby", "db"), ("hapi_partition_mode", "db"), ("sequence_unfit", "seq_resource_id"), ("standby_lags", "b"),
        ("standby_lags", "c"),
    ]  # fmt: skip
    assert ids(hfj.judge_server("db", 150000, False, False, replace(SEQUENCE, highest=5052), [], 100)) == ["sequence_behind"]


def test_disk_and_worth() -> None:
    assert ids(hfj.judge_disk("db", None, 100)) == ["disk_unknown"]
    assert ids(hfj.judge_disk("db", 119, 100)) == ["disk_too_small"]
    assert hfj.judge_disk("db", 120, 100) == []
    assert hfj.worth(plain(), 10**9)[0]
    assert hfj.worth(plain(), 10**9 + 1) == (
        False, "953.7 MB is less than 953.7 MB: vacuum and reindexing take no time worth saving, and each search would visit more indexes",
    )  # fmt: skip
    assert not hfj.worth(replace(plain(), key=""), 1)[0]
    need = hfj.needs(plain(), 0.00001)
    assert need["disk_bytes"] == 3 * need["index_bytes"] > 96 * 10**6
    assert need["seconds"] == 20
    assert hfj.needs(plain(), None)["seconds"] is None
    assert [hfj.human(size) for size in (1, 2048, 3 * 2**40)] == ["1 B", "2 kB", "3 TB"]


# --- HFJ_RESOURCE and its guard -----------------------------------------------------------------------------------

RES_PK = Index("hfj_resource_pkey", "btree (res_id)", True, True, columns=("res_id",))
PAIR = Index("idx_res_type_fhir_id", "btree (res_type, fhir_id)", True, constraint=True, columns=("res_type", "fhir_id"))
DATE = Index("idx_res_date", "btree (res_updated)", columns=("res_updated",))
IN_RES = Inbound(ForeignKey("fk_t", "public", "t", ("res_id",), "public", "hfj_resource", ("res_id",)))
PLAIN_TRIGGERS = frozenset(("hfj_resource", kind) for kind in hfj.AFTER_ROW)
NEW_TRIGGERS = frozenset(("hfj_resource_bd_new", kind) for kind in hfj.BEFORE_ROW)
GUARDED = ["create_guard", "fill_guard", "create_parent", "add_partition", "add_partition", "add_check", "validate_check"]


def resource(guard: Optional[Guard] = None, **more: Any) -> Table:
    """HFJ_RESOURCE as it is before."""
    main = Relation(1, "public", "hfj_resource", "r", "app", 10**9, 1e6, (RES_PK, DATE, PAIR))
    return Table("public", "hfj_resource", "res_id", "res_id", False, main, inbound=(IN_RES,), guard=guard, **more)


def guard(**more: Any) -> Guard:
    """A guard of a plain table to which nothing is missing."""
    there = Guard(7, "hfj_resource_bd_guard", "app", 1000, 10, "idx_res_type_fhir_id_bd_guard", None, "app", PLAIN_TRIGGERS | NEW_TRIGGERS)
    return replace(there, **more)


def resource_parent(*lowers: int) -> Relation:
    indexes = (replace(RES_PK, name="hfj_resource_pkey_bd_new"), replace(DATE, name="idx_res_date_bd_new"))
    parts = tuple(Part(f"hfj_resource_p{lower}", lower, lower + 1000) for lower in lowers)
    return Relation(2, "public", "hfj_resource_bd_new", "p", "app", indexes=indexes, parts=parts, partition_key="RANGE (res_id)")


def resource_swapped(guard: Optional[Guard]) -> Table:
    parts = (Part("hfj_resource_p0", None, 20000), Part("hfj_resource_p20000", 20000, 21000), Part("hfj_resource_p21000", 21000, 22000))
    main = replace(resource_parent(), name="hfj_resource", parts=parts, indexes=(RES_PK, DATE), analyzed=True)
    first = Relation(1, "public", "hfj_resource_p0", "r", indexes=(RES_PK, DATE, replace(PAIR, name=PAIR.name + "_p0")))
    return replace(resource(guard), main=main, first=first)


def swapped_guard(**more: Any) -> Guard:
    names = ("hfj_resource", "hfj_resource_p0", "hfj_resource_p20000", "hfj_resource_p21000")
    return guard(index=PAIR.name, triggers=frozenset((name, kind) for name in names for kind in hfj.BEFORE_ROW), **more)


def told(found: list[dict[str, Any]]) -> list[str]:
    """The ids, but for what comes of this table having fewer indexes than HAPI's."""
    return [id for id in ids(found) if id != "schema_differs"]


@pytest.mark.parametrize(
    ("table", "state", "left"),
    [
        (resource(), "plain", GUARDED),
        (resource(guard(filled=0)), "preparing", GUARDED[1:]),
        (resource(guard(filled=500)), "preparing", GUARDED[1:]),
        (resource(guard()), "preparing", GUARDED[2:]),
        (resource(guard(), new=resource_parent(20000, 21000)), "preparing", GUARDED[5:]),
        (with_check(resource(guard(), new=resource_parent(20000, 21000))), "prepared", []),
        # A guard that may have missed something is made anew, and the parent with it: its triggers need the function.
        (
            with_check(resource(guard(triggers=NEW_TRIGGERS | {("hfj_resource", 5)}), new=resource_parent(20000, 21000))), "preparing",
            ["drop_check", "drop_parent", "drop_guard", *GUARDED],
        ),
        (resource(guard(function_owner="")), "preparing", ["drop_guard", *GUARDED]),
        (resource(guard(index="")), "preparing", ["drop_guard", *GUARDED]),
        # The parent lacks its triggers, and the guard is whole.
        (with_check(resource(guard(triggers=PLAIN_TRIGGERS), new=resource_parent(20000))), "preparing", ["drop_check", "drop_parent", *GUARDED[2:]]),
        (resource_swapped(swapped_guard()), "swapped", []),
    ],
)  # fmt: skip
def test_hfj_resource_has_its_way_on_too(table: Table, state: str, left: list[str]) -> None:
    assert table.state == state
    steps, dummy = hfj.plan_prepare(table, SEQUENCE, BOUNDS)
    assert actions(steps) == left


def test_hfj_resource_has_a_way_back_from_everywhere() -> None:
    assert actions(hfj.plan_undo(resource())) == []
    assert actions(hfj.plan_undo(resource(guard(filled=3)))) == ["drop_guard"]
    whole = with_check(resource(guard(), new=resource_parent(20000, 21000)))
    assert actions(hfj.plan_undo(whole)) == ["drop_check", "drop_parent", "drop_guard"]
    assert actions(hfj.plan_undo(resource_swapped(None))) == ["swap_back", "validate_key"]
    assert actions(hfj.plan_swap(whole)) == ["swap", "validate_key", "analyze"]


def test_hfj_resource_is_partitioned_by_its_primary_key() -> None:
    table = resource()
    assert (table.narrow, table.pair, table.referring(IN_RES)) == (True, ("res_id",), ("res_id",))
    assert (plain().narrow, plain().pair, plain().referring(INBOUND)) == (False, ("sp_id", "res_id"), ("pid", "res_id"))
    assert table.main is not None
    assert hfj.mirrored(table, table.main) == [RES_PK, DATE]
    assert hfj.names_made(table, Bounds(20000, 1000, 1)) == [
        "hfj_resource_bd_guard", "hfj_resource_bd_new", "hfj_resource_p0", "hfj_resource_p20000", "hfj_resource_pkey_bd_new", "hfj_resource_pkey_p0",
        "idx_res_date_bd_new", "idx_res_date_p0", "idx_res_type_fhir_id_bd_guard", "idx_res_type_fhir_id_p0", "idx_res_type_fhir_id_p20000",
    ]  # fmt: skip


def test_a_guard_is_an_explicit_choice() -> None:
    found = hfj.judge(resource(), BOUNDS)
    assert told(found) == ["unique_without_key"]
    assert "Or choose unique_guard" in found[0]["hint"]
    assert told(hfj.judge(resource(), BOUNDS, True)) == []
    # What was begun was chosen.
    assert told(hfj.judge(resource(guard()), BOUNDS)) == ["partition_half_done"]
    # It stands for this index alone, and for nothing that is more than unique.
    less = replace(PAIR, name="x", columns=("res_type",), rest="btree (res_type)")
    for other in (replace(PAIR, rest="btree (res_type, fhir_id) NULLS NOT DISTINCT"), less):
        table = resource()
        assert table.main is not None
        table = replace(table, main=replace(table.main, indexes=(RES_PK, DATE, other)))
        found = hfj.judge(table, BOUNDS, True)
        assert "unique_without_key" in told(found)
        assert "unique_guard" not in found[0]["hint"]
    table = replace(table, main=replace(table.main, indexes=(RES_PK, DATE)))  # type: ignore[type-var]
    assert "no unique index on (res_type, fhir_id)" in [item["found"] for item in hfj.judge(table, BOUNDS, True)]
    # A table of another name has none.
    assert told(hfj.judge(plain(), BOUNDS, True)) == told(hfj.judge(plain(), BOUNDS))


def test_tables_that_refer_to_hfj_resource_have_to_be_plain() -> None:
    in_use = replace(resource(), inbound=(replace(IN_RES, key=replace(IN_RES.key, partitioned=True)),))
    assert told(hfj.judge(in_use, BOUNDS, True)) == ["inbound_table_partitioned"]


@pytest.mark.parametrize(
    ("damage", "ids_"),
    [
        (None, ["guard_missing"]),
        ({"index": "other"}, ["guard_missing"]),
        ({"index": ""}, ["guard_missing"]),
        ({"function_owner": "other"}, ["guard_trigger_off"]),
        ({"function_owner": ""}, ["guard_trigger_off"]),
        ({"triggers": frozenset()}, ["guard_trigger_off"]),
        ({"unindexed": ("hfj_resource_p21000",)}, ["guard_index_missing"]),
        ({}, []),
    ],
)
def test_what_is_wrong_with_a_guard_is_told(damage: Optional[dict[str, Any]], ids_: list[str]) -> None:
    there = None if damage is None else replace(swapped_guard(), **damage)
    assert told(hfj.judge(resource_swapped(there), BOUNDS)) == ids_
    assert ids(hfj.judge_guard(swapped())) == []


def test_a_guard_needs_a_server_that_is_not_too_old() -> None:
    for table, version, chosen, wanted in (
        (resource(), 140012, True, ["guard_server_old"]), (resource(guard()), 140012, False, ["guard_server_old"]), (resource(), 140012, False, []),
        (resource(), 150018, True, []), (plain(), 140012, True, []),
    ):  # fmt: skip
        assert ids(hfj.judge_guard_server(table, version, chosen)) == wanted


def test_a_partition_of_later_needs_its_triggers_too() -> None:
    there = swapped_guard()
    less = replace(there, triggers=there.triggers - {("hfj_resource_p21000", 11)})
    assert hfj.guard_faults(resource_swapped(less)) == ["a trigger of hfj_resource_p21000 is gone or disabled"]
