# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hfj_partition_info and hfj_partition on HAPI's own tables of 7.2 in a real PostgreSQL.

While clients create, update and search as HAPI was seen to do, where that matters.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change, _hfj_catalog, _hfj_rewrite, _hfj_sql
from ansible_collections.dghs.bd_fhir.plugins.modules import fhir_roundtrip, hfj_partition, hfj_partition_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import APP_PASSWORD, SECRETS, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import SCHEMA, HapiTables, fhir, filled, for_hapi, hapi
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
    patient,
    steps,
)

pytestmark = pytest.mark.engine

COUNT = 4000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with filled(Site(tmp_path_factory.mktemp("hfj") / "site", "hfj"), COUNT) as site:
        yield site


@pytest.fixture
def site(made: Site) -> Site:
    made.fresh()
    return made


@pytest.fixture
def do(site: Site, run: Run) -> Run:
    """Do a step, with TOKEN if no table is named."""
    return steps(site, run, TOKEN)


@pytest.fixture
def info(site: Site, run: Run) -> Run:
    """Look at tables, TOKEN alone if none is named."""

    def call(*tables: str, fails: bool = False, **more: Any) -> dict[str, Any]:
        more.setdefault("min_size", "100KB")
        found = run(hfj_partition_info, **site.args(tables=list(tables or (TOKEN,)), **more))
        assert not any(secret in json.dumps(found) for secret in SECRETS)
        assert not found.get("changed"), found
        assert bool(found.get("failed")) == fails, found.get("msg")
        return found

    return call


def state(found: dict[str, Any], table: str = TOKEN) -> str:
    return str(next(row["state"] for row in found["tables"] if row["table"] == table))


# --- what is there -------------------------------------------------------------------------------------------------


def test_info_tells_what_is_worth_it_from_the_catalog(site: Site, run: Run) -> None:
    found = run(hfj_partition_info, **site.args(min_size="2MB"))
    assert found["rc"] == 0
    keys = {(row["table"], row["name"]) for row in found["foreign_keys"]}
    look = "SELECT conrelid::regclass || '|' || conname FROM pg_constraint WHERE contype = 'f' AND confrelid = 'hfj_resource'::regclass"
    wanted = site.script(look)
    assert len(wanted.splitlines()) == 26
    assert {tuple(line.split("|")) for line in wanted.splitlines()} <= keys
    tables = {row["table"]: row for row in found["tables"]}
    assert len(tables) == 24  # HFJ_RESOURCE and those that refer to it, some of them several times
    assert [row["bytes"] for row in found["tables"]] == sorted((row["bytes"] for row in found["tables"]), reverse=True)
    token = tables[TOKEN]
    assert (token["state"], token["key"], token["primary_key"], token["worth"], token["feasible"]) == ("plain", "res_id", "sp_id", True, True)
    assert token["bytes"] == int(site.script(f"SELECT pg_total_relation_size('{TOKEN}')"))
    assert token["rows"] == 4 * COUNT
    assert tables["hfj_res_link"]["key"] == "src_resource_id"
    assert not tables["hfj_spidx_uri"]["worth"]
    assert not tables["hfj_resource"]["worth"]
    assert [row["table"] for row in tables[VERSIONS]["referenced_by"]] == ["hfj_history_tag", "hfj_res_ver_prov"]
    assert token["needs"]["seconds"] > 0
    # 4,200 ids in 90 days.
    assert 40 < found["sequence"]["per_day"] < 55
    assert 160 < token["rows_per_day"] < 220
    assert token["bounds"]["first"] > found["sequence"]["used"] + 10000
    assert found["disk"]["free_bytes"] > found["disk"]["needed_bytes"] > 0
    # Green means that nothing is in the way: the one error is of the table that stays whole.
    assert [item["object"] for item in found["findings"] if item["severity"] != "info"] == []


def test_info_works_with_a_role_that_may_only_read(site: Site, info: Run) -> None:
    site.script("GRANT pg_monitor, pg_read_all_data TO reporter")
    found = info(login_user="reporter", login_password=APP_PASSWORD)
    assert (state(found), ids(found)) == ("plain", [])
    site.script("REVOKE pg_read_all_data FROM reporter")
    assert "permission denied" in info(fails=True, login_user="reporter", login_password=APP_PASSWORD)["msg"]
    # All tables, and not the sequence: it is not taken for one that was never used.
    site.script("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reporter")
    refused = info(fails=True, login_user="reporter", login_password=APP_PASSWORD)["msg"]
    assert "GRANT SELECT ON SEQUENCE public.seq_resource_id" in refused
    site.script("GRANT SELECT ON SEQUENCE seq_resource_id TO reporter")
    found = info(login_user="reporter", login_password=APP_PASSWORD)
    assert (state(found), ids(found)) == ("plain", [])


# --- the whole way, while HAPI works -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (TOKEN, "res_id"), full(VERSIONS, "res_id"), full("hfj_res_link", "src_resource_id"), full("hfj_res_tag", "res_id"),
        full("hfj_spidx_date", "res_id"), full("hfj_spidx_string", "res_id"), full("hfj_spidx_uri", "res_id"), full("hfj_spidx_quantity", "res_id"),
        full("hfj_spidx_coords", "res_id"), full("hfj_spidx_number", "res_id"), full("hfj_spidx_quantity_nrml", "res_id"),
        full("hfj_idx_cmb_tok_nu", "res_id"), full("hfj_res_param_present", "res_id"),
    ],
)  # fmt: skip
def test_there_and_back_under_load(site: Site, do: Run, info: Run, table: str, key: str) -> None:
    """Check, real, again, for each step; no request fails; the way back leaves the schema as it was, to the byte."""
    before = site.dump()
    expected = int(site.script(f"SELECT count(*) FROM {table}"))
    with site.load() as load:
        told = do("prepare", table, check=True)
        assert site.dump() == before
        assert told["state"] == {"before": "plain", "after": "prepared"}
        done = do("prepare", table)
        assert actions(done) == actions(told)
        assert actions(done) == ["build_index", "create_parent", "add_partition", "add_partition", "add_check", "validate_check"]
        assert not do("prepare", table, check=True)["changed"]
        assert not do("prepare", table)["changed"]
        assert state(info(table), table) == "prepared"
        told, done = do("swap", table, check=True), do("swap", table)
        assert actions(done) == actions(told)
        assert done["state"] == {"before": "prepared", "after": "swapped"}
        assert done["foreign_keys"]["before"] == done["foreign_keys"]["after"]
        assert not do("swap", table)["changed"]
        # A fraction of it on a machine that has nothing else to do.
        assert 0 < done["lock"]["held_ms"] < 2000
        do("verify", table, expected_foreign_keys=done["foreign_keys"]["before"])
    assert load.failed == []
    bound = done["partitions"][0]["upper"]
    with site.load() as more:
        # The sequence goes beyond N, and new resources land in the next partition.
        site.script(f"SELECT setval('seq_resource_id', {bound + 5001})")
        site.resource(bound + 5000)
        time.sleep(0.5)
        if table in (TOKEN, VERSIONS, "hfj_res_link", "hfj_res_tag"):
            assert site.lands_in(table, key, bound + 5000) == f"{table}_p{bound}"
        told, done = do("extend", table, check=True), do("extend", table)
        assert actions(done) == actions(told) == ["add_partition"]
        assert not do("extend", table)["changed"]
        do("verify", table)
        rows = int(site.script(f"SELECT count(*) FROM {table}_p{bound}"))
        if rows:
            for check in (True, False):
                refused = do("undo", table, check=check, fails=True)
                assert "allow_copy" in refused["msg"]
                assert refused["state"]["after"] == "swapped"
        told = do("undo", table, check=True, allow_copy=True)
        back = do("undo", table, allow_copy=True)
        assert actions(back) == actions(told)
        assert back["rows_copied"] >= rows
        assert back["state"] == {"before": "swapped", "after": "plain"}
        assert not do("undo", table)["changed"]
    assert more.failed == []
    assert load.done > 20 < more.done
    print(f"{table}: {load.done + more.done} rounds, longest wait {max(load.longest, more.longest):.3f} s")
    assert site.dump() == before
    if table == VERSIONS:
        assert int(site.script(f"SELECT count(*) FROM {table}")) == expected + len(load.ids) + len(more.ids) + 1


