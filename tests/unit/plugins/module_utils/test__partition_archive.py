# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which months may go, which archive stands for one, and what a killed run has left. With a real server: tests/integration/real."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _backup_files as store
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _partition_archive as archiving
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partition_catalog import CatalogError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partitions import UTC, Loose, Month, Parent, Partition, zone_of
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from hypothesis import given
from hypothesis import strategies as st

TABLE = "audit_events"
DHAKA = zone_of("Asia/Dhaka")


def month(year: int, number: int, **more: Any) -> Partition:
    of = Month(year, number)
    values = {"lower": of.start(UTC), "upper": of.next().start(UTC), "bytes": 1000, **more}
    return Partition(year * 100 + number, "audit", f"{TABLE}_{year:04d}_{number:02d}", **values)


def parent(*partitions: Partition, **more: Any) -> Parent:
    return Parent(**{"oid": 1, "schema": "audit", "name": TABLE, "keys": ("event_time",), "partitions": partitions, **more})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


# --- which months --------------------------------------------------------------------------------------------------


def chosen(table: Parent, now: datetime, older: Optional[int] = None, larger: Optional[int] = None) -> list[str]:
    past = None if older is None else archiving.month_begin(table, now, UTC, older)
    selection = archiving.Selection(archiving.month_begin(table, now, UTC), past, larger)
    return [item.name[-7:] for item in archiving.selected(table, selection)]


def test_by_age_so_many_whole_months_remain() -> None:
    table = parent(*(month(2026, number) for number in range(12, 0, -1)))
    for now in (at("2026-06-01"), at("2026-06-30T23:59:59.999999")):
        assert chosen(table, now, older=3) == ["2026_01", "2026_02"]
        assert chosen(table, now, older=5) == []
        assert chosen(table, now, older=1200) == []
    assert chosen(table, at("2026-07-01"), older=3) == ["2026_01", "2026_02", "2026_03"]


def test_by_size_a_month_has_to_be_over() -> None:
    table = parent(month(2026, 1), month(2026, 2, bytes=5000), month(2026, 6, bytes=9000), month(2026, 7, bytes=9000))
    assert chosen(table, at("2026-06-15"), larger=4000) == ["2026_02"]
    assert chosen(table, at("2026-06-15"), larger=5000) == []
    # One or the other.
    assert chosen(table, at("2026-06-15"), older=4, larger=4000) == ["2026_01", "2026_02"]


@given(st.integers(1, 1200), st.integers(0, 10**12), st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)))
def test_what_is_not_over_is_never_chosen(older: int, larger: int, moment: datetime) -> None:
    """Nor is what has no end, the default partition, or one whose bounds can't be read."""
    now = moment.replace(tzinfo=timezone.utc)
    odd = [
        Partition(1, "audit", "default", default=True, bytes=10**15),
        Partition(2, "audit", "rest", lower=at("2020-01-01"), bytes=10**15),
        Partition(3, "audit", "opaque", opaque=True, bytes=10**15),
    ]
    table = parent(*(month(2026 + number // 12, number % 12 + 1, bytes=10**15) for number in range(24)), *odd)
    past = archiving.month_begin(table, now, UTC, older)
    for item in archiving.selected(table, archiving.Selection(archiving.month_begin(table, now, UTC), past, larger)):
        assert item.upper is not None
        assert item.upper <= now
        assert not archiving.refusal(item, archiving.month_begin(table, now, UTC))


def test_months_are_those_of_the_zone() -> None:
    table = parent()
    now = at("2026-05-31T19:00:00")
    assert archiving.month_begin(table, now, DHAKA) == at("2026-05-31T18:00:00")
    assert archiving.month_begin(table, now, UTC) == at("2026-05-01")
    # A key without a zone: only which month it is now is a matter of the zone.
    plain = parent(key_type="timestamp")
    assert archiving.month_begin(plain, now, DHAKA) == at("2026-06-01")
    assert archiving.month_bounds(table, "audit_events_2026_05", DHAKA) == (at("2026-04-30T18:00:00"), at("2026-05-31T18:00:00"))
    assert archiving.month_bounds(plain, "audit_events_2026_05", DHAKA) == (at("2026-05-01"), at("2026-06-01"))
    assert archiving.month_bounds(table, "audit_events_old", UTC) is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, ""),
        ({"default": True, "lower": None, "upper": None}, "default partition"),
        ({"kind": "foreign"}, "foreign table"),
        ({"kind": "partitioned"}, "Name it in tables"),
        ({"opaque": True, "bound": "FOR VALUES WITH (x)"}, "FOR VALUES WITH (x)"),
        ({"upper": None}, "the present month or of a later one"),
        ({"upper": at("2026-06-01T00:00:00.000001")}, "the present month or of a later one"),
    ],
)
def test_what_can_not_be_archived(more: dict[str, Any], words: str) -> None:
    told = archiving.refusal(month(2026, 5, **more), at("2026-06-01"))
    assert words in told
    assert bool(words) == bool(told)


