# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HFJ_RESOURCE partitioned with a guard in the place of its unique index, by hfj_partition on a real PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _hfj_guard, _hfj_sql
from ansible_collections.dghs.bd_fhir.plugins.modules import hfj_partition, hfj_partition_info
from ansible_collections.dghs.bd_fhir.tests.integration.real import real_database
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import fhir, filled, for_hapi, hapi
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hfj import (
    KNOWN,
    TOKEN,
    VERSIONS,
    Run,
    Site,
    actions,
    full,
    functional,
    ids,
    killed_at,
    steps,
)  # fmt: skip

pytestmark = pytest.mark.engine

COUNT = 4000
RESOURCE = "hfj_resource"
GUARD = "hfj_resource_bd_guard"
INDEX = "idx_res_type_fhir_id"
BOUND = 500000
PREPARED = ["create_guard", "fill_guard", "create_parent", "add_partition", "add_partition", "add_check", "validate_check"]
INSERT = (
    "INSERT INTO hfj_resource (res_id, fhir_id, has_tags, res_published, res_updated, res_type, res_ver)"
    " VALUES (%s, %s, false, now(), now(), 'Patient', 1)"
)
PAIRS = (
    f"SELECT (SELECT count(*) FROM {GUARD}) = (SELECT count(*) FROM {RESOURCE} WHERE fhir_id IS NOT NULL) AND NOT EXISTS"
    f" (SELECT res_type, fhir_id FROM {RESOURCE} WHERE fhir_id IS NOT NULL EXCEPT SELECT res_type, fhir_id FROM {GUARD})"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with filled(Site(tmp_path_factory.mktemp("guard") / "site", "guard"), COUNT) as site:
        yield site


@pytest.fixture
def site(made: Site) -> Site:
    made.fresh()
    # What is written by number here was given out.
    made.sequence_at(16001)
    return made


@pytest.fixture
def do(site: Site, run: Run) -> Run:
    """Do a step with HFJ_RESOURCE, the guard chosen."""
    return steps(site, run, RESOURCE, unique_guard=True)


@pytest.fixture
def look(site: Site, run: Run) -> Callable[[], dict[str, Any]]:
    """What hfj_partition_info tells of the table; its findings beside it."""

    def call(**more: Any) -> dict[str, Any]:
        found = run(hfj_partition_info, **site.args(tables=[RESOURCE], min_size="100KB", **more))
        assert "failed" not in found, found["msg"]
        return {**found["tables"][0], "findings": found["findings"]}

    return call


def write(site: Site, *rows: tuple[int, Any]) -> None:
    connection = site.connection("postgres", "hapi_app")
    try:
        for row in rows:
            connection.cursor().execute(INSERT, row)
    finally:
        connection.close()


# --- the whole way -------------------------------------------------------------------------------------------------


def test_case_92_there_and_back_under_load(site: Site, do: Run, look: Callable[..., dict[str, Any]]) -> None:
    """Check, real, again, for each step; no request fails; the way back leaves the schema as it was, to the byte."""
    keys = "SELECT conname, conrelid::regclass, confrelid::regclass, convalidated FROM pg_constraint WHERE contype = 'f' AND conparentid = 0"
    keys += " ORDER BY 1, 2"
    before, keys_before = site.dump(), site.script(keys)
    assert look()["guard"] is not None
    assert (look()["worth"], look(unique_guard=True)["worth"], look(unique_guard=True)["feasible"]) == (False, True, True)
    with site.load(1) as load:
        told = do("prepare", check=True)
        assert site.dump() == before
        done = do("prepare")
        assert actions(done) == actions(told) == PREPARED
        assert done["state"]["after"] == told["state"]["after"] == "prepared"
        for check in (True, False):
            assert not do("prepare", check=check)["changed"]
        there = look()
        assert (there["state"], there["guard"]["state"], there["guard"]["percent"]) == ("prepared", "complete", 100.0)
        # What was begun is gone on with, chosen or not.
        told, done = do("swap", check=True), do("swap", unique_guard=False)
        assert actions(done) == actions(told) == ["swap", *["validate_key"] * 26, "analyze"]
        assert done["foreign_keys"]["before"] == done["foreign_keys"]["after"]
        assert not do("swap")["changed"]
        assert 0 < done["lock"]["held_ms"] < 3000
        do("verify", expected_foreign_keys=done["foreign_keys"]["before"])
    assert load.failed == []
    assert site.script(keys) == keys_before
    assert site.script(PAIRS) == "t"
    there = look()
    assert (there["state"], there["guard"]["state"], there["guard"]["faults"]) == ("swapped", "complete", [])
    assert there["guard"]["bytes"] > 0
    bound = done["partitions"][0]["upper"]
    with site.load(1) as more:
        site.script(f"SELECT setval('seq_resource_id', {bound + 5001})")
        site.resource(bound + 5000)
        time.sleep(0.5)
        assert site.lands_in(RESOURCE, "res_id", bound + 5000) == f"{RESOURCE}_p{bound}"
        told, extended = do("extend", check=True), do("extend")
        assert actions(extended) == actions(told) == ["add_partition"]
        do("verify")
        for check in (True, False):
            assert "allow_copy" in do("undo", check=check, fails=True)["msg"]
        told, back = do("undo", check=True, allow_copy=True), do("undo", allow_copy=True)
        assert actions(back) == actions(told) == ["swap_back", *["validate_key"] * 26]
        assert back["state"] == {"before": "swapped", "after": "plain"}
    assert more.failed == []
    assert load.done > 20 < more.done
    print(f"{load.done + more.done} rounds, longest wait {max(load.longest, more.longest):.3f} s, locks held for {done['lock']['held_ms']} ms")
    assert site.dump() == before


@pytest.mark.full
def test_the_way_back_from_what_is_prepared(site: Site, do: Run) -> None:
    before = site.dump()
    do("prepare")
    assert actions(do("undo")) == ["drop_check", "drop_parent", "drop_guard"]
    assert site.dump() == before


def test_it_is_a_choice_and_comes_first(site: Site, do: Run, look: Callable[..., dict[str, Any]]) -> None:
    before = site.dump()
    for check in (True, False):
        refused = do("prepare", check=check, fails=True, unique_guard=False)["msg"]
        assert "HFJ_SPIDX_*, HFJ_RES_LINK. Or choose unique_guard" in refused
        # Copied into partitions it gets no guard.
        assert "unique_without_key" in do("rewrite", check=check, fails=True)["msg"]
    # Another unique index that lacks the key is no matter of a guard.
    site.script(f"CREATE UNIQUE INDEX late ON {RESOURCE} (res_type, fhir_id, res_ver)")
    assert "late (res_type, fhir_id, res_ver)" in do("prepare", fails=True)["msg"]
    site.script("DROP INDEX late")
    # A name that is taken.
    site.script(f"CREATE TABLE {GUARD} (i int)")
    assert "partition_name_taken" in do("prepare", fails=True)["msg"]
    site.script(f"DROP TABLE {GUARD}")
    assert site.dump() == before
    # PostgreSQL takes no key of a partitioned table that is NOT VALID, and would read it under the lock.
    do("prepare", TOKEN)
    do("swap", TOKEN)
    for check in (True, False):
        assert f"inbound_table_partitioned on public.{RESOURCE}" in do("prepare", check=check, fails=True)["msg"]
    do("undo", TOKEN)
    assert site.dump() == before


@pytest.mark.full
def test_the_others_follow_it(site: Site, do: Run) -> None:
    """Tables that refer to a partitioned HFJ_RESOURCE are partitioned after it, and go back before it; their keys hold all the time."""
    before = site.dump()
    do("prepare", VERSIONS)
    do("prepare", first_bound=BOUND)
    # The parent of HFJ_RES_VER that is not in use yet refers to it too.
    do("swap")
    do("swap", VERSIONS)
    do("prepare", TOKEN)
    do("swap", TOKEN)
    for table in (RESOURCE, VERSIONS, TOKEN):
        do("verify", table)

    def hold() -> None:
        with pytest.raises(AssertionError, match="violates foreign key constraint"):
            site.script(f"DELETE FROM {RESOURCE} WHERE res_id = (SELECT max(res_id) FROM {TOKEN})")
        with pytest.raises(AssertionError, match="violates foreign key constraint"):
            site.script(f"INSERT INTO {TOKEN} (sp_id, sp_missing, sp_name, res_id, res_type) VALUES (-1, false, 'x', 19999, 'Patient')")

    hold()
    for check in (True, False):
        assert "inbound_table_partitioned" in do("undo", check=check, fails=True)["msg"]
    do("undo", TOKEN)
    # It refers to a partitioned table as a plain one again.
    hold()
    do("undo", VERSIONS)
    do("undo")
    hold()
    assert site.dump() == before


# --- unique --------------------------------------------------------------------------------------------------------


def race(site: Site, rounds: int, first: int, second: int) -> tuple[int, int, list[tuple[str, str]]]:
    """Let eight sessions write one new id at the same time, again and again, half of them into another partition.

    Return how many were written, how many rounds have duplicates, and what the others were told.
    """
    count, written, told = 8, [0], []
    barrier = threading.Barrier(count)

    def work(number: int) -> None:
        connection = site.connection("postgres", "hapi_app")
        try:
            connection.autocommit = False
            for turn in range(rounds):
                id = (first if number % 2 else second) + turn * count + number
                barrier.wait(30)
                try:
                    connection.cursor().execute(INSERT, (id, f"race-{first}-{turn}"))
                    time.sleep(0.003)
                    connection.commit()
                    written[0] += 1
                except psycopg2.Error as exc:
                    connection.rollback()
                    told.append((str(exc.pgcode), str(exc.diag.constraint_name)))
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    double = f"SELECT count(*) FROM (SELECT 1 FROM {RESOURCE} WHERE fhir_id LIKE 'race-{first}-%' GROUP BY res_type, fhir_id HAVING count(*) > 1) x"
    return written[0], int(site.script(double)), told


@pytest.mark.parametrize("rounds", [10, full(100)])
def test_parallel_writes_of_one_new_id(site: Site, do: Run, rounds: int) -> None:
    told_before = {("23505", INDEX)}
    # As it was: the table's own index, also while the guard is being prepared.
    assert race(site, rounds, 6000, 7000)[:2] == (rounds, 0)
    do("prepare", first_bound=BOUND)
    written, double, told = race(site, rounds, 8000, 9000)
    assert (written, double, set(told), len(told)) == (rounds, 0, told_before, 7 * rounds)
    do("swap")
    site.script(f"SELECT setval('seq_resource_id', {BOUND} + 20001)")
    # Without the guard, seen red: each partition keeps only its own rows apart.
    site.script(f"ALTER TABLE {RESOURCE} DISABLE TRIGGER USER")
    written, double, told = race(site, rounds, 10000, BOUND + 1000)
    assert (written, double) == (2 * rounds, rounds)
    found = do("verify", fails=True)
    assert {"guard_trigger_off", "guard_differs"} <= set(ids(found))
    assert f"{rounds} resources have the type and FHIR id of another one" not in found["msg"]
    assert f"{2 * rounds} resources are missing in it" in found["msg"]
    site.script(f"DELETE FROM {RESOURCE} WHERE fhir_id LIKE 'race-10000-%'")
    site.script(f"ALTER TABLE {RESOURCE} ENABLE TRIGGER USER")
    do("verify")
    # With it.
    written, double, told = race(site, rounds, 12000, BOUND + 5000)
    assert (written, double, set(told), len(told)) == (rounds, 0, told_before, 7 * rounds)
    do("verify")
    assert site.script(PAIRS) == "t"


@pytest.mark.full
def test_it_is_as_with_the_unique_index(site: Site, do: Run) -> None:
    """Nulls, another id, a row that moves, one that goes and comes again, and several in one statement."""
    far = BOUND + 10

    def same() -> list[str]:
        said = []
        connection = site.connection("postgres", "postgres")
        cursor = connection.cursor()
        cursor.execute(f"SELECT to_regclass('{GUARD}') IS NOT NULL")
        guarded = cursor.fetchone()[0]
        for statement in (
            INSERT % (15001, "'one'"), INSERT % (15002, "'one'"), INSERT % (15003, "NULL"), INSERT % (15004, "NULL"),
            f"UPDATE {RESOURCE} SET fhir_id = 'one' WHERE res_id = 15003", f"UPDATE {RESOURCE} SET fhir_id = 'two' WHERE res_id = 15003",
            INSERT % (15005, "'two'"), f"UPDATE {RESOURCE} SET fhir_id = NULL WHERE res_id = 15001", INSERT % (15006, "'one'"),
            f"UPDATE {RESOURCE} SET res_type = 'Observation' WHERE res_id = 15006", INSERT % (15007, "'one'"),
            f"UPDATE {RESOURCE} SET fhir_id = 'one' WHERE fhir_id = 'two'", f"DELETE FROM {RESOURCE} WHERE res_id = 15007", INSERT % (15008, "'one'"),
            f"UPDATE {RESOURCE} SET fhir_id = fhir_id, res_ver = 2 WHERE res_id = 15008",
            f"UPDATE {RESOURCE} SET res_id = {far} WHERE res_id = 15008", INSERT % (15009, "'one'"),
            f"UPDATE {RESOURCE} SET res_id = 15008 WHERE res_id = {far}",
            f"WITH gone AS (DELETE FROM {RESOURCE} WHERE res_id = 15006 RETURNING 1) SELECT count(*) FROM gone",
            f"BEGIN; DELETE FROM {RESOURCE} WHERE res_id = 15008; " + INSERT % (far, "'one'") + "; ROLLBACK", INSERT % (15010, "'one'"),
            f"BEGIN; DELETE FROM {RESOURCE} WHERE res_id = 15008; " + INSERT % (far, "'one'") + "; COMMIT", INSERT % (15011, "'one'"),
        ):  # fmt: skip
            try:
                cursor.execute(statement)
                said.append("done")
            except psycopg2.errors.UniqueViolation as exc:
                said.append(str(exc.diag.constraint_name))
            if guarded:
                cursor.execute(PAIRS)
                assert cursor.fetchone()[0], statement
        cursor.execute(f"DELETE FROM {RESOURCE} WHERE res_id > 15000")
        connection.close()
        return said

    plain = same()
    assert (plain.count(INDEX), plain.count("done")) == (7, 16)
    do("prepare", first_bound=BOUND + 1000)
    assert same() == plain
    do("undo")
    do("prepare", first_bound=BOUND)
    do("swap")
    assert same() == plain
    do("verify")


@pytest.mark.full
def test_whoever_may_write_the_table_needs_no_more_and_gets_no_more(site: Site, do: Run) -> None:
    site.script("CREATE ROLE writer LOGIN PASSWORD 'w'; GRANT USAGE, CREATE ON SCHEMA public TO writer")
    try:
        do("prepare", first_bound=BOUND)
        do("swap")
        # Granted afterwards; a table of that name elsewhere is not taken for it.
        site.script(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {RESOURCE} TO writer")
        other = f"SET ROLE writer; CREATE TEMP TABLE {GUARD} (res_type varchar, fhir_id varchar); SET search_path = pg_temp, public; "
        site.script(other + INSERT % (15001, "'mine'") + f"; UPDATE {RESOURCE} SET fhir_id = 'yours' WHERE res_id = 15001")
        assert site.script(f"SELECT count(*) FROM {GUARD} WHERE fhir_id = 'yours'") == "1"
        site.script(f"SET ROLE writer; DELETE FROM {RESOURCE} WHERE res_id = 15001")
        for statement in (
            f"INSERT INTO {GUARD} VALUES ('Patient', 'blocked')", f"DELETE FROM {GUARD}", f"SELECT * FROM {GUARD}",
            f"CREATE TABLE own (res_type varchar, fhir_id varchar); CREATE TRIGGER t BEFORE INSERT ON own FOR EACH ROW EXECUTE FUNCTION {GUARD}()",
        ):  # fmt: skip
            with pytest.raises(AssertionError, match="permission denied"):
                site.script("SET ROLE writer; " + statement)
        do("verify")
    finally:
        site.script("DROP DATABASE fhirdb WITH (FORCE)", "postgres")
        site.script("DROP ROLE writer", "postgres")


@pytest.mark.full
def test_in_a_schema_of_an_odd_name(site: Site, do: Run) -> None:
    schema = "Odd \"sch'ema 100"
    before = site.dump()
    site.script("ALTER SCHEMA public RENAME TO \"Odd \"\"sch'ema 100\"")
    site.script('ALTER DATABASE fhirdb SET search_path = "Odd ""sch\'ema 100"')
    for step in ("prepare", "swap", "verify"):
        do(step, schema=schema, first_bound=BOUND)
    site.script(f"SELECT setval('seq_resource_id', {BOUND} + 1001)")
    write(site, (15001, "one"), (BOUND + 1, "two"))
    with pytest.raises(psycopg2.errors.UniqueViolation):
        write(site, (BOUND + 2, "one"))
    do("verify", schema=schema)
    do("undo", schema=schema, allow_copy=True)
    site.script("ALTER SCHEMA \"Odd \"\"sch'ema 100\" RENAME TO public")
    site.script("ALTER DATABASE fhirdb RESET search_path")
    assert site.dump() == before


# --- filling in ----------------------------------------------------------------------------------------------------


def test_it_is_filled_in_while_others_write(site: Site, do: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come, go and change their id while batches are filled in; small ones, so that they meet."""
    monkeypatch.setattr(_hfj_guard, "BATCH", 50)
    site.script(f"INSERT INTO {RESOURCE} (res_id, fhir_id, has_tags, res_published, res_updated, res_type, res_ver)"
                " SELECT i, 'x' || i, false, now(), now(), 'Basic', 1 FROM generate_series(-4000, -1) i")
    stop, count, failed = threading.Event(), [0], []

    def work(number: int) -> None:
        connection = site.connection("postgres", "hapi_app")
        try:
            turn = number
            while not stop.is_set():
                turn += 3
                id = -1 - turn * 7 % 4000
                cursor = connection.cursor()
                for statement in (
                    f"UPDATE {RESOURCE} SET fhir_id = 'y{turn}' WHERE res_id = {id}", f"DELETE FROM {RESOURCE} WHERE res_id = {id - 1}",
                    INSERT % (5000 + turn, f"'z{turn}'"), f"UPDATE {RESOURCE} SET fhir_id = NULL WHERE res_id = {id - 2}",
                    f"BEGIN; DELETE FROM {RESOURCE} WHERE res_id = {id - 3}; SELECT pg_sleep(0.002); COMMIT",
                ):  # fmt: skip
                    cursor.execute(statement)
                count[0] += 1
        except psycopg2.Error as exc:
            failed.append(str(exc))
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        done = do("prepare", first_bound=BOUND)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert failed == []
    assert count[0] > 20
    assert done["state"]["after"] == "prepared"
    assert site.script(PAIRS) == "t"
    do("swap")
    do("verify")


def test_a_row_that_goes_while_its_batch_is_filled_in(site: Site, do: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted, and not committed yet: the batch gives way, waits, and does not leave it behind in the guard."""
    write(site, (15001, "victim"))
    real = _hfj_guard.fill
    holder = site.connection("postgres", "hapi_app")
    holder.autocommit = False
    commit = threading.Timer(1.5, holder.commit)
    calls = [0]

    def late(session: Any, table: Any, after: int) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            holder.cursor().execute(f"DELETE FROM {RESOURCE} WHERE res_id = 15001")
            commit.start()
        return real(session, table, after)

    monkeypatch.setattr(_hfj_guard, "fill", late)
    try:
        do("prepare", first_bound=BOUND)
        assert calls[0] > 2
        assert site.script(PAIRS) == "t"
        do("undo")
        # Seen red: without the lock on the row, the batch takes what the delete has not committed yet.
        write(site, (15001, "victim"))
        calls[0], commit = 0, threading.Timer(1.5, holder.commit)
        monkeypatch.setattr(_hfj_guard, "FILL", _hfj_guard.FILL.replace(" FOR KEY SHARE", ""))
        monkeypatch.setattr(_hfj_guard, "prove", lambda session, table: commit.join())
        do("prepare", first_bound=BOUND)
        assert site.script(PAIRS) == "f"
        monkeypatch.undo()
        # And the comparison before the swap finds it.
        assert "1 of its rows have no resource" in do("swap", fails=True)["msg"]
        assert do("undo")["state"]["after"] == "plain"
    finally:
        holder.close()


@pytest.mark.full
def test_an_older_look_leaves_nothing_behind(site: Site, do: Run) -> None:
    """A transaction that began before its rows were filled in, and sees the state of then, is told to try again."""
    write(site, (15001, "victim"))
    old = site.connection("postgres", "hapi_app")
    old.set_session(isolation_level="REPEATABLE READ", autocommit=False)
    old.cursor().execute("SELECT 1")
    do("prepare", first_bound=BOUND)
    with pytest.raises(psycopg2.errors.SerializationFailure):
        old.cursor().execute(f"DELETE FROM {RESOURCE} WHERE res_id = 15001")
    old.rollback()
    old.cursor().execute(f"DELETE FROM {RESOURCE} WHERE res_id = 15001")
    old.commit()
    old.close()
    assert site.script(PAIRS) == "t"


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "id"),
    [
        full(f"ALTER TABLE {RESOURCE}_p0 DISABLE TRIGGER {GUARD}_insert", "guard_trigger_off"),
        full(f"DELETE FROM {GUARD} WHERE fhir_id = (SELECT min(fhir_id) FROM {GUARD})", "guard_differs"),
        full(f"INSERT INTO {GUARD} VALUES ('Patient', 'nobody')", "guard_differs"),
        full(
            f"SET session_replication_role = replica; INSERT INTO {RESOURCE} (res_id, fhir_id, has_tags, res_published, res_updated, res_type,"
            " res_ver)"
            f" SELECT {BOUND} + 1, fhir_id, false, now(), now(), res_type, 1 FROM {RESOURCE} LIMIT 1", "guard_differs",
        ),
        full(f"DROP FUNCTION {GUARD} CASCADE", "guard_trigger_off"),
        full(f"DROP FUNCTION {GUARD} CASCADE; DROP TABLE {GUARD}", "guard_missing"),
        full(f"ALTER TABLE {GUARD} DROP CONSTRAINT {INDEX}", "guard_missing"),
        full(f"ALTER TABLE {RESOURCE}_p{BOUND} DROP CONSTRAINT {INDEX}_p{BOUND}", "guard_index_missing"),
        full(f"ALTER TABLE {GUARD} OWNER TO postgres", "guard_trigger_off"),
    ],
)  # fmt: skip
def test_a_guard_that_is_not_whole_is_told(site: Site, do: Run, look: Callable[..., dict[str, Any]], damage: str, id: str) -> None:
    before = site.dump()
    do("prepare", first_bound=BOUND)
    do("swap")
    assert look()["findings"] == []
    site.script(damage)
    found = do("verify", fails=True)
    assert id in ids(found, "error")
    if id != "guard_differs":
        # What the catalog tells is told without reading the rows.
        assert ids(look(), "error") == [id]
    if "session_replication_role" in damage:
        assert "1 resources have the type and FHIR id of another one" in found["msg"]
        # What is double can't go back.
        assert "duplicate key value" in do("undo", fails=True, allow_copy=True)["msg"]
        site.script(f"DELETE FROM {RESOURCE} WHERE res_id = {BOUND} + 1")
    # In whatever state the guard is, the way back is open.
    do("undo", allow_copy=True)
    assert site.dump() == before


@pytest.mark.full
def test_a_guard_that_may_have_missed_rows_is_made_anew(site: Site, do: Run, look: Callable[..., dict[str, Any]]) -> None:
    do("prepare")
    site.script(f"ALTER TABLE {RESOURCE} DISABLE TRIGGER {GUARD}_delete")
    assert (look()["state"], look()["guard"]["state"]) == ("preparing", "broken")
    assert "is preparing" in do("swap", fails=True)["msg"]
    assert actions(do("prepare"))[:5] == ["drop_check", "drop_parent", "drop_guard", "create_guard", "fill_guard"]
    site.script(f"ALTER TABLE {RESOURCE} DISABLE TRIGGER USER; ")
    write(site, (5500, "unseen"))
    site.script(f"ALTER TABLE {RESOURCE} ENABLE TRIGGER USER; ")
    # Nothing is to be seen of it in the catalog; the comparison before the swap sees it.
    assert "1 resources are missing in it" in do("swap", fails=True)["msg"]
    do("undo")
    do("prepare")
    do("swap")
    do("verify")


@pytest.mark.parametrize("every", [full(17)])
def test_case_98_killed_anywhere(site: Site, do: Run, look: Callable[..., dict[str, Any]], every: int) -> None:
    before = site.dump()
    for step, after in (("prepare", "prepared"), ("swap", "swapped"), ("undo", "plain")):
        number, killed = 3, 0
        while killed_at(site, number, table=RESOURCE, step=step, unique_guard=True):
            killed += 1
            found = look(unique_guard=True)
            assert found["state"] in KNOWN
            assert "error" not in [item["severity"] for item in found["findings"]]
            # In each of them the pair is unique, by the index or by the guard.
            with pytest.raises(psycopg2.errors.UniqueViolation, match=INDEX):
                write(site, (7000, "1"), (7001, "1"))
            site.script(f"DELETE FROM {RESOURCE} WHERE res_id IN (7000, 7001)")
            done = do(step)
            assert done["state"]["after"] == after
            for other in {"prepare": ("undo",), "swap": ("undo", "prepare"), "undo": ("prepare", "swap")}[step]:
                do(other)
            number += every
        assert killed > 0
        do(step)
    assert site.dump() == before


def test_a_fill_that_is_broken_off_goes_on(site: Site, do: Run, look: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hfj_guard, "BATCH", 500)
    real, after = _hfj_guard.fill, []

    def some(session: Any, table: Any, place: int) -> Any:
        after.append(place)
        if len(after) == 4:
            raise _hfj_sql.PostgresError("the session was lost", "lost")
        return real(session, table, place)

    monkeypatch.setattr(_hfj_guard, "fill", some)
    assert "fill_guard of hfj_resource_bd_guard: the session was lost" in do("prepare", fails=True)["msg"]
    there = look()
    assert (there["state"], there["guard"]["state"]) == ("preparing", "filling")
    assert 30 < there["guard"]["percent"] < 45
    done = do("prepare")
    assert actions(done) == PREPARED[1:]
    # Not from the beginning.
    assert after[4] == after[3] > 1000
    assert site.script(PAIRS) == "t"


@pytest.mark.full
def test_on_a_newer_server(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_database, "image", lambda name: image("postgres-new" if name == "postgres" else name))
    site = Site(tmp_path / "site", "guard")
    try:
        site.start(pooler="", postgres_args="")
        site.template(2000)
        site.fresh()
        before = site.dump()
        for table, step in (
            (RESOURCE, "prepare"), (RESOURCE, "swap"), (TOKEN, "prepare"), (TOKEN, "swap"), (RESOURCE, "extend"), (RESOURCE, "verify"),
            (TOKEN, "undo"), (RESOURCE, "verify"), (RESOURCE, "undo"),
        ):  # fmt: skip
            found = run(hfj_partition, **site.args(table=table, step=step, unique_guard=True))
            assert "failed" not in found, (table, step, found["msg"])
        assert site.dump() == before
    finally:
        site.remove()


# --- HAPI itself ---------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_parallel_puts_of_one_new_id_through_hapi(tmp_path: Path, run: Run) -> None:
    """The real server answers as before, 200, 201 or 409, and makes no duplicates; nor does it while the table is prepared and swapped."""
    site = Site(tmp_path / "site", "guard")

    def do(step: str, **more: Any) -> None:
        found = run(hfj_partition, **site.args(table=RESOURCE, step=step, unique_guard=True, **more))
        assert "failed" not in found, found["msg"]

    def puts(base: str, rounds: int, name: str) -> dict[int, int]:
        statuses: list[int] = []
        for turn in range(rounds):
            url = f"{base}/fhir/Patient/{name}-{turn}"
            body = {"resourceType": "Patient", "id": f"{name}-{turn}", "birthDate": "1990-01-01"}
            threads = [threading.Thread(target=lambda url=url, body=body: statuses.append(fhir(url, "PUT", body)[0])) for _number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        double = f"SELECT count(*) FROM (SELECT 1 FROM {RESOURCE} WHERE fhir_id LIKE '{name}-%' GROUP BY res_type, fhir_id HAVING count(*) > 1) x"
        assert len(statuses) == 6 * rounds
        assert set(statuses) <= {200, 201, 409}, statuses
        assert site.script(double) == "0"
        assert statuses.count(201) == rounds
        return {status: statuses.count(status) for status in set(statuses)}

    try:
        site.start(pooler="", max_connections=60)
        for_hapi(site)
        with hapi(site) as base:
            site.until("HAPI", lambda: fhir(f"{base}/fhir/metadata")[0] == 200, 600)
            seen = {"plain": puts(base, 20, "plain")}
            do("prepare", first_bound=site.sequence() + 50000)
            seen["prepared"] = puts(base, 20, "prepared")
            do("swap")
            seen["swapped"] = puts(base, 20, "swapped")
            functional(base)
            do("verify")
        bound = int(site.script(f"SELECT substring(pg_get_expr(relpartbound, oid) FROM '[0-9]+') FROM pg_class WHERE relname = '{RESOURCE}_p0'"))
        # So near that ids of one replica's block lie on both sides.
        site.script(f"SELECT setval('seq_resource_id', {bound - 50 - bound % 50 + 1})")
        with hapi(site, HAPI_HBM2DDL_AUTO="validate") as base:
            site.until("HAPI with schema validation", lambda: fhir(f"{base}/fhir/metadata")[0] == 200, 600)
            seen["across"] = puts(base, 30, "across")
            assert int(site.script(f"SELECT count(*) FROM {RESOURCE}_p{bound}")) > 0
            functional(base)
            do("extend")
            do("verify")
            do("undo", allow_copy=True)
            functional(base)
            seen["back"] = puts(base, 10, "back")
        print("answers:", seen)
    finally:
        site.remove()