def test_the_way_back_without_copying(site: Site, do: Run) -> None:
    before = site.dump()
    do("prepare")
    do("swap")
    back = do("undo")
    assert (actions(back), back["rows_copied"]) == (["swap_back", "drop_index"], 0)
    assert back["lock"]["held_ms"] < 1000
    assert site.dump() == before
    # And from a table that is only prepared.
    do("prepare")
    assert actions(do("undo")) == ["drop_check", "drop_parent", "drop_index"]
    assert site.dump() == before


@pytest.mark.parametrize("table", [TOKEN, full(VERSIONS), full("hfj_res_tag")])
def test_nothing_is_read_under_the_lock(site: Site, do: Run, table: str) -> None:
    """What the prepared CHECK and the old foreign key prove is not looked at again, be the table as large as it may."""
    do("prepare", table)
    oid = site.script(f"SELECT '{table}'::regclass::oid")
    scans = f"SELECT seq_scan FROM pg_stat_user_tables WHERE relid = {oid}"
    before = site.script(scans)
    do("swap", table)
    assert site.script(scans) == before
    # Seen red: without the proof it is.
    do("undo", table)
    before = site.script(scans)
    site.script(f"CREATE TABLE other (LIKE {table}) PARTITION BY RANGE (res_id); ALTER TABLE other ATTACH PARTITION {table} DEFAULT")
    site.script(f"ALTER TABLE other DETACH PARTITION {table}; ALTER TABLE other ATTACH PARTITION {table} FOR VALUES FROM (0) TO (9999999)")
    assert site.script(scans) != before


def test_a_row_without_a_resource(site: Site, do: Run) -> None:
    """HFJ_RES_TAG allows it, although HAPI never does it."""
    before = site.dump()
    site.script("INSERT INTO hfj_res_tag (pid, tag_id, res_type) VALUES (-1, 1, 'Patient')")
    failed = do("prepare", "hfj_res_tag", fails=True)
    assert "validate_check of hfj_res_tag" in failed["msg"]
    assert "violated by some row" in failed["msg"]
    assert failed["state"]["after"] == "preparing"
    site.script("DELETE FROM hfj_res_tag WHERE pid = -1")
    assert actions(do("prepare", "hfj_res_tag")) == ["validate_check"]
    do("swap", "hfj_res_tag")
    do("undo", "hfj_res_tag")
    assert site.dump() == before


def test_partitions_are_like_their_table(site: Site, do: Run) -> None:
    site.script(f"GRANT SELECT ON {TOKEN} TO reporter")
    look = (
        "SELECT c.relname, c.relowner::regrole, c.relacl, (SELECT string_agg(attname || attstattarget, ',' ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = c.oid AND attstattarget > 0), CASE c.relkind WHEN 'r' THEN c.reloptions END FROM pg_class c"
        f" WHERE c.relname ~ '^{TOKEN}(_p[0-9]+)?$' AND relkind IN ('r', 'p') ORDER BY c.oid"
    )
    do("prepare")
    do("swap")
    lines = [line.split("|")[1:] for line in site.script(look).splitlines()]
    assert len(lines) == 4
    assert {tuple(line[:3]) for line in lines} == {tuple(lines[0][:3])}
    assert "hash_value10000" in lines[0][2]
    assert "reporter=r" in lines[0][1]
    assert sorted({line[3] for line in lines}) == ["", "{autovacuum_vacuum_scale_factor=0.01}"]
    assert sum(1 for line in lines if line[3]) == 3


GIVEN = (
    "SELECT c.relowner::regrole, (SELECT array_agg(a::text ORDER BY 1) FROM unnest(c.relacl) a),"
    " (SELECT string_agg(attname || attacl::text, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL),"
    " obj_description(c.oid), (SELECT string_agg(objsubid || description, ' ' ORDER BY objsubid) FROM pg_description WHERE objoid = c.oid)"
    f" FROM pg_class c WHERE c.oid = '{TOKEN}'::regclass"
)


def test_what_people_gave_a_table_goes_there_and_back(site: Site, do: Run) -> None:
    """Grants on columns, as the role of phase_info has them, grants of the last moment, comments and the owner."""
    script = (Path(__file__).parents[3] / "playbooks" / "files" / "assess_role.sql").read_text()
    docker(
        "exec", "-i", "-u", "postgres", "-e", f"ASSESS_PASSWORD={APP_PASSWORD}", site.container("postgres"),
        "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "fhirdb", stdin=script,
    )  # fmt: skip
    site.script("CREATE ROLE newcomer; CREATE ROLE other_owner")
    look = f"SET ROLE assess; SELECT sp_id, res_id FROM {TOKEN} LIMIT 1"
    try:
        before = site.dump()
        assert site.script(look)
        do("prepare")
        # After prepare, and before the swap.
        late = (
            f"GRANT UPDATE (sp_value), REFERENCES (res_id) ON {TOKEN} TO newcomer WITH GRANT OPTION; GRANT SELECT ON {TOKEN} TO newcomer;"
            f" COMMENT ON TABLE {TOKEN} IS 'it''s ours'; COMMENT ON COLUMN {TOKEN}.res_id IS 'the resource'; ALTER TABLE {TOKEN} OWNER TO other_owner"
        )
        site.script(late)
        given = site.script(GIVEN)
        do("swap")
        assert site.script(GIVEN) == given
        assert site.script(look)
        with pytest.raises(AssertionError, match="permission denied"):
            site.script(f"SET ROLE assess; SELECT sp_system FROM {TOKEN} LIMIT 1")
        do("undo")
        assert site.script(GIVEN) == given
        do("prepare")
        do("swap")
        # And what changes while it is partitioned.
        site.script(
            f"REVOKE ALL ON {TOKEN} FROM newcomer; COMMENT ON TABLE {TOKEN} IS NULL; COMMENT ON COLUMN {TOKEN}.res_id IS NULL;"
            f" ALTER TABLE {TOKEN} OWNER TO hapi_app; GRANT INSERT (sp_id) ON {TOKEN} TO PUBLIC"
        )
        given = site.script(GIVEN)
        do("undo")
        assert site.script(GIVEN) == given
        assert site.script(look)
        site.script(f"REVOKE INSERT (sp_id) ON {TOKEN} FROM PUBLIC")
        assert site.dump() == before
    finally:
        site.script("DROP DATABASE fhirdb WITH (FORCE)", "postgres")
        site.script("DROP ROLE newcomer, other_owner; DROP OWNED BY assess; DROP ROLE assess", "postgres")