def test_names_in_schemas() -> None:
    table = parent(month(2026, 1), loose=(Loose(7, "other", "audit_events_2025_12", True),))
    assert archiving.schemas_of(table, "audit_events_2026_01") == ["audit"]
    assert archiving.schemas_of(table, "audit_events_2025_12") == ["other"]
    assert archiving.schemas_of(table, "audit_events") == []


# --- archives ------------------------------------------------------------------------------------------------------


def lay(directory: Path, name: str, created: float = 1.0, source: Optional[dict[str, str]] = None, **more: Any) -> Path:
    path = directory / name
    (path / "data").mkdir(parents=True)
    (path / "data/1.dat.gz").write_bytes(b"rows")
    size, sha256 = store.seal(str(path))
    values: dict[str, Any] = {
        "kind": "partition",
        "source": {"service": "postgres-audit", "database": "auditdb", **(source or {})},
        "schema": "audit",
        "table": TABLE,
        "partition_schema": "audit",
        "partition": "audit_events_2026_01",
        "lower": "2026-01-01T00:00:00Z",
        "upper": "2026-02-01T00:00:00Z",
        "columns": [{"name": "event_time", "type": "timestamp with time zone"}, {"name": "id", "type": "bigint"}],
        "rows": 5,
        "sum": "-17",
        "bytes": size,
        "total_bytes": 8192,
        "sha256": sha256,
        "created": created,
        "restore_checked": True,
    }
    store.write_manifest(str(path), {**values, **more})
    return path


def found(directory: Path, tables: Sequence[str] = (TABLE,)) -> list[str]:
    return [item.id for item in archiving.archives(str(directory), "postgres-audit", "auditdb", "audit", tables)]


def test_whose_an_archive_is(tmp_path: Path) -> None:
    lay(tmp_path, "a", source={"project": "p", "system_identifier": "7"})
    lay(tmp_path, "b")
    owners = {item.id: item.owner for item in archiving.archives(str(tmp_path), "postgres-audit", "auditdb", "audit", [TABLE])}
    assert owners == {"a": archiving.Owner("p", "7"), "b": archiving.Owner("", "")}
    assert str(owners["a"]) == "project p, system identifier 7"
    assert str(archiving.owner_of({"source": None})) == "project not known, system identifier not known"


