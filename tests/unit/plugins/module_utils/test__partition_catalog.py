# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is made of a server's answers, and how a step is carried out. With real servers: tests/integration/real."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _partition_catalog as catalog
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partitions import Parent, Partition, PartitionError, Server, Settings, Step, plan
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError

pytest.importorskip("psycopg2")

FIXTURES = Path(__file__).parents[1] / "fixtures/partitions"
UTC = timezone.utc
NOW = datetime(2026, 11, 26, tzinfo=UTC)


def text_of(query: Any) -> str:
    """Words of a composed statement; as_string() needs a connection."""
    if isinstance(query, str):
        return query
    kind = type(query).__name__
    if kind == "Composed":
        return "".join(text_of(item) for item in query.seq)
    if kind == "Identifier":
        return ".".join('"%s"' % name for name in query.strings)
    return "'%s'" % query.wrapped if kind == "Literal" else str(query.string)


class Session:
    """Answers in the order in which they were recorded, and keeps what it was told."""

    def __init__(self, *answers: list[dict[str, Any]], refuses: list[tuple[str, PostgresError]] | None = None) -> None:
        self.answers = list(answers)
        self.refuses = refuses or []
        self.said: list[str] = []

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        self._say(query)
        return self.answers.pop(0)

    def value(self, query: Any, params: Any = None) -> Any:
        return next(iter(self.rows(query)[0].values()))

    def execute(self, query: Any, params: Any = None) -> None:
        self._say(query)

    def _say(self, query: Any) -> None:
        self.said.append(text_of(query))
        for number, (part, error) in enumerate(self.refuses):
            if part in self.said[-1]:
                del self.refuses[number]
                raise error


def recorded(version: int) -> Session:
    return Session(*json.loads((FIXTURES / f"postgresql-{version}.json").read_text())["answers"])