# --- what failed elsewhere -----------------------------------------------------------------------------------------


def test_case_92_hfj_resource_stays_whole(site: Site, do: Run, info: Run) -> None:
    before = site.dump()
    found = info("hfj_resource")
    assert ids(found, "error") == ["unique_without_key"]
    assert not found["tables"][0]["feasible"]
    for check in (True, False):
        refused = do("prepare", "hfj_resource", check=check, fails=True)
        assert "idx_res_type_fhir_id" in refused["msg"]
        assert "HFJ_SPIDX_*" in refused["msg"]
    assert site.dump() == before
    # The other table with a unique index that lacks the key.
    assert "idx_idxcmpstruniq_string" in do("prepare", "hfj_idx_cmp_string_uniq", fails=True)["msg"]


def test_case_93_no_foreign_key_stays_on_the_first_partition(site: Site, do: Run) -> None:
    look = "SELECT conname, conrelid::regclass, convalidated FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 ORDER BY 1, 2"
    before = site.script(look)
    do("prepare", VERSIONS)
    swapped = do("swap", VERSIONS)
    assert actions(swapped) == ["swap", "validate_key", "validate_key", "analyze"]
    assert site.script(look) == before
    assert "hfj_res_ver" in site.script("SELECT confrelid::regclass FROM pg_constraint WHERE conname = 'fk_historytag_history'")
    # They hold: a version with a tag can't go, and a tag of no version can't come.
    pid = site.script("SELECT min(res_ver_pid) FROM hfj_history_tag")
    with pytest.raises(AssertionError, match="violates foreign key"):
        site.script(f"DELETE FROM hfj_res_ver WHERE pid = {pid}")
    with pytest.raises(AssertionError, match="violates foreign key"):
        site.script("INSERT INTO hfj_history_tag (pid, tag_id, res_ver_pid, res_id, res_type) VALUES (-1, 1, -1, 1, 'Patient')")
    do("verify", VERSIONS, expected_foreign_keys=swapped["foreign_keys"]["before"])
    # HAPI tells a conflict of versions from a fault by the name of the constraint, and an error names that of the partition.
    unique = "SELECT k.conname FROM pg_constraint k JOIN pg_inherits i ON i.inhrelid = k.conrelid WHERE i.inhparent = 'hfj_res_ver'::regclass"
    names = site.script(unique + " AND k.contype = 'u'").split()
    assert len(names) == len(swapped["partitions"])
    assert all(name.startswith("idx_resver_id_ver_p") for name in names), names
    # Seen red: one that is lost, and one that refers to the first partition.
    site.script("ALTER TABLE hfj_history_tag DROP CONSTRAINT fk_historytag_history")
    assert "foreign_keys_differ" in ids(do("verify", VERSIONS, fails=True, expected_foreign_keys=swapped["foreign_keys"]["before"]))
    site.script("ALTER TABLE hfj_history_tag ADD CONSTRAINT fk_historytag_history FOREIGN KEY (res_ver_pid) REFERENCES hfj_res_ver_p0 (pid)")
    assert "key_on_first_partition" in ids(do("verify", VERSIONS, fails=True))


def test_case_94_what_is_copied_back_is_all_there_and_ids_stay_unique(site: Site, do: Run) -> None:
    do("prepare")
    swapped = do("swap")
    bound = swapped["partitions"][0]["upper"]
    site.script(f"SELECT setval('seq_resource_id', {bound + 101})")
    site.resource(*range(bound + 10, bound + 60))
    with site.load(1):
        # Updated and deleted all the time, until the lock.
        time.sleep(0.3)
    before = site.checksum(TOKEN)
    do("verify")
    # Seen red: an id that another partition has too, which no index sees.
    site.script(f"INSERT INTO {TOKEN} (sp_id, sp_missing, sp_name, res_id, res_type) VALUES (4 * {COUNT}, false, 'x', {bound + 10}, 'Patient')")
    assert "ids_twice" in ids(do("verify", fails=True))
    # And the copy is refused by the primary key that the first partition has kept.
    assert "duplicate key" in do("undo", fails=True, allow_copy=True)["msg"]
    site.script(f"DELETE FROM {TOKEN}_p{bound} WHERE sp_id = 4 * {COUNT}")
    assert do("undo", allow_copy=True)["rows_copied"] > 50
    assert site.checksum(TOKEN) == before


def test_case_96_a_foreign_key_comes_before_the_rows(site: Site, do: Run) -> None:
    """PostgreSQL 15 refuses NOT VALID on a partitioned table, and without it would read every row under the lock."""
    do("prepare", VERSIONS)
    add = "ALTER TABLE hfj_res_ver_bd_new ADD CONSTRAINT late FOREIGN KEY (res_id) REFERENCES hfj_resource (res_id)"
    with pytest.raises(AssertionError, match="cannot add NOT VALID foreign key on partitioned table"):
        site.script(add + " NOT VALID")
    do("swap", VERSIONS)
    look = "SELECT convalidated FROM pg_constraint WHERE conname = 'fk_resource_history_resource' AND conrelid = 'hfj_res_ver'::regclass"
    assert site.script(look) == "t"


def test_tables_that_refer_to_each_other_go_in_order(site: Site, do: Run, info: Run) -> None:
    before = site.dump()
    tag = "hfj_res_ver_prov"
    # Prepared: both the table and its empty parent refer to HFJ_RES_VER, and both keys follow it there and back.
    do("prepare", tag)
    do("prepare", VERSIONS)
    told, done = do("swap", VERSIONS, check=True), do("swap", VERSIONS)
    assert actions(told) == actions(done)
    do("verify", VERSIONS, expected_foreign_keys=done["foreign_keys"]["before"])
    do("undo", VERSIONS)
    assert state(info(tag), tag) == "prepared"
    # Swapped: the way back of HFJ_RES_VER, and its swap, come after that of the other.
    do("prepare", VERSIONS)
    do("swap", VERSIONS)
    assert state(info(tag), tag) == "prepared"
    do("swap", tag)
    for check in (True, False):
        assert "inbound_table_partitioned" in do("undo", VERSIONS, check=check, fails=True)["msg"]
    do("undo", tag)
    do("undo", VERSIONS)
    assert site.dump() == before
    do("prepare", tag)
    do("swap", tag)
    assert ids(info(VERSIONS)) == ["inbound_table_partitioned"]
    assert "inbound_table_partitioned" in do("prepare", VERSIONS, fails=True)["msg"]