def test_what_another_deployment_is_making_is_not_swept_away(tmp_path: Path) -> None:
    me, facts = archiving.Owner("p", "7"), {"source": {"project": "p", "system_identifier": "7"}}
    for name, project, system in (("mine", "p", "7"), ("clone", "q", "7"), ("namesake", "p", "8")):
        source = {"source": {"project": project, "system_identifier": system}}
        for ending in (".partial", ".removing", "-1.bad", "-2.bad"):
            archiving.begin(str(tmp_path / f"x_{name}{ending}"), source)
    archiving.begin(str(tmp_path / "y_mine.partial"), facts)
    # Nobody's name is on these.
    for name in ("x_new.partial", "x_old.partial", "x_old.bad"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data/1.dat.gz").write_bytes(b"rows")
    for path in sorted(tmp_path.glob("x_old*/**/*"), reverse=True) + [tmp_path / "x_old.partial", tmp_path / "x_old.bad"]:
        os.utime(path, (1, 1))
    found = [Path(path).name for path in archiving.leftovers(str(tmp_path), "x_", me)]
    assert sorted(found) == ["x_mine-1.bad", "x_mine.partial", "x_mine.removing", "x_old.partial"]
    # A file that grows is work in progress, however old the directory.
    os.utime(tmp_path / "x_old.partial/data/1.dat.gz")
    assert "x_old.partial" not in [Path(path).name for path in archiving.leftovers(str(tmp_path), "x_", me)]
    # Whatever it says of itself, it never counts.
    assert archiving.archives(str(tmp_path), "postgres-audit", "auditdb", "audit", [TABLE]) == []
    assert (tmp_path / "y_mine.partial").stat().st_mode & 0o777 == 0o700


def test_an_archive_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = lay(tmp_path, "a")
    (archive,) = archiving.archives(str(tmp_path), "postgres-audit", "auditdb", "audit", [TABLE])
    assert (archive.id, archive.path, archive.full_name) == ("a", str(path), "audit.audit_events_2026_01")
    assert archive.content == (5, "-17")
    assert archive.columns == archive.contents.columns == ("event_time", "id")
    target = archiving.target_of(month(2026, 1))
    assert archive.of(parent(), target)
    for other in (replace(target, upper=at("2026-02-02")), replace(target, schema="test"), replace(target, name="x"), replace(target, lower=None)):
        assert not archive.of(parent(), other)
    assert not archive.of(parent(name="other"), target)


def test_only_proven_archives_of_the_same_database_count(tmp_path: Path) -> None:
    assert found(tmp_path / "none") == []
    lay(tmp_path, "old", 1.0)
    lay(tmp_path, "new", 2.0)
    lay(tmp_path, "unproven", restore_checked=False)
    lay(tmp_path, "elsewhere", source={"service": "postgres-fhir"})
    lay(tmp_path, "another", source={"database": "other"})
    lay(tmp_path, "schema", schema="test")
    lay(tmp_path, "table", table="fhir_rejected_submissions")
    lay(tmp_path, "backup", kind="backup")
    lay(tmp_path, "torn", columns=None)
    lay(tmp_path, "odd", lower="yesterday")
    lay(tmp_path, "x.partial")
    lay(tmp_path, "x.bad")
    assert found(tmp_path) == ["new", "old"]
    assert found(tmp_path, [TABLE, "fhir_rejected_submissions"])[-1] in ("table", "old")
    assert found(tmp_path, []) == []


def test_backups_of_the_same_directory_do_not_take_it_for_one_of_theirs(tmp_path: Path) -> None:
    """postgres_backup removes old backups of its service and database."""
    lay(tmp_path, "a")
    (backup,) = store.listed(str(tmp_path))
    assert not backup.of("postgres-audit", "auditdb")


def test_ids() -> None:
    assert archiving.new_id("auditdb", "audit", "audit_events_2025_01", 1769903999) == "partition_auditdb_audit.audit_events_2025_01_20260131T235959Z"
    for names in (("a/b", "..", "Ev.ents-অডিট"), ("", " ", "\n"), ("x" * 63,) * 3, ("অ" * 21,) * 3):
        name = archiving.new_id(*names, 0)
        assert store.check_id(name) == name
        assert name.startswith(archiving.id_prefix(names[0]))
        assert len(name + store.REMOVING) < 250


# --- what a killed run has left ------------------------------------------------------------------------------------


def test_the_record_of_a_drop(tmp_path: Path) -> None:
    path = lay(tmp_path, "a")
    assert archiving.read_drop(str(path)) is None
    drop = archiving.Drop(4711, "77", 12.5, refill=True)
    archiving.write_drop(str(path), drop)
    assert archiving.read_drop(str(path)) == drop
    archiving.write_drop(str(path), replace(drop, done=True))
    assert archiving.read_drop(str(path)) == replace(drop, done=True)
    # It is no part of what the checksums prove.
    (archive,) = archiving.archives(str(tmp_path), "postgres-audit", "auditdb", "audit", [TABLE])
    assert store.damage(archive.backup) == ""
    for _time in range(2):
        archiving.remove_drop(str(path))
        assert archiving.read_drop(str(path)) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"oid": "x", "system": "1", "begun": 1, "refill": false, "done": false}', "null"])
