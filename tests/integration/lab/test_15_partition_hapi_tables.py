# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The large tables of the lab's real HAPI, with three replicas, made partitions and plain again under load.

What stands is asked of psql and pg_dump in the server's container, never of our modules. The tests build upon one another.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import cache

import pytest
from hapi_tables import fill, partitioned, parts, psql, rows, schema
from load import Load
from pilot_host import FIRST, PROJECT, REGISTRY, SECOND, Background, ok, on_host, owner_files, play, replicas, snapshot, until

pytestmark = [pytest.mark.lab, pytest.mark.full]

VERB = "partition_hapi_tables"
BACK = "rollback_partition_hapi_tables"
# All that hold the bulk: HFJ_RES_VER has foreign keys that point at it.
TABLES = ["hfj_res_ver", "hfj_res_link", "hfj_spidx_date", "hfj_spidx_string", "hfj_spidx_token"]
CRON = "/etc/cron.d/bd-fhir-hfj-partitions"


@cache
def bound() -> int:
    """Where the first partitions end: far beyond what earlier tests on this host have made of the sequence."""
    return (int(psql("SELECT last_value FROM seq_resource_id")) // 1000000 + 1) * 1000000


def facts(**values: object) -> tuple[str, ...]:
    given = {"tables": TABLES, "first_bound": bound(), "width": 5000, **values}
    return ("-e", json.dumps({f"hapi_partitioning_{name}": value for name, value in given.items()}))


@pytest.fixture(scope="module")
def before(scaled: None) -> dict[str, str]:
    """What is there before the first change: the owner's files, the schema, and nothing of the job."""
    ok(BACK, "-e", "hapi_partitioning_allow_copy=true")
    fill(20)
    return {**owner_files(), "schema": schema(), "job": on_host("bash", "-c", f"ls -d {CRON} /etc/bd-fhir-hfj* /var/log/bd-fhir-hfj 2>&1; true")}


def test_a_dry_run_says_all_of_it_and_changes_nothing(before: dict[str, str]) -> None:
    untouched = snapshot()
    run = ok(VERB, "--check", "--diff", *facts())
    for table in TABLES:
        assert f"+public.{table}: swapped" in run.out
    assert f"becomes the first partition, up to id {bound()}" in run.out
    assert (snapshot(), schema()) == (untouched, before["schema"])


@pytest.mark.parametrize(("given", "words"), [
    ({"tables": ["hfj_resource"]}, "unique_without_key (public.hfj_resource)"),
    ({"tables": ["hfj_nothing"]}, "table_missing (public.hfj_nothing)"),
    ({"tables": ["flyway_schema_history"]}, "no column that refers to HFJ_RESOURCE"),
    ({"first_bound": 100}, "first_bound_near"),
    ({"first_bound": 0}, "Give hapi_partitioning_first_bound"),
    ({"prepare_timeout": 1}, "must be 60 or more"),
    ({"roundtrip_resource": {"resourceType": "Nonsense"}}, "Nothing was changed. roundtrip_failed"),
])
def test_wrong_input_is_refused_before_the_first_change(before: dict[str, str], given: dict[str, object], words: str) -> None:
    refused = play(VERB, *facts(**{"rehearsal": False, **given}))
    assert refused.rc != 0
    assert words in " ".join(refused.out.split()), refused.out[-3000:]
    assert schema() == before["schema"]


def test_attached_under_load_after_a_rehearsal(before: dict[str, str]) -> None:
    counts = {table: rows(table) for table in TABLES}
    with Load() as load:
        run = ok(VERB, *facts())
    print(f"{sum(load.ledger.sent.values())} requests, the longest {load.ledger.longest * 1000:.0f} ms; "
          + " ".join(re.findall(r"longest_\w+: \S+", run.out)))
    assert load.ledger.failures == []
    assert load.lost() == []
    assert partitioned() == sorted(TABLES)
    for table in TABLES:
        assert parts(table) == [f"{table}_p0", f"{table}_p{bound()}", f"{table}_p{bound() + 5000}"]
        assert rows(table) >= counts[table]
    assert "ms of them under lock" in run.out
    # Of the copy nothing is left.
    assert "rehearsal" not in on_host("bash", "-c", "docker ps -a --format '{{.Names}}'; docker volume ls -q; ls /var/lib/dghs-bd-fhir")
    assert on_host("grep", "-c", "^[^#]", CRON).strip() == "1"


def test_a_second_run_changes_nothing(before: dict[str, str]) -> None:
    stands = schema()
    assert ok(VERB, *facts()).changed == 0
    assert ok(VERB, "--check", *facts()).changed == 0
    assert schema() == stands


def test_hapi_starts_with_validation_of_the_schema(before: dict[str, str]) -> None:
    """One more container of the owner's own service, which is in nobody's traffic."""
    name = "hapi-with-validation"
    started = ("run", "--detach", "--no-deps", "--name", name, "--env", "HAPI_HBM2DDL_AUTO=validate", "hapi")
    on_host("docker", "compose", "--project-directory", PROJECT, "--env-file", f"{PROJECT}/.env", *started)
    try:
        until("it is healthy", 180, lambda: on_host("docker", "inspect", "-f", "{{.State.Health.Status}}", name).strip() == "healthy")
        assert "Schema-validation" not in on_host("docker", "logs", name)
    finally:
        on_host("docker", "rm", "--force", "--volumes", name)


def test_another_image_is_tried_on_partitioned_tables_before_it_is_rolled_out(before: dict[str, str]) -> None:
    untouched = snapshot()
    told = ok("scale_hapi", "--check", *SECOND)
    assert f"A real run would first start {REGISTRY}/hapi:1.1.0 on a scratch copy of the schema" in " ".join(told.out.split()), told.out[-3000:]
    refused = play("scale_hapi", "-e", f"hapi_image={REGISTRY}/hapi:1.2.0-broken")
    assert refused.rc != 0
    assert "Nothing was changed. start_failed" in " ".join(refused.out.split()), refused.out[-3000:]
    assert snapshot() == untouched
    with Load() as load:
        ok("scale_hapi", *SECOND)
    assert load.ledger.failures == []
    assert load.lost() == []
    assert partitioned() == sorted(TABLES)
    assert [replica.image for replica in replicas()] == [f"{REGISTRY}/hapi:1.1.0"] * 3
    # Without the check, and back to what the next tests know.
    assert "scratch copy" not in ok("scale_hapi", *FIRST, "-e", "hapi_partitioning_start_check=false").out


def test_back_by_a_short_lock_under_load(before: dict[str, str]) -> None:
    with Load() as load:
        run = ok(BACK)
    print(f"the longest request {load.ledger.longest * 1000:.0f} ms; " + " ".join(re.findall(r"longest_\w+: \S+", run.out)))
    assert load.ledger.failures == []
    assert load.lost() == []
    assert schema() == before["schema"]
    assert on_host("bash", "-c", f"ls -d {CRON} /etc/bd-fhir-hfj* /var/log/bd-fhir-hfj 2>&1; true") == before["job"]
    assert ok(BACK).changed == 0


def indexed() -> int:
    """How many tables that are not swapped yet have the index that their preparation begins with, whole or half built."""
    return int(psql("SELECT count(*) FROM pg_class WHERE relname ~ '^hfj_.*_bd_uk$' AND relkind = 'i' AND NOT relispartition"))


@pytest.mark.parametrize(("moment", "condition"), [
    ("the first table is being prepared", lambda: indexed() > 0),
    ("the first table is swapped", lambda: len(partitioned()) == 1),
    ("the third table is being prepared", lambda: len(partitioned()) == 2 and indexed() > 0),
    ("the fourth table is swapped", lambda: len(partitioned()) == 4),
])
def test_killed_in_the_middle_and_gone_on_with(before: dict[str, str], moment: str, condition: Callable[[], bool]) -> None:
    quick = facts(rehearsal=False, roundtrip=False, start_check=False)
    with Load() as load:
        killed = Background(VERB, *quick)
        until(moment, 300, condition)
        killed.kill()
        print(f"{moment}: killed with {partitioned()} partitioned")
        # The lease of who was killed is proven to be nobody's, and a statement under way ends when the server sees that nobody waits for it.
        ok(VERB, *quick, "-e", "change_record_wait=1200")
    assert load.ledger.failures == []
    assert partitioned() == sorted(TABLES)
    if "fourth" not in moment:
        ok(BACK)
        assert schema() == before["schema"]


def test_new_resources_go_to_the_next_partition(before: dict[str, str]) -> None:
    with Load() as load:
        time.sleep(2)
        psql(f"SELECT setval('seq_resource_id', {bound()})")
        until("all replicas have taken new ids", 60, lambda: rows(f"hfj_spidx_token_p{bound()}") > 50)
    assert load.ledger.failures == []
    assert load.lost() == []
    for table in TABLES:
        if table != "hfj_res_link":
            assert rows(f"{table}_p{bound()}") > 0, table
    # The job makes partitions in time, without anybody's help.
    psql(f"SELECT setval('seq_resource_id', {bound() + 6000})")
    on_host("bash", "-c", f"grep -v '^#' {CRON} | sed -E 's/^([^ ]+ ){{5}}root //; s/\\\\%/%/g' | env -i PATH=/usr/bin:/bin HOME=/root sh")
    for table in TABLES:
        assert f"{table}_p{bound() + 10000}" in parts(table), parts(table)


def test_rows_of_further_partitions_come_back_by_consent_only(before: dict[str, str]) -> None:
    stands = schema()
    refused = play(BACK)
    assert refused.rc != 0
    assert "allow_copy" in refused.out, refused.out[-3000:]
    assert schema() == stands
    counts = {table: rows(table) for table in TABLES}
    with Load() as load:
        ok(BACK, "-e", "hapi_partitioning_allow_copy=true")
    assert load.ledger.failures == []
    assert load.lost() == []
    assert schema() == before["schema"]
    for table in TABLES:
        assert rows(table) >= counts[table]
    files = owner_files()
    assert files == {name: before[name] for name in files}