def test_case_97_indexes_come_child_by_child(site: Site, do: Run) -> None:
    do("prepare")
    with pytest.raises(AssertionError, match="cannot create index on partitioned table .* concurrently"):
        site.script(f"CREATE INDEX CONCURRENTLY late ON {TOKEN}_bd_new (res_type)")
    # The table's own index of before is the partition's: nothing was built under the lock.
    nodes = "SELECT c.relname, c.relfilenode FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = '%s'::regclass ORDER BY 2"
    before = [line.split("|")[1] for line in site.script(nodes % TOKEN).splitlines()]
    do("swap")
    assert [line.split("|")[1] for line in site.script(nodes % (TOKEN + "_p0")).splitlines()] == before
    assert site.script(f"SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = '{TOKEN}'::regclass") == "t"
    do("verify")
    # Seen red: an index of the parent that a partition lacks.
    site.script(f"CREATE INDEX late ON ONLY {TOKEN} (res_type)")
    assert "parent_index_invalid" in ids(do("verify", fails=True))


@pytest.mark.parametrize(
    ("table", "every"), [(TOKEN, 23), full(TOKEN, 4), full(VERSIONS, 5)],
)  # fmt: skip
def test_case_98_killed_anywhere_it_is_in_a_known_state_and_the_next_run_goes_on(site: Site, do: Run, info: Run, table: str, every: int) -> None:
    before = site.dump()
    for step, after in (("prepare", "prepared"), ("swap", "swapped"), ("undo", "plain")):
        number, killed = 1, 0
        while killed_at(site, number, table=table, step=step):
            killed += 1
            found = info(table)
            assert state(found, table) in KNOWN
            assert "error" not in [item["severity"] for item in found["findings"]]
            # From there on both ways are open; for the next kill it is done as far as it was.
            done = do(step, table)
            assert done["state"]["after"] == after
            back = {"prepare": ("undo",), "swap": ("undo", "prepare"), "undo": ("prepare", "swap")}[step]
            for other in back:
                do(other, table)
            number += every
        assert killed > 0
    assert site.dump() == before


def test_case_98_both_ways_are_open_from_where_a_kill_left_it(site: Site, do: Run, info: Run) -> None:
    before = site.dump()
    for number in (4, 40):
        assert killed_at(site, number, table=TOKEN, step="prepare")
        assert state(info()) in ("plain", "preparing")
        do("undo")
        assert site.dump() == before