@pytest.mark.parametrize("version", [15, 17])
def test_what_a_real_server_answers(version: int) -> None:
    session = recorded(version)
    reading = catalog.read_table(session, "rec", "t")  # type: ignore[arg-type]
    parent = reading.parent
    assert (parent.strategy, parent.keys, parent.key_type, parent.comment, reading.findings) == ("range", ("at",), "timestamptz", "trail", ())
    parts = {item.name: item for item in parent.partitions}
    assert parts["t_2026_11"].lower == datetime(2026, 11, 1, tzinfo=UTC)
    assert parts["t_2026_11"].referenced_by == ("about of rec.notes",)
    assert parts["t_past"].opaque
    assert (parts["t_2026_12"].kind, parts["t_2026_12"].has_children) == ("partitioned", False)
    assert parts["t_default"].default
    assert parent.default_rows == 2
    assert parent.default_span == (datetime(2027, 3, 5, 12, 0, 0, 250000, tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    loose = {item.name: item for item in parent.loose}
    assert set(loose) == {"t_2027_01", "t_2027_02", "other_2027_05"}
    assert loose["t_2027_01"].fits
    assert loose["t_2027_01"].rows_span == (datetime(2027, 1, 31, 23, tzinfo=UTC),) * 2
    assert "extra too many" in loose["t_2027_02"].misfit
    # Nothing is asked of the rows of a table that does not fit anyhow.
    assert len(session.said) == 4
    assert parent.taken == {"t_2027_04", "t_other_2027_06"}
    maintain = any("m" in item.partition("=")[2].partition("/")[0] for item in parent.acl)
    assert maintain is (version == 17)


def test_one_query_for_a_table_of_any_size() -> None:
    rows = json.loads((FIXTURES / "postgresql-15.json").read_text())["answers"][0]
    one = next(row for row in rows if row["name"] == "t_2026_11")
    rest = [row for row in rows if row["part"] in ("parent", "names", "siblings")]
    session = Session(rest + [dict(one, name="p%d" % number) for number in range(5000)])
    assert len(catalog.read_parent(session, "rec", "t").partitions) == 5000  # type: ignore[arg-type]
    assert len(session.said) == 1


@pytest.mark.parametrize("part", [{}, {"strategy": "l"}, {"strategy": "h"}, {"strategy": None}, {"names": ["a", "b"]}, {"key_type": "bigint"}])
def test_a_table_without_months_is_not_looked_into(part: dict[str, Any]) -> None:
    rows = json.loads((FIXTURES / "postgresql-15.json").read_text())["answers"][0]
    rows = [dict(row, **part) if row["part"] == "parent" else row for row in rows] if part else []
    session = Session(rows)
    parent = catalog.read_parent(session, "rec", "t")  # type: ignore[arg-type]
    assert (bool(parent.oid), parent.loose, parent.default_rows) == (bool(part), (), None)
    assert not catalog.by_month(parent)
    assert len(session.said) == 1


def test_what_may_not_be_seen_is_a_finding() -> None:
    rows, *_rest = json.loads((FIXTURES / "postgresql-15.json").read_text())["answers"]
    rows = [dict(row, may_select=False) for row in rows]
    reading = catalog.read_table(Session(rows), "rec", "t")  # type: ignore[arg-type]
    assert [item["id"] for item in reading.findings] == ["default_unreadable"]
    assert reading.parent.default_rows == 0
    assert not any(item.fits for item in reading.parent.loose)
    # And so is a query that fails; a session that is gone is no finding.
    rows = [dict(row, may_select=True) for row in rows if row["part"] != "loose"]
    slow = Session(rows, [], refuses=[("count(*)", PostgresError("too slow", sqlstate="57014"))])
    assert "too slow" in str(catalog.read_table(slow, "rec", "t").findings)  # type: ignore[arg-type]
    gone = Session(rows, [], refuses=[("count(*)", PostgresError("gone", "lost"))])
    with pytest.raises(PostgresError, match="gone"):
        catalog.read_table(gone, "rec", "t")  # type: ignore[arg-type]


def test_one_table_that_can_not_be_read_is_a_finding() -> None:
    server = Server(150018, False, NOW)
    report = catalog.look(Session(refuses=[("pg_class", PostgresError("no"))]), server, "audit", "t", Settings(), NOW)  # type: ignore[arg-type]
    assert (report.parent, report.error, [item["id"] for item in report.findings]) == (None, "no", ["table_unreadable"])
    told = catalog.table_report(report)
    assert (told["readable"], told["days_left"], told["partitions"]) == (False, 0.0, [])
    with pytest.raises(PostgresError):
        catalog.look(Session(refuses=[("pg_class", PostgresError("no", "lost"))]), server, "audit", "t", Settings(), NOW)  # type: ignore[arg-type]


def test_the_server() -> None:
    row = {"version": 150018, "in_recovery": False, "now": "1795662764.000001", "time_zone": "Asia/Dhaka", "user": "a", "is_superuser": None}
    server = catalog.read_server(Session([row]))  # type: ignore[arg-type]
    assert server.now == datetime(2026, 11, 26, 3, 12, 44, 1, tzinfo=UTC)
    assert server.is_superuser is False
    with pytest.raises(catalog.CatalogError, match="PostgreSQL 13; 14 or newer"):
        catalog.read_server(Session([{**row, "version": 130022}]))  # type: ignore[arg-type]


def test_moments_and_settings() -> None:
    assert catalog.moment_of("") is None
    for text in ("2027-12-20T00:00:00Z", "2027-12-20T06:00:00+06:00", " 2027-12-20 00:00:00z"):
        assert catalog.moment_of(text) == datetime(2027, 12, 20, tzinfo=UTC)
    for text in ("2027-12-20", "2027-12-20T00:00:00", "now", "20.12.2027"):
        with pytest.raises(PartitionError, match="now is"):
            catalog.moment_of(text)
    params = {name: option["default"] for name, option in catalog.PARTITION_ARGUMENTS.items()}
    assert catalog.settings_of(params, repair=False) == Settings(repair=False)
    tables: list[dict[str, Any]] = [{"tables": []}, {"tables": [""]}, {"tables": ["a", "a"]}]
    for wrong in [*tables, {"months_ahead": 0}, {"months_ahead": 10000}, {"time_zone": "Nowhere/City"}]:
        with pytest.raises(PartitionError):
            catalog.settings_of({**params, **wrong})


# --- steps ---------------------------------------------------------------------------------------------------------

PARENT_ROW = {
    "oid": 1, "relkind": "p", "owner": "keeper", "acl": ["keeper=arwdDxt/keeper"], "replica_identity": "d", "comment": "", "attached": False,
    "triggers": False, "default_oid": 0, "tablespace": None, "user": "postgres", "is_superuser": True, "version": 150018,
}  # fmt: skip
PART_ROW = {**PARENT_ROW, "oid": 2, "relkind": "r", "default_oid": None}
BUSY = PostgresError("canceling statement due to lock timeout", sqlstate="55P03")


def step(action: str, **more: Any) -> Step:
    bounds = {"lower": datetime(2027, 3, 1, tzinfo=UTC), "upper": datetime(2027, 4, 1, tzinfo=UTC)}
    return Step(action, "t", "t_2027_03", schema="audit", partition_schema="audit", keys=("at",), owner="keeper", **{**bounds, **more})


def test_a_month_is_created_without_keeping_anybody_waiting() -> None:
    session = Session([PARENT_ROW], [PART_ROW], [PART_ROW])
    assert catalog.apply(session, step("create")) == 0  # type: ignore[arg-type]
    assert (session.said[0], session.said[-1]) == ("BEGIN", "COMMIT")
    text = "\n".join(session.said)
    assert 'LOCK TABLE ONLY "audit"."t" IN SHARE UPDATE EXCLUSIVE MODE' in text
    assert 'ALTER TABLE "audit"."t_2027_03" OWNER TO "keeper"' in text
    bounds = "FOR VALUES FROM ('2027-03-01 00:00:00+00') TO ('2027-04-01 00:00:00+00')"
    assert f'ALTER TABLE "audit"."t" ATTACH PARTITION "audit"."t_2027_03" {bounds}' in text
    assert "PARTITION OF" not in text
    # With a default partition, whoever is about to write into it has to wait before it chooses where.
    session = Session([{**PARENT_ROW, "default_oid": 9}], [PART_ROW], [PART_ROW])
    catalog.apply(session, step("create"))  # type: ignore[arg-type]
    assert 'LOCK TABLE ONLY "audit"."t" IN SHARE ROW EXCLUSIVE MODE' in session.said


def test_a_table_is_scanned_before_the_lock() -> None:
    session = Session([PARENT_ROW], [PART_ROW], [PART_ROW], [PART_ROW])
    catalog.apply(session, step("attach", existing=True))  # type: ignore[arg-type]
    marks = ("ADD CONSTRAINT", "LOCK TABLE", "ATTACH", "DROP CONSTRAINT")
    assert [mark for text in session.said for mark in marks if mark in text] == list(marks)


def test_a_lock_is_tried_again_and_nothing_stays_open() -> None:
    session = Session([PARENT_ROW], [PARENT_ROW], [PART_ROW], [PART_ROW], refuses=[("LOCK TABLE", BUSY)])
    pauses: list[float] = []
    catalog.apply(session, step("create"), 0.5, 3, pauses.append)  # type: ignore[arg-type]
    assert session.said.count("BEGIN") == session.said.count("COMMIT") + session.said.count("ROLLBACK") == 2
    assert pauses == [0.2]
    holder = {"pid": 7, "user": "x", "application": "pg_dump", "state": "active", "seconds": 90}
    session = Session(*[[PARENT_ROW]] * 3, [holder], refuses=[("LOCK TABLE", BUSY)] * 3)
    with pytest.raises(PostgresError, match=r"create of audit.t_2027_03 was tried 3 times.*pid 7 of x \(pg_dump") as raised:
        catalog.apply(session, step("create"), 0.5, 3, pauses.append)  # type: ignore[arg-type]
    assert raised.value.sqlstate == "55P03"
    # Anything else is no reason to try again.
    session = Session([PARENT_ROW], refuses=[("LOCK TABLE", PostgresError("no", sqlstate="42501"))])
    with pytest.raises(PostgresError, match="no"):
        catalog.apply(session, step("create"))  # type: ignore[arg-type]
    assert session.said[-1] == "ROLLBACK"


@pytest.mark.parametrize(("wanted", "moved", "left"), [(3, 2, 0), (3, 3, 1), (3, 0, 3)])
def test_rows_that_do_not_arrive_are_not_moved(wanted: int, moved: int, left: int) -> None:
    session = Session([PARENT_ROW], [PART_ROW], [{"name": "at"}], [{"n": wanted}], [{"n": moved}], [{"n": left}])
    with pytest.raises(catalog.CatalogError, match="Nothing was changed on audit.t: of 3 rows"):
        catalog.apply(session, step("move_default_rows", default_partition="t_default"))  # type: ignore[arg-type]
    assert session.said[-1] == "ROLLBACK"


def test_triggers_have_no_say_in_a_move() -> None:
    answers = [[{**PARENT_ROW, "default_oid": 9}], [{**PART_ROW, "triggers": True}], [{"name": "at"}], [{"n": 3}], [{"n": 3}], [{"n": 0}], [PART_ROW]]
    session = Session(*answers, [PART_ROW])
    assert catalog.apply(session, step("move_default_rows", default_partition="t_default")) == 3  # type: ignore[arg-type]
    roles = [text for text in session.said if "session_replication_role" in text]
    assert ["'replica'" in text for text in roles] == [True, False]
    assert any("DELETE FROM" in text and "INSERT INTO" in text for text in session.said)


def test_a_bounded_step_gives_writers_an_end_of_their_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its lock on each statement has what is left of the time, the one that attaches too."""
    head = {**PARENT_ROW, "default_oid": 9}
    moving = replace(step("move_default_rows", default_partition="t_default"), bounded=True)
    answers: list[list[dict[str, Any]]] = [[head], [PART_ROW], [{"name": "at"}], [{"n": 3}], [{"n": 3}], [{"n": 0}], [PART_ROW], [PART_ROW]]
    session = Session(*answers)
    assert catalog.apply(session, moving) == 3  # type: ignore[arg-type]
    heavy = [number for number, text in enumerate(session.said) if text.startswith(("SELECT count", "WITH gone")) or "ATTACH PARTITION" in text]
    assert len(heavy) == 4
    assert all("set_config('statement_timeout'" in session.said[number - 1] for number in heavy)
    # Without a default partition nobody waits, and without a bound they do.
    for one, row in ((replace(step("create"), bounded=True), PARENT_ROW), (step("create"), head)):
        session = Session([row], [PART_ROW], [PART_ROW])
        catalog.apply(session, one)  # type: ignore[arg-type]
        assert not any("set_config('statement_timeout'" in text for text in session.said)
    cancelled = PostgresError("canceling statement due to statement timeout", sqlstate="57014")
    session = Session([head], [PART_ROW], [{"name": "at"}], refuses=[("WITH gone", cancelled)])
    session.answers.append([{"n": 3}])
    with pytest.raises(PostgresError, match=r"given up, because writers had waited for it for 30 seconds; nothing.*move_limit 0") as raised:
        catalog.apply(session, moving)  # type: ignore[arg-type]
    assert (raised.value.sqlstate, session.said[-1], session.said.count("BEGIN")) == ("57014", "ROLLBACK", 1)


def test_rows_of_the_default_partition_are_counted_where_they_may_be_too_many() -> None:
    month = Partition(1, "audit", "t_2026_11", lower=datetime(2026, 11, 1, tzinfo=UTC), upper=datetime(2026, 12, 1, tzinfo=UTC))
    span = (datetime(2026, 12, 5, tzinfo=UTC), datetime(2027, 1, 5, tzinfo=UTC))
    parts = (month, Partition(2, "audit", "t_default", default=True))
    table = Parent(1, "audit", "t", keys=("at",), partitions=parts, default_rows=9, default_span=span)
    server, settings = Server(150018, False, NOW), Settings(months_ahead=2, move_limit=8)

    def counted(session: Session, **more: Any) -> Parent:
        return catalog.with_counts(session, table, server, replace(settings, **more), NOW)  # type: ignore[arg-type]

    session = Session([{"place": None, "count": 1}, {"place": 1, "count": 7}, {"place": 3, "count": 1}])
    assert [item[2] for item in counted(session).default_counts] == [7, 0]
    assert "ARRAY['2026-12-01 00:00:00+00', '2027-01-01 00:00:00+00', '2027-02-01 00:00:00+00']::timestamptz[]" in session.said[0]
    # What is moved is taken off, and what nobody moves stays.
    parent = replace(counted(Session([{"place": 1, "count": 8}, {"place": 2, "count": 1}])), default_rows=9)
    first = plan(parent, server, settings, NOW)[:1]
    after = catalog.predicted(parent, first)
    assert (after.default_rows, after.default_span, [item[2] for item in after.default_counts]) == (1, span, [1])
    assert catalog.predicted(parent, plan(parent, server, settings, NOW)).default_rows == 0
    # Few rows, or no bound: nothing is asked.
    for more in ({"move_limit": 9}, {"move_limit": 0}, {"move_default_rows": False}):
        session = Session()
        assert (counted(session, **more).default_counts, session.said) == ((), [])
    # Not known is too many.
    refusal = PostgresError("canceling statement due to statement timeout", sqlstate="57014")
    parent = counted(Session(refuses=[("width_bucket", refusal)]))
    assert plan(parent, server, settings, NOW) == []
    with pytest.raises(PostgresError, match="gone"):
        counted(Session(refuses=[("width_bucket", PostgresError("gone", "lost"))]))


def test_what_is_gone_and_what_is_no_step() -> None:
    with pytest.raises(catalog.CatalogError, match="audit.t is not there any more"):
        catalog.apply(Session([]), step("create"))  # type: ignore[arg-type]
    with pytest.raises(catalog.CatalogError, match="no step fly"):
        catalog.apply(Session([PART_ROW]), step("fly"))  # type: ignore[arg-type]
    with pytest.raises(catalog.CatalogError, match="no index"):
        catalog.apply(Session([PART_ROW], [PARENT_ROW], [{"index": None}]), step("set_replica_identity", replica_identity="index"))  # type: ignore[arg-type]


def test_rights_of_any_version_are_given() -> None:
    have = {**PART_ROW, "version": 170000, "acl": ["keeper=arwdDxtm/keeper", "=r/keeper"]}
    session = Session([have], [have])
    catalog.apply(session, step("set_grants", acl=("keeper=arwdDxtm/keeper", "x=m*/keeper")))  # type: ignore[arg-type]
    changes = [text for text in session.said if text.startswith(("GRANT", "REVOKE"))]
    assert changes == [
        'REVOKE SELECT ON TABLE "audit"."t_2027_03" FROM PUBLIC',
        'GRANT MAINTAIN ON TABLE "audit"."t_2027_03" TO "x" WITH GRANT OPTION',
    ]


def test_a_function_that_returns_something_is_dropped_first_and_keeps_its_callers() -> None:
    text = "CREATE OR REPLACE FUNCTION x AS $$ 100% $$"
    callers = [{"void": False, "grantee": "a", "grantable": True}, {"void": False, "grantee": "", "grantable": False}]
    session = Session(callers)
    catalog.apply(session, Step("replace_function", "", "f", schema="audit", owner="keeper", sql=text))  # type: ignore[arg-type]
    said = [item for item in session.said if "FUNCTION" in item or "ROUTINE" in item]
    assert said == [
        'DROP ROUTINE "audit"."f"()', text, 'ALTER FUNCTION "audit"."f"() OWNER TO "keeper"', 'REVOKE ALL ON FUNCTION "audit"."f"() FROM PUBLIC',
        'GRANT EXECUTE ON FUNCTION "audit"."f"() TO "a" WITH GRANT OPTION', 'GRANT EXECUTE ON FUNCTION "audit"."f"() TO PUBLIC',
    ]  # fmt: skip
    session = Session([{"void": True, "grantee": None, "grantable": None}])
    catalog.apply(session, Step("replace_function", "", "f", schema="audit", owner="keeper", sql=text))  # type: ignore[arg-type]
    assert [item for item in session.said if "FUNCTION" in item] == [text, 'ALTER FUNCTION "audit"."f"() OWNER TO "keeper"']


# --- judging -------------------------------------------------------------------------------------------------------


def test_who_may_not_is_told_before() -> None:
    parent = Parent(1, "audit", "t", keys=("at",), owner="keeper", partitions=(Partition(2, "audit", "t_2027_03", owner="other"),))
    nobody = Server(150018, False, NOW, user="me")
    create, repair = replace(step("create"), partition="t_2027_04"), step("set_grants")

    def why(steps: list[Step], *answers: list[dict[str, Any]], server: Server = nobody) -> str:
        return catalog.denied(Session(*answers), server, parent, steps)  # type: ignore[arg-type]

    roles = [{"name": "keeper"}]
    assert why([create], server=Server(150018, False, NOW, is_superuser=True)) == ""
    assert why([]) == ""
    assert "which belongs to the role keeper" in why([create], [{"name": "me"}])
    assert "may not use the schema audit" in why([create], roles, [{"usage": False, "creates": True}])
    assert "may not create tables in the schema audit" in why([create], roles, [{"usage": True, "creates": False}])
    assert "which belongs to the role other" in why([repair], roles, [{"usage": True, "creates": False}])
    assert why([repair], [*roles, {"name": "other"}], [{"usage": True, "creates": False}]) == ""


def test_a_plan_leads_to_a_table_without_a_plan() -> None:
    """What check mode tells of afterwards is the plan applied to what was read."""
    session = recorded(15)
    parent = catalog.read_parent(session, "rec", "t")  # type: ignore[arg-type]
    server, settings = Server(150018, False, NOW), Settings()
    steps = plan(parent, server, settings, NOW)
    assert {item.action for item in steps} >= {"attach", "move_default_rows", "set_grants", "set_comment"}
    assert plan(catalog.predicted(parent, steps), server, settings, NOW) == []
    # The row of the year infinity stays where it is.
    assert catalog.predicted(parent, steps).default_rows == 2


def test_reports_can_be_told() -> None:
    parent = catalog.read_parent(recorded(15), "rec", "t")  # type: ignore[arg-type]
    report = catalog.TableReport("rec", "t")
    catalog.judge(report, catalog.Reading(parent), Server(150018, False, NOW), Settings(), NOW)
    told = catalog.table_report(report)
    json.dumps(told)
    assert told["partitions"][-1]["name"] == "t_default"
    assert told["covered_until"] == "2027-01-01T00:00:00Z"
    text = catalog.bounds_text(report)
    assert "rec.t_2026_11: 2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z; postgres;" in text
    assert "rows in the default partition: 2" in text
    assert catalog.step_report(report.plan[0])["action"] == report.plan[0].action


def test_no_ansible_is_needed() -> None:
    """The job on the host has none."""
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'ansible' or name.startswith('ansible.'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import module_utils._partition_catalog\n"
    )
    plugins = Path(__file__).resolve().parents[4] / "plugins"
    done = subprocess.run([sys.executable, "-c", code, str(plugins)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