def test_a_record_that_can_not_be_read_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "drop.json").write_text(text)
    with pytest.raises(store.BackupError, match=r"drop.json can't be read"):
        archiving.read_drop(str(tmp_path))


# --- loading -------------------------------------------------------------------------------------------------------


def archive_in(directory: Path, **more: Any) -> archiving.Archive:
    lay(directory, "a", **more)
    (archive,) = archiving.archives(str(directory), "postgres-audit", "auditdb", more.get("schema", "audit"), [more.get("table", TABLE)])
    return archive


def test_what_surrounds_the_rows(tmp_path: Path) -> None:
    hostile = 'a"b $body$ \'c\''
    archive = archive_in(tmp_path, partition=hostile)
    begin, end = archiving.load_script(archive, [("t", "O"), ('u"', "A")], 0.5)
    name = '"audit"."a""b $body$ \'c\'"'
    lines = begin.splitlines()
    assert lines[:3] == ["BEGIN;", "SET LOCAL lock_timeout = '500ms';", f"LOCK TABLE ONLY {name} IN SHARE ROW EXCLUSIVE MODE;"]
    assert lines[3].startswith("DO $body_$BEGIN IF EXISTS (SELECT FROM ONLY " + name)
    assert lines[4:] == [f'ALTER TABLE ONLY {name} DISABLE TRIGGER "t";', f'ALTER TABLE ONLY {name} DISABLE TRIGGER "u""";']
    after = end.splitlines()
    assert after[0] == "SET CONSTRAINTS ALL IMMEDIATE;"
    assert after[1:3] == [f'ALTER TABLE ONLY {name} ENABLE TRIGGER "t";', f'ALTER TABLE ONLY {name} ENABLE ALWAYS TRIGGER "u""";']
    assert "<> '5 -17'" in after[-2]
    assert after[-1] == "COMMIT;"
    assert all(line.startswith("SET LOCAL ") for line in after[3:-2])