def test_case_99_a_disk_too_small_and_a_run_that_is_still_alive(site: Site, do: Run, info: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = site.dump()
    monkeypatch.setattr(_hfj_catalog, "free_bytes", lambda *args: 1000)
    assert ids(info()) == ["disk_too_small"]
    for check in (True, False):
        assert "disk_too_small" in do("prepare", check=check, fails=True)["msg"]
    assert site.dump() == before
    monkeypatch.undo()
    # Out of room in the middle: what is there is told, and the next run goes on.
    site.script("ALTER ROLE postgres SET temp_file_limit = '64kB'; ALTER ROLE postgres SET maintenance_work_mem = '1MB'")
    try:
        assert "build_index" in do("prepare", fails=True)["msg"]
    finally:
        site.script("ALTER ROLE postgres RESET ALL")
    found = info()
    assert (state(found), ids(found, "info")) == ("preparing", ["partition_half_done"])
    # Another run that is alive is named; one that is dead has left no lock.
    connection = site.connection("postgres", "postgres")
    cursor = connection.cursor()
    cursor.execute("SELECT pg_advisory_lock(1819238760, %s), pg_backend_pid()", (zlib.crc32(b"public." + TOKEN.encode()) & 0x7FFFFFFF,))
    pid = cursor.fetchone()[1]
    assert f"pid {pid}, alive since" in do("prepare", fails=True)["msg"]
    connection.close()
    time.sleep(0.2)
    assert actions(do("prepare"))[:2] == ["drop_index", "build_index"]
    do("swap")


def test_what_changes_between_the_look_and_the_lock_is_seen(site: Site, do: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index of somebody else that comes in the last moment would be missing in the other partitions."""
    do("prepare")
    real = _hfj_sql.take_locks

    def late(session: Any, schema: str, locks: Any, limits: Any) -> float:
        site.script(f"CREATE INDEX IF NOT EXISTS late ON {TOKEN} (res_type)")
        return real(session, schema, locks, limits)

    monkeypatch.setattr(_hfj_sql, "take_locks", late)
    refused = do("swap", fails=True)
    assert "was changed by somebody else meanwhile. Run prepare again" in refused["msg"]
    monkeypatch.undo()
    # It belongs to the table now, so the parent gets it too.
    assert "drop_parent" in actions(do("prepare"))
    do("swap")
    look = f"SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = '{TOKEN}'::regclass AND c.relname = 'late'"
    assert site.script(look) == "1"


@pytest.mark.parametrize(
    "late",
    [
        # With a row in it that nobody has looked at.
        f"CREATE TABLE late PARTITION OF {TOKEN} DEFAULT;"
        " INSERT INTO hfj_resource (res_id, has_tags, res_published, res_updated, res_type, res_ver) VALUES (99999999, false, now(), now(), 'X', 1);"
        f" INSERT INTO {TOKEN} (sp_id, sp_missing, sp_name, res_id, res_type) VALUES (-1, false, 'x', 99999999, 'X')",
        full(f"CREATE PUBLICATION pub FOR TABLE {TOKEN}"),
        full(f"ALTER TABLE {TOKEN} ENABLE ROW LEVEL SECURITY"),
        full(f"CREATE TRIGGER late BEFORE UPDATE ON {TOKEN} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"),
        full(f"CREATE VIEW seen AS SELECT * FROM {TOKEN}"),
    ],
)
def test_what_comes_after_the_swap_does_not_go_silently(site: Site, do: Run, monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    do("prepare")
    do("swap")
    real = _hfj_sql.take_locks

    def lock(session: Any, schema: str, locks: Any, limits: Any) -> float:
        # At the last moment, and once.
        monkeypatch.undo()
        site.script(late)
        return real(session, schema, locks, limits)

    monkeypatch.setattr(_hfj_sql, "take_locks", lock)
    refused = do("undo", fails=True)
    assert "Nothing was changed" in refused["msg"]
    assert refused["state"]["after"] == "swapped"
    if "DEFAULT" in late:
        # On the next run it is known, and copied only where that is allowed.
        assert "late already hold rows" in do("undo", fails=True)["msg"]
        assert do("undo", allow_copy=True)["rows_copied"] == 1
        assert site.script(f"SELECT res_id FROM {TOKEN} WHERE sp_id = -1") == "99999999"
    else:
        for check in (True, False):
            assert "table_obstacles" in do("undo", check=check, fails=True)["msg"]


@pytest.mark.full
@pytest.mark.parametrize(("step", "left"), [("prepare", "plain preparing"), ("swap", "prepared swapped unfinished"), ("rewrite", "plain")])
def test_case_99_a_disk_that_is_full_to_its_last_byte(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, step: str, left: str) -> None:
    """Enough was free when it was looked at, and somebody else has taken it since: what was there is there, and the next run goes on."""
    site = Site(tmp_path / "site", "hfjfull")
    ballast = "/var/lib/postgresql/data/ballast"
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(disk)], check=True)
    try:
        site.start(pooler="", max_connections=60, disk=str(disk))
        site.template(COUNT)
        site.fresh()
        do = steps(site, run, TOKEN, allow_copy=True)
        rows = site.checksum(TOKEN)
        if step == "swap":
            do("prepare")
        module, name = (_hfj_rewrite, "rebuild") if step == "rewrite" else (_hfj_sql, "carry_out")
        real = getattr(module, name)

        def full_disk(*args: Any) -> Any:
            monkeypatch.undo()
            docker("exec", site.container("postgres"), "dd", "if=/dev/zero", f"of={ballast}", "bs=4k", check=False)
            return real(*args)

        monkeypatch.setattr(module, name, full_disk)
        found = run(hfj_partition, **site.args(table=TOKEN, step=step, allow_copy=True))
        if step != "swap":
            # The swap writes little, and may get through.
            assert found["failed"]
            assert "Traceback" not in found["msg"]
            print(found["msg"])
        docker("start", site.container("postgres"))
        site.until("room again", lambda: docker("exec", site.container("postgres"), "rm", "-f", ballast) == "")
        # If it was the journal that found no room, the server has started anew.
        docker("restart", site.container("postgres"))
        site.wait()
        now = run(hfj_partition_info, **site.args(tables=[TOKEN], min_size="100KB"))["tables"][0]["state"]
        assert now in left.split()
        assert site.checksum(TOKEN) == rows
        if now != "swapped":
            do(step)
        do("verify" if step != "prepare" else "swap")
        assert site.checksum(TOKEN) == rows
        do("undo")
        assert site.checksum(TOKEN) == rows
    finally:
        site.remove()
        subprocess.run(["umount", str(disk)], check=True)


def test_a_column_that_comes_between_prepare_and_swap_is_taken_along(site: Site, do: Run, info: Run) -> None:
    do("prepare")
    for change, back in (
        ("ALTER sp_value SET NOT NULL", "ALTER sp_value DROP NOT NULL"),
        ("ALTER sp_missing SET DEFAULT true", "ALTER sp_missing DROP DEFAULT"),
        ("ADD CONSTRAINT c CHECK (sp_id > -9) NOT VALID", "DROP CONSTRAINT c"),
    ):
        site.script(f"ALTER TABLE {TOKEN} {change}")
        assert state(info()) == "preparing", change
        assert "is preparing" in do("swap", fails=True)["msg"]
        site.script(f"ALTER TABLE {TOKEN} {back}")
        assert state(info()) == "prepared", back
    site.script(f"ALTER TABLE {TOKEN} ADD late varchar(7) NOT NULL DEFAULT 'x', ALTER sp_value SET DEFAULT 'y'")
    assert {"drop_parent", "create_parent"} <= set(actions(do("prepare")))
    do("swap")
    look = "SELECT string_agg(attname || format_type(atttypid, atttypmod) || attnotnull, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = %s"
    look += "::regclass AND attnum > 0"
    assert site.script(look % repr(TOKEN)) == site.script(look % repr(TOKEN + "_p0"))
    assert "late" in site.script(look % repr(TOKEN))
    site.script(f"INSERT INTO {TOKEN} (sp_id, sp_missing, sp_name, res_id, res_type) SELECT -1, false, 'x', min(res_id), 'X' FROM hfj_resource")
    assert site.script(f"SELECT late, sp_value FROM {TOKEN} WHERE sp_id = -1") == "x|y"
    do("verify")
    do("undo")


# --- others at work ------------------------------------------------------------------------------------------------


def test_a_long_transaction_is_named_and_nobody_waits_for_it(site: Site, do: Run) -> None:
    do("prepare")
    before = site.dump()
    holder = site.connection("postgres", "hapi_app", application_name="nightly-report")
    holder.autocommit = False
    holder.cursor().execute(f"SELECT 'secret-patient', count(*) FROM {TOKEN}")
    with site.load() as load:
        refused = do("swap", fails=True, lock_tries=3)
    assert f"pid {holder.get_backend_pid()} (nightly-report, user hapi_app, idle in transaction, its statement began 2" in refused["msg"]
    assert "secret-patient" not in json.dumps(refused)
    assert refused["lock"]["tries"] == 3
    assert (load.failed, refused["state"]["after"], site.dump()) == ([], "prepared", before)
    # Three tries of half a second, with pauses: that is the longest that anybody waited.
    assert load.longest < 1.5
    holder.rollback()
    do("swap")
    # The other half of a circle: it has our first lock, and the second one wants ours.
    holder.cursor().execute("SELECT count(*) FROM hfj_resource")
    assert "on hfj_resource" in do("undo", fails=True, lock_tries=1)["msg"]
    holder.close()
    do("undo")


def test_a_lock_timeout_above_the_servers_deadlock_timeout_is_refused(site: Site, do: Run) -> None:
    assert "deadlock_timeout is 1 s" in do("prepare", fails=True, lock_timeout_seconds=1.0)["msg"]
    assert "lock_tries is 0" in do("prepare", fails=True, lock_tries=0)["msg"]


def test_the_check_bites_and_the_watch_takes_it_away_in_time(site: Site, do: Run, info: Run) -> None:
    bound = do("prepare")["bounds"]["first"]
    assert not do("watch")["changed"]
    # The trap itself: it is why N has to be far ahead.
    with pytest.raises(psycopg2.errors.CheckViolation):
        site.resource(bound + 1)
    site.script(f"SELECT setval('seq_resource_id', {bound - 500})")
    assert ids(info()) == ["check_near"]
    assert actions(do("watch", check=True)) == ["drop_check"]
    assert actions(do("watch")) == ["drop_check"]
    assert not do("watch")["changed"]
    site.script(f"SELECT setval('seq_resource_id', {bound + 51})")
    site.resource(bound + 2)
    assert "preparing" in do("swap", fails=True)["msg"]
    # Anew, with a bound beyond it; what was made for the old one goes.
    again = do("prepare")
    assert again["bounds"]["first"] > bound
    assert "drop_parent" in actions(again)
    do("swap")
    do("verify")


def test_the_watch_breaks_off_a_validation_of_ours(site: Site, do: Run) -> None:
    """A run that waits or reads for hours, with the advisory lock, must not keep it from taking the CHECK away."""
    bound = do("prepare")["bounds"]["first"]
    site.script(f"SELECT setval('seq_resource_id', {bound - 500})")
    other = site.connection("postgres", "postgres")
    lock = zlib.crc32(b"public." + TOKEN.encode()) & 0x7FFFFFFF
    ended: list[str] = []

    def validating() -> None:
        text = f"SELECT pg_advisory_lock(1819238760, {lock}); BEGIN; LOCK TABLE {TOKEN} IN SHARE UPDATE EXCLUSIVE MODE; SELECT pg_sleep(60)"
        try:
            other.cursor().execute(text + " /* VALIDATE CONSTRAINT */")
        except psycopg2.Error as exc:
            ended.append(str(exc.pgcode))

    thread = threading.Thread(target=validating)
    thread.start()
    try:
        site.until("the lock", lambda: site.script("SELECT count(*) FROM pg_locks WHERE mode = 'ShareUpdateExclusiveLock' AND granted") != "0")
        assert "another run is at work" in do("undo", fails=True)["msg"]
        assert actions(do("watch")) == ["drop_check"]
    finally:
        thread.join(70)
        other.close()
    assert ended == ["57014"]


def test_a_validation_is_broken_off_when_the_sequence_comes_near(site: Site, do: Run, info: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _hfj_sql.validate
    monkeypatch.setattr(_hfj_sql, "LOOK_EVERY", 0.1)

    def slow(session: Any, *args: Any) -> None:
        bound = int(site.script("SELECT substring(pg_get_constraintdef(oid) FROM '[0-9]+') FROM pg_constraint WHERE conname = 'bd_fhir_below'"))
        site.script(f"SELECT setval('seq_resource_id', {bound - 500})")
        session.execute("SELECT pg_sleep(60)")
        real(session, *args)

    monkeypatch.setattr(_hfj_sql, "validate", slow)
    begun = time.monotonic()
    assert "The CHECK was dropped, so that nothing is refused" in do("prepare", fails=True)["msg"]
    assert time.monotonic() - begun < 30
    assert site.script("SELECT count(*) FROM pg_constraint WHERE conname = 'bd_fhir_below'") == "0"
    monkeypatch.undo()
    assert state(info()) == "preparing"
    do("prepare")


@pytest.mark.full
def test_a_validation_names_who_keeps_it_waiting(site: Site, do: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a vacuum against wraparound does for hours; HAPI's writes are not kept waiting by it."""
    holder = site.connection("postgres", "postgres", application_name="vacuum-like")
    holder.autocommit = False
    real = _hfj_sql.validate

    def late(*args: Any) -> None:
        holder.cursor().execute(f"LOCK TABLE {TOKEN} IN SHARE UPDATE EXCLUSIVE MODE")
        real(*args)

    monkeypatch.setattr(_hfj_sql, "validate", late)
    assert f"pid {holder.get_backend_pid()} (vacuum-like" in do("prepare", fails=True, lock_tries=2)["msg"]
    holder.close()
    monkeypatch.undo()
    assert actions(do("prepare")) == ["validate_check"]


def test_a_bound_of_ones_own(site: Site, do: Run) -> None:
    assert "first_bound is 100, and the sequence" in do("prepare", fails=True, first_bound=100)["msg"]
    do("prepare", first_bound=20000, width=5000, ahead=3)
    assert not do("prepare", first_bound=20000)["changed"]
    swapped = do("swap")
    assert [(part["lower"], part["upper"]) for part in swapped["partitions"]] == [(None, 20000), (20000, 25000), (25000, 30000), (30000, 35000)]
    site.script("SELECT setval('seq_resource_id', 33001)")
    assert ids(do("verify", fails=True)) == ["partitions_end"]
    assert [step["object"] for step in do("extend")["plan"]] == [f"{TOKEN}_p35000", f"{TOKEN}_p40000"]
    do("verify")


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "id"),
    [
        (f"CREATE INDEX extra ON {TOKEN} (sp_value)", "schema_differs"),
        full(f"ALTER TABLE {TOKEN} RENAME CONSTRAINT fk_sp_token_res TO fk_other", "schema_differs"),
        full("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_sp_token_resid_v2'::regclass", "index_invalid"),
        full(f"ALTER INDEX idx_sp_token_resid_v2 RENAME TO {'x' * 57}", "name_too_long"),
        (f"CREATE VIEW seen AS SELECT * FROM {TOKEN}", "table_obstacles"),
        full(f"CREATE PUBLICATION pub FOR TABLE {TOKEN}", "table_obstacles"),
        full(f"CREATE TABLE {TOKEN}_p0 (i int)", "partition_name_taken"),
        full(
            f"ALTER TABLE {TOKEN} DROP CONSTRAINT fk_sp_token_res, ADD CONSTRAINT fk_sp_token_res FOREIGN KEY (res_id)"
            " REFERENCES hfj_resource NOT VALID", "foreign_key_unfit",
        ),
        full(f"ALTER TABLE {TOKEN} RENAME TO old; CREATE TABLE {TOKEN} (LIKE old) PARTITION BY HASH (res_id)", "already_partitioned"),
        ("UPDATE hfj_resource SET partition_id = 1 WHERE res_id = (SELECT max(res_id) FROM hfj_resource)", "hapi_partition_mode"),
        ("SELECT setval('seq_resource_id', 1)", "sequence_behind"),
        full("ALTER SEQUENCE seq_resource_id CYCLE", "sequence_unfit"),
        full(f"DROP TABLE {TOKEN}", "table_missing"),
    ],
)  # fmt: skip
def test_what_is_in_the_way_is_told_and_refused(site: Site, do: Run, info: Run, damage: str, id: str) -> None:
    site.script(damage)
    before = site.dump()
    found = info()
    assert id in ids(found)
    if id == "schema_differs":
        do("prepare")
        do("swap")
        do("verify")
        do("undo")
    else:
        for check in (True, False):
            assert id in do("prepare", check=check, fails=True)["msg"]
    assert site.dump() == before


def test_other_options(site: Site, do: Run) -> None:
    assert "There is no sequence public.other" in do("prepare", fails=True, sequence="other")["msg"]
    assert "is plain, and a swap needs it prepared" in do("swap", fails=True)["msg"]
    assert ids(do("swap", check=True), "info") == ["partition_not_prepared"]
    assert "only a partitioned table can be extended" in do("extend", fails=True)["msg"]
    assert not do("undo")["changed"]
    do("verify")


# --- the other method ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key"), [(TOKEN, "res_id"), full(VERSIONS, "res_id"), full("hfj_res_link", "src_resource_id"), full("hfj_res_tag", "res_id")],
)  # fmt: skip
def test_rewritten_by_hash_and_back(site: Site, do: Run, info: Run, table: str, key: str) -> None:
    """Check, real, again, both ways; all rows stay, and the way back leaves the schema as it was, to the byte."""
    site.script(f"GRANT SELECT ON {table} TO reporter; COMMENT ON TABLE {table} IS 'large'")
    before, rows = site.dump(), site.checksum(table)
    count = int(rows.split("|")[0])
    told = do("rewrite", table, check=True, modulus=4)
    assert site.dump() == before
    assert told["state"] == {"before": "plain", "after": "rewritten"}
    done = do("rewrite", table, modulus=4)
    assert actions(done) == actions(told) == ["rewrite"]
    assert (done["state"]["after"], done["rows_copied"]) == ("rewritten", count)
    assert done["foreign_keys"]["before"] == done["foreign_keys"]["after"]
    assert [part["name"] for part in done["partitions"]] == [f"{table}_h{number}" for number in range(4)]
    assert site.checksum(table) == rows
    # Evenly, which is what it is for.
    sizes = [int(site.script(f"SELECT count(*) FROM {table}_h{number}")) for number in range(4)]
    assert max(sizes) < 1.5 * min(sizes)
    for check in (True, False):
        assert not do("rewrite", table, modulus=4, check=check)["changed"]
    do("verify", table, expected_foreign_keys=done["foreign_keys"]["before"])
    found = info(table)
    assert (state(found, table), ids(found, "error")) == ("rewritten", [])
    # HAPI works on it.
    with site.load() as load:
        time.sleep(0.5)
    assert load.failed == []
    look = f"SELECT convalidated FROM pg_constraint WHERE contype = 'f' AND (conrelid = '{table}'::regclass OR confrelid = '{table}'::regclass)"
    assert set(site.script(look + " AND conparentid = 0").split()) == {"t"}
    assert "is 4 partitions by hash, and only a plain table can be rewritten" in do("rewrite", table, modulus=8, fails=True)["msg"]
    assert "is rewritten, and only a partitioned table can be extended" in do("extend", table, fails=True)["msg"]
    for check in (True, False):
        assert "Allow it with allow_copy" in do("undo", table, check=check, fails=True)["msg"]
    rows = site.checksum(table)
    told, back = do("undo", table, check=True, allow_copy=True), do("undo", table, allow_copy=True)
    assert actions(back) == actions(told) == ["rewrite_back"]
    assert back["state"] == {"before": "rewritten", "after": "plain"}
    assert site.checksum(table) == rows
    assert site.dump() == before