@pytest.mark.parametrize(
    ("rc", "rows", "told"),
    [
        (0, "1\\n\\\\.\\n", "COMMIT;"),
        (1, "1\\n2", "SELECT the_dump_can_not_be_read;"),
    ],
)
def test_a_dump_that_breaks_off_never_looks_whole(tmp_path: Path, rc: int, rows: str, told: str) -> None:
    """What reaches psql, with a pg_restore that gives a part of the rows and fails."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("pg_restore", f"printf 'COPY t FROM stdin;\\n{rows}'; exit {rc}"), ("psql", "cat")):
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    with archiving.script_files(str(tmp_path), "BEGIN;\n", "COMMIT;\n"):
        done = subprocess.run(
            ["sh", "-c", archiving.LOAD, tmp_path], env={"PATH": f"{commands}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
        )
    lines = done.stdout.splitlines()
    assert lines[0] == "BEGIN;"
    assert lines[-1] == told
    assert lines[-2] == "\\."
    assert ("COMMIT;" in lines) == (rc == 0)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bin"]


def test_columns_that_are_gone(tmp_path: Path) -> None:
    archive = archive_in(tmp_path)
    assert archiving.misfit(["id", "event_time", "new"], archive) == ""
    assert "no column event_time any more" in archiving.misfit(["id"], archive)


def test_the_step_that_attaches_is_like_the_parent() -> None:
    table = parent(owner="keeper", acl=("a=r/keeper",), comment="x", replica_identity="full")
    step = archiving.attach_step(table, "attach", "audit", "m", (None, at("2026-02-01")), "why")
    assert (step.action, step.table, step.partition, step.lower, step.upper) == ("attach", TABLE, "m", None, at("2026-02-01"))
    assert (step.owner, step.acl, step.comment, step.replica_identity, step.existing) == ("keeper", ("a=r/keeper",), "x", "full", True)
    assert not archiving.attach_step(table, "create", "audit", "m", (None, None), "").existing


# --- locks ---------------------------------------------------------------------------------------------------------


class Busy:
    """A session whose statements are written down; `refusals` of them find a lock."""

    def __init__(self, refusals: int, sqlstate: str = "55P03") -> None:
        self.refusals = refusals
        self.sqlstate = sqlstate
        self.log: list[str] = []

    def execute(self, query: Any, params: Any = None) -> None:
        self.log.append(str(query))
        if query == "work":
            self.refusals -= 1
            if self.refusals >= 0:
                raise PostgresError("somebody holds it", "statement", self.sqlstate)


def test_a_lock_is_waited_for_patiently() -> None:
    session: Any = Busy(2)
    pauses: list[float] = []
    archiving.patiently(session, "It", lambda: session.execute("work"), 1.5, 3, pauses.append)
    assert (session.log.count("BEGIN"), session.log.count("ROLLBACK"), session.log.count("COMMIT")) == (3, 2, 1)
    assert pauses == [0.2, 0.4]
    session = Busy(9)
    with pytest.raises(PostgresError, match=r"It was tried 2 times, and a lock was not got within 1.5 seconds") as told:
        archiving.patiently(session, "It", lambda: session.execute("work"), 1.5, 2, pauses.append)
    assert told.value.sqlstate == "55P03"
    session = Busy(1, "42501")
    with pytest.raises(PostgresError, match="somebody holds it"):
        archiving.patiently(session, "It", lambda: session.execute("work"), 1.5, 5, pauses.append)
    assert session.log.count("BEGIN") == 1


class Held:
    """A session on which somebody holds the table all the time."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        assert params["seconds"] == 1.5
        return [{"pid": 7, "user": "reporter", "application": "psql", "state": "active", "seconds": 4000}]

    def execute(self, query: Any, params: Any = None) -> None:
        self.statements.append(str(query))


def test_nothing_is_begun_behind_a_long_transaction() -> None:
    """DETACH ... CONCURRENTLY hides the rows as long as it waits."""
    session: Any = Held()
    pauses: list[float] = []
    table = parent(month(2026, 1))
    with pytest.raises(CatalogError, match="pid 7 of reporter") as told:
        archiving.detach(session, table, archiving.target_of(table.partitions[0]), 1.5, 3, pauses.append)
    assert "Nothing was changed" in str(told.value)
    assert pauses == [1.5, 1.5]
    assert session.statements == []


# --- room ----------------------------------------------------------------------------------------------------------


class Container:
    id = "c"
    name = "postgres-1"


class Answer:
    def __init__(self, text: str) -> None:
        self.text = text

    def docker(self, *args: str) -> tuple[int, str, str]:
        assert args[-1] == "/var/lib/data"
        return 0, self.text, ""


def test_room_inside_of_a_container() -> None:
    docker: Any = Answer("1000 4096 8000\n")
    container: Any = Container()
    room = archiving.room_inside(docker, container, "/var/lib/data")
    assert (room.free, room.total) == (1000 * 4096, 8000 * 4096)
    for text in ("", "? 4096 8000", "1000 4096"):
        with pytest.raises(store.BackupError, match="could not be read"):
            archiving.room_inside(Answer(text), container, "/var/lib/data")  # type: ignore[arg-type]


def test_the_manifest_has_no_key_that_a_backup_is_found_by(tmp_path: Path) -> None:
    path = lay(tmp_path, "a")
    manifest = json.loads((path / "manifest.json").read_text())
    assert not {"service", "database", "method"} & set(manifest)