def test_what_stands_in_the_way_of_a_rewrite(site: Site, do: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = site.dump()
    assert "modulus is 1. It takes 2 to 256" in do("rewrite", modulus=1, fails=True)["msg"]
    assert "unique_without_key" in do("rewrite", "hfj_resource", fails=True)["msg"]
    with site.clients(1, "postgres", application_name="hapi-1"):
        assert "HAPI still works: hapi_app has sessions that did something within 60 s: pid" in do("rewrite", fails=True)["msg"]
        assert "hapi_at_work" in ids(do("rewrite", check=True), "info")
    # Somebody else's transaction is given way to.
    holder = site.connection("postgres", "postgres", application_name="report")
    holder.autocommit = False
    holder.cursor().execute(f"SELECT count(*) FROM {TOKEN}")
    assert "(report, user postgres, idle in transaction" in do("rewrite", fails=True, lock_tries=1)["msg"]
    holder.close()
    site.script("COMMENT ON INDEX idx_sp_token_resid_v2 IS 'ours'")
    assert "comment on index idx_sp_token_resid_v2 of hfj_spidx_token would not be on the copy" in do("rewrite", fails=True)["msg"]
    site.script("COMMENT ON INDEX idx_sp_token_resid_v2 IS NULL")
    # A copy that is not the same, seen by the comparison.
    real = _hfj_rewrite.contents

    def spoiled(session: Any, schema: str, name: str, key: str, width: int) -> Any:
        if name == TOKEN:
            session.execute(f"UPDATE public.{TOKEN}_bd_new SET sp_value = 'spoiled' WHERE sp_id = 4711")
        return real(session, schema, name, key, width)

    monkeypatch.setattr(_hfj_rewrite, "contents", spoiled)
    refused = do("rewrite", fails=True)
    assert "the copy of hfj_spidx_token is not the same, first among the ids from" in refused["msg"]
    assert (refused["state"]["after"], refused["changed"]) == ("plain", False)
    monkeypatch.undo()
    monkeypatch.setattr(_hfj_catalog, "free_bytes", lambda *args: 1000)
    assert "disk_too_small" in do("rewrite", fails=True)["msg"]
    monkeypatch.undo()
    assert site.dump() == before
    # One method at a time.
    do("prepare")
    assert "is prepared, and only a plain table can be rewritten" in do("rewrite", fails=True)["msg"]


def test_an_index_of_hours_is_no_play_that_has_died(site: Site, do: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for another transaction for longer than the lease lasts, and nobody else gets the deployment meanwhile."""
    monkeypatch.setattr(_change, "HEARTBEAT", 0.3)
    store = _change.Store(_change.directory_of(site.name))
    token = _change.take(store, _change.Wish("partition_hapi_tables", "", "rahim@ops", {}, 2)).token
    other = site.connection("postgres", "hapi_app")
    other.autocommit = False
    other.cursor().execute(f"LOCK TABLE {TOKEN} IN ROW EXCLUSIVE MODE")
    others: list[Any] = []

    def somebody_else() -> None:
        for _number in range(10):
            time.sleep(0.6)
            others.append(_change.take(store, _change.Wish("tune_pools", "", "karim@ops", {}, 900)).token)
        other.rollback()

    thread = threading.Thread(target=somebody_else)
    thread.start()
    try:
        assert "build_index" in actions(do("prepare", change_token=str(token)))
    finally:
        thread.join()
        other.close()
    assert others == [None] * 10
    # Nobody keeps it any more, and it is over when its time is.
    site.until("the end of the lease", lambda: _change.take(store, _change.Wish("tune_pools", "", "karim@ops", {}, 900)).token is not None, 10)


@pytest.mark.parametrize(("table", "every"), [(TOKEN, 17), full(TOKEN, 3), full(VERSIONS, 5)])
def test_a_rewrite_that_is_killed_has_changed_nothing(site: Site, do: Run, info: Run, table: str, every: int) -> None:
    before, rows = site.dump(), site.checksum(table)
    for step, left in (("rewrite", "plain"), ("undo", "rewritten")):
        number, killed = 1, 0
        while killed_at(site, number, table=table, step=step, allow_copy=True):
            killed += 1
            # The server notices within its client_connection_check_interval, or when it wants to answer.
            site.until("the end of the session", lambda: site.script("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0")
            assert state(info(table), table) == left
            assert site.checksum(table) == rows
            number += every
        assert killed > 1
    assert site.dump() == before


# --- with other servers --------------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_standby_and_one_that_lags(tmp_path: Path, run: Run) -> None:
    site = Site(tmp_path / "site", "hfj")
    try:
        site.start(pooler="", standby=True)
        site.template(500)
        site.fresh()
        site.until("the standby", lambda: site.sql("SELECT count(*) FROM pg_class WHERE relname = 'hfj_resource'", "standby") == "1")
        found = run(hfj_partition_info, **site.args(tables=[TOKEN], service="standby"))
        assert "server_is_standby" in ids(found)
        assert "is a standby" in run(hfj_partition, **site.args(table=TOKEN, step="prepare", service="standby"))["msg"]
        site.sql("SELECT pg_wal_replay_pause()", "standby")
        site.script("CREATE TABLE ballast AS SELECT generate_series(1, 200000) AS i")
        assert "standby_lags" in ids(run(hfj_partition_info, **site.args(tables=[TOKEN], max_lag_bytes="1MB")))
        args = site.args(table=TOKEN, max_lag_bytes="1MB", lag_wait_seconds=1)
        found = run(hfj_partition, **{**args, "step": "prepare"})
        assert found["failed"]
        assert "standbys are behind" in found["msg"]
        assert site.script(f"SELECT to_regclass('{TOKEN}_bd_uk') IS NULL") == "t"
        site.sql("SELECT pg_wal_replay_resume()", "standby")
        assert "failed" not in run(hfj_partition, **{**args, "step": "prepare", "lag_wait_seconds": 60})
        assert "failed" not in run(hfj_partition, **{**args, "step": "swap", "max_lag_bytes": "1GB"})
    finally:
        site.remove()


@pytest.mark.full
def test_case_96_on_a_newer_server(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.dghs.bd_fhir.tests.integration.real import real_database

    monkeypatch.setattr(real_database, "image", lambda name: image("postgres-new" if name == "postgres" else name))
    site = Site(tmp_path / "site", "hfj")
    try:
        site.start(pooler="", postgres_args="")
        site.template(2000)
        site.fresh()
        version = int(site.sql("SHOW server_version_num"))
        assert version >= 160000
        before = site.dump()
        assert "server_version_other" in ids(run(hfj_partition_info, **site.args(tables=[TOKEN])))
        for table in (TOKEN, VERSIONS):
            for step in ("prepare", "swap", "verify", "extend", "undo"):
                found = run(hfj_partition, **site.args(table=table, step=step))
                assert "failed" not in found, found["msg"]
        assert site.dump() == before
    finally:
        site.remove()


@pytest.mark.full
def test_the_lock_does_not_grow_with_the_table(site: Site, run: Run) -> None:
    held: dict[int, list[float]] = {}
    try:
        for count in (20000, 100000):
            site.template(count)
            site.fresh()
            for _round in range(5):
                for step in ("prepare", "swap", "undo"):
                    found = run(hfj_partition, **site.args(table=TOKEN, step=step))
                    assert "failed" not in found, found["msg"]
                    if step == "swap":
                        held.setdefault(count, []).append(found["lock"]["held_ms"])
        # The least of them: what else runs on the machine can only add to it.
        small, large = (min(values) for values in held.values())
        print(f"locks held for milliseconds, by number of resources: {held}")
        assert large / small < 1.5, held
    finally:
        site.template(COUNT)


@pytest.mark.full
def test_hapi_itself_sees_nothing_of_it(tmp_path: Path, run: Run) -> None:
    """The real server works on while ten tables are swapped and brought back, and starts with schema validation on the result."""
    tables = [
        "hfj_spidx_token", "hfj_spidx_string", "hfj_spidx_date", "hfj_spidx_number", "hfj_spidx_quantity", "hfj_spidx_uri", "hfj_spidx_coords",
        "hfj_res_link", "hfj_res_tag", "hfj_res_ver",
    ]  # fmt: skip
    site = Site(tmp_path / "site", "hfj")
    failed: list[Any] = []
    count, longest, stop = [0], [0.0], threading.Event()

    def do(step: str, **more: Any) -> float:
        held = 0.0
        if step == "prepare":
            # There is nothing of a day from which it could be computed.
            more["first_bound"] = site.sequence() + 50000
        for table in tables:
            found = run(hfj_partition, **site.args(table=table, step=step, **more))
            assert "failed" not in found, found["msg"]
            held = max(held, found["lock"]["held_ms"])
        return held

    def work(base: str) -> None:
        while not stop.is_set():
            begun = time.monotonic()
            status, answer = fhir(f"{base}/fhir/Patient", "POST", patient(time.time_ns()))
            longest[0] = max(longest[0], time.monotonic() - begun)
            status_read = fhir(f"{base}/fhir/Patient?family=Name&_count=3")[0]
            count[0] += 1
            if status != 201 or status_read != 200:
                failed.append((status, status_read, answer))

    try:
        site.start(pooler="", max_connections=60)
        for_hapi(site)
        with hapi(site) as base:
            site.until("HAPI", lambda: fhir(f"{base}/fhir/metadata")[0] == 200, 600)
            functional(base)
            threads = [threading.Thread(target=work, args=(base,)) for _number in range(3)]
            for thread in threads:
                thread.start()
            try:
                do("prepare")
                held = do("swap")
                do("verify")
            finally:
                stop.set()
                for thread in threads:
                    thread.join(60)
            assert failed == []
            assert count[0] > 20
            print(f"{count[0]} rounds, longest {longest[0]:.2f} s, locks held for at most {held:.1f} ms")
            functional(base)
            replica = {"urls": [{"name": "hapi", "url": base}], "timeout": 60}
            trip = run(fhir_roundtrip, **replica)
            assert (trip["findings"], len(trip["replicas"][0]["steps"])) == ([], 9)
            # Nothing to be written to is seen.
            assert [item["id"] for item in run(fhir_roundtrip, **replica, base_path="/nothing")["findings"]] == ["roundtrip_failed"]
        with hapi(site, HAPI_HBM2DDL_AUTO="validate") as base:
            site.until("HAPI with schema validation", lambda: fhir(f"{base}/fhir/metadata")[0] == 200, 600)
            # On both sides of N.
            functional(base)
            look = run(hfj_partition_info, **site.args(tables=["hfj_res_ver"]))
            bound = look["tables"][0]["partitions"][0]["upper"]
            site.script(f"SELECT setval('seq_resource_id', {bound + 49})")
        with hapi(site) as base:
            site.until("HAPI", lambda: fhir(f"{base}/fhir/metadata")[0] == 200, 600)
            functional(base)
            assert int(site.script(f"SELECT count(*) FROM hfj_res_ver_p{bound}")) > 0
            functional(base)
            do("extend")
            do("undo", allow_copy=True)
            functional(base)
    finally:
        site.remove()


@pytest.mark.full
def test_the_schema_is_what_hapis_image_makes(tmp_path: Path) -> None:
    """hapi_7_2_schema.sql equals what the newest image of the lab's server makes of an empty database."""
    site = HapiTables(tmp_path / "site", "hfj")
    try:
        site.start(pooler="")
        for_hapi(site)
        with hapi(site):
            done = "SELECT count(*) FROM flyway_schema_history WHERE success"
            site.until("Flyway", lambda: site.sql(done, check=False) == "2", 600)
        args = ("--schema-only", "--no-comments", "--no-owner", "--no-privileges", "-T", "flyway_schema_history", "-d", "fhirdb")
        text = docker("exec", "-u", "postgres", site.container("postgres"), "pg_dump", *args)
        dropped = ("--", "SET ", "SELECT pg_catalog.set_config", "\\restrict", "\\unrestrict")
        wanted = [line for line in SCHEMA.read_text().splitlines() if not line.startswith("--")]
        assert [line for line in text.splitlines() if line and not line.startswith(dropped)] == wanted
    finally:
        site.remove()
