# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of the lab's real HAPI copied into partitions of one size while its three replicas are stopped, and back, under load.

What stands is asked of psql, pg_dump and docker, never of our modules. The tests build upon one another.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from hapi_tables import fill, partitioned, parts, psql, rows, schema
from load import Load, request
from pilot_host import HOST, Background, healthy, ok, on_host, owner_files, play, replicas, snapshot, until

pytestmark = [pytest.mark.lab, pytest.mark.full]

VERB = "partition_hapi_tables"
BACK = "rollback_partition_hapi_tables"
# One that others refer to, and two of searches. The first comes first, whatever its size.
TABLES = ["hfj_spidx_token", "hfj_spidx_date", "hfj_res_ver"]
MODULUS = 4
RETRY_AFTER = 60
CONSENT = ("-e", "hapi_partitioning_allow_window=true")
QUICK = {"rehearsal": False, "roundtrip": False, "start_check": False}
STOPPED = "/etc/bd-fhir-hfj.bd-fhir-national.stopped.json"
JOURNAL = "/var/lib/dghs-bd-fhir/bd-fhir-national/journal.jsonl"


def facts(**values: object) -> tuple[str, ...]:
    given = {"method": "rewrite", "modulus": MODULUS, "tables": TABLES, **values}
    return ("-e", json.dumps({f"hapi_partitioning_{name}": value for name, value in given.items()}))


def running() -> dict[str, str]:
    """HAPI's containers that run, with their start."""
    return {replica.id: replica.started for replica in replicas()}


def hashed(table: str) -> bool:
    return parts(table) == [f"{table}_h{number}" for number in range(MODULUS)]


def serves() -> bool:
    return request("GET", "/fhir/Patient?_summary=count")[0] == 200


def client(name: str, user: str, sql: str) -> subprocess.Popen[bytes]:
    """Another session in the database; it ends with the server's."""
    argv = ["docker", "exec", HOST, "docker", "exec", "-e", f"PGAPPNAME={name}", "bd-postgres-fhir", "psql", "-XqU", user, "-d", "fhirdb", "-c", sql]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def nothing_is_left() -> None:
    """HAPI works on all replicas, no request is refused, and nothing waits for a next run."""
    assert healthy(3)
    assert all(serves() for dummy in range(9))
    assert on_host("bash", "-c", f"ls {STOPPED} 2>/dev/null; true") == ""


def assert_announced(load: Load, windows: int = 1) -> None:
    """Nothing failed or was lost; what was refused was told when to come again, in one stretch of time."""
    assert load.ledger.failures == []
    assert load.lost() == []
    assert {after for dummy, after in load.ledger.refused} == {RETRY_AFTER}, "nothing was refused: no window was seen"
    moments = sorted(moment for moment, dummy in load.ledger.refused)
    gaps = [second - first for first, second in zip(moments, moments[1:], strict=False) if second - first > 5]
    assert len(gaps) < windows, gaps
    print(f"{len(moments)} of {sum(load.ledger.sent.values())} requests refused, for {moments[-1] - moments[0]:.0f} s")


@pytest.fixture(scope="module")
def before(scaled: None) -> dict[str, str]:
    ok(BACK, *CONSENT, "-e", "hapi_partitioning_allow_copy=true")
    fill(5)
    nothing_is_left()
    return {**owner_files(), "schema": schema(), "job": on_host("bash", "-c", "ls -d /etc/cron.d/bd-fhir-hfj* /etc/bd-fhir-hfj* 2>&1; true")}


def test_a_dry_run_says_what_either_method_costs_and_changes_nothing(before: dict[str, str]) -> None:
    untouched = snapshot()
    # Small ones are measured too.
    run = ok(VERB, "--check", "--diff", *facts(min_size="8KB"), *CONSENT)
    flat = " ".join(run.out.split())
    for table in TABLES:
        assert f"+public.{table}: rewritten" in run.out
    for words in ("is copied into 4 partitions of one size while HAPI is stopped; that takes about", "By attach it would be a lock of a moment",
                  f"503 with Retry-After {RETRY_AFTER}", "rehearsal"):
        assert words in flat, words
    assert "hapi_at_work" not in flat
    assert (snapshot(), schema()) == (untouched, before["schema"])


@pytest.mark.parametrize(("arguments", "words"), [
    (facts(), "consent with hapi_partitioning_allow_window=true"),
    (facts(method="copy"), "value of hapi_partitioning_method must be one of: attach, rewrite"),
    (facts(modulus=1), "hapi_partitioning_modulus 2 to 256 (is 1)"),
    (facts(modulus=1000), "hapi_partitioning_modulus 2 to 256 (is 1000)"),
    (facts(copy_timeout=5), "hapi_partitioning_copy_timeout 60 to 21600 (is 5)"),
    ((*facts(tables=["hfj_resource"]), *CONSENT), "unique_without_key (public.hfj_resource)"),
    ((*facts(tables=["hfj_nothing"]), *CONSENT), "table_missing (public.hfj_nothing)"),
], ids=["no_consent", "method", "one", "thousand", "timeout", "resource", "missing"])
def test_wrong_input_is_refused_before_the_first_change(before: dict[str, str], arguments: tuple[str, ...], words: str) -> None:
    untouched, works = snapshot(), running()
    refused = play(VERB, *arguments)
    assert refused.rc != 0
    assert words in " ".join(refused.out.split()), refused.out[-3000:]
    assert (snapshot(), schema(), running()) == (untouched, before["schema"], works)


def test_a_comment_that_would_be_lost_is_told_before_hapi_is_stopped(before: dict[str, str]) -> None:
    works = running()
    psql("COMMENT ON INDEX idx_sp_date_hash_v2 IS 'ours'")
    try:
        refused = play(VERB, *facts(), *CONSENT)
        assert refused.rc != 0
        assert "comment on index idx_sp_date_hash_v2 of hfj_spidx_date would not be on the copy" in " ".join(refused.out.split())
    finally:
        psql("COMMENT ON INDEX idx_sp_date_hash_v2 IS NULL")
    assert (running(), schema()) == (works, before["schema"])


@pytest.fixture
def holder() -> Iterator[None]:
    """Somebody who reads one of the tables and does not end the transaction."""
    sql = f"BEGIN; SELECT count(*) FROM {TABLES[0]}; SELECT pg_sleep(900)"
    with client("report", "postgres", sql):
        until("it holds the lock", 30, lambda: psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'report'") == "1")
        yield
        psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'report'")


def test_what_fails_after_the_stop_brings_hapi_back(before: dict[str, str], holder: None) -> None:
    works = running()
    with Load(announced=True) as load:
        refused = play(VERB, *facts(lock_tries=2, **QUICK), *CONSENT)
    assert refused.rc != 0
    flat = " ".join(refused.out.split())
    # hfj_res_ver comes first and is done; the one that is held is as it was.
    for words in ("(report, user postgres", "HAPI was started again and works, and the window is closed", TABLES[0]):
        assert words in flat, refused.out[-3000:]
    assert partitioned() == sorted(TABLES[1:]), refused.out[-3000:]
    assert set(running()) == set(works)
    assert not set(running().values()) & set(works.values()), "HAPI was not stopped: nothing was tested"
    nothing_is_left()
    assert_announced(load)


def test_back_needs_consent_and_a_window(before: dict[str, str]) -> None:
    stands, works = schema(), running()
    refused = play(BACK)
    assert refused.rc != 0
    assert "consent with hapi_partitioning_allow_window=true" in " ".join(refused.out.split())
    assert (schema(), running()) == (stands, works)
    with Load(announced=True) as load:
        ok(BACK, *CONSENT)
    assert_announced(load)
    assert schema() == before["schema"]
    nothing_is_left()


def test_somebody_else_at_work_is_named_and_hapi_comes_back(before: dict[str, str]) -> None:
    """Not HAPI, but with its role: an import, a report."""
    with client("import", "hapi_app", "SELECT pg_sleep(900)"):
        try:
            until("it is at work", 30, lambda: psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'import'") == "1")
            refused = play(VERB, *facts(**QUICK), *CONSENT)
        finally:
            psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'import'")
    assert refused.rc != 0
    flat = " ".join(refused.out.split())
    for words in ("still works in the database", "(import from local", "HAPI was started again and works"):
        assert words in flat, refused.out[-3000:]
    assert schema() == before["schema"]
    nothing_is_left()


def test_rewritten_under_load_after_a_rehearsal(before: dict[str, str]) -> None:
    counts, works = {table: rows(table) for table in TABLES}, running()
    with Load(announced=True) as load:
        time.sleep(3)
        run = ok(VERB, *facts(), *CONSENT)
        time.sleep(3)
    assert_announced(load)
    for table in TABLES:
        assert hashed(table), parts(table)
        assert rows(table) >= counts[table]
    # The same containers, stopped and started.
    assert set(running()) == set(works)
    assert not set(running().values()) & set(works.values())
    assert "for which HAPI will be stopped" in " ".join(run.out.split())
    assert "rehearsal" not in on_host("bash", "-c", "docker ps -a --format '{{.Names}}'; docker volume ls -q; ls /var/lib/dghs-bd-fhir")
    told = on_host("bash", "-c", f"tail -n 60 {JOURNAL}")
    for words in ("HAPI is stopped for copies of its tables: hfj_res_ver", "HAPI was started again", '"rewrite"'):
        assert words in told, words
    nothing_is_left()


def test_a_second_run_changes_nothing(before: dict[str, str]) -> None:
    stands, works = schema(), running()
    assert ok(VERB, *facts()).changed == 0
    assert ok(VERB, "--check", *facts()).changed == 0
    assert (schema(), running()) == (stands, works)


@pytest.mark.parametrize(("arguments", "words"), [
    (facts(modulus=8), "has 4 partitions by hash, and hapi_partitioning_modulus is 8"),
    (facts(method="attach", first_bound=10**9, width=5000), "was partitioned by hash"),
], ids=["modulus", "method"])
def test_what_stands_is_not_changed_by_other_wishes(before: dict[str, str], arguments: tuple[str, ...], words: str) -> None:
    stands = schema()
    refused = play(VERB, *arguments, *CONSENT)
    assert refused.rc != 0
    assert words in " ".join(refused.out.split()), refused.out[-3000:]
    assert schema() == stands


def test_the_job_has_nothing_against_them_and_all_come_back_in_one_window(before: dict[str, str]) -> None:
    """One more table that is attached has a job on the host."""
    bound = (int(psql("SELECT last_value FROM seq_resource_id")) // 1000000 + 1) * 1000000
    ok(VERB, *facts(method="attach", tables=["hfj_spidx_string"], first_bound=bound, width=5000, **QUICK))
    told = on_host("python3", "/usr/local/lib/bd-fhir-hfj", "check")
    assert not any(table in told for table in TABLES), told
    refused = play(VERB, *facts(tables=["hfj_spidx_string"]), *CONSENT)
    assert refused.rc != 0
    assert "hfj_spidx_string is swapped by the other method" in " ".join(refused.out.split())
    with Load(announced=True) as load:
        ok(BACK, *CONSENT)
    assert_announced(load)
    assert schema() == before["schema"]
    assert on_host("bash", "-c", "ls -d /etc/cron.d/bd-fhir-hfj* /etc/bd-fhir-hfj* 2>&1; true") == before["job"]
    assert ok(BACK).changed == 0
    nothing_is_left()


def opened(since: int) -> bool:
    return "open window" in on_host("bash", "-c", f"tail -n +{since + 1} {JOURNAL}")


# What stands at the moment of the kill; `since` is the number of journal records before, `target` how many tables have partitions in the end.
MOMENTS: dict[str, Callable[[int, int], object]] = {
    "the window is open": lambda since, target: opened(since),
    "one replica is stopped": lambda since, target: len(running()) < 3,
    "HAPI is stopped": lambda since, target: not running(),
    "the first table is done": lambda since, target: 0 < len(partitioned()) < len(TABLES),
    "HAPI starts again": lambda since, target: len(partitioned()) == target and running(),
}


def killed_and_finished(verb: str, arguments: tuple[str, ...], moment: str, target: int, then: str = "") -> None:
    """A play that is killed, under load; the next one, of the same verb or of another, finds HAPI as it was left and brings it back."""
    since = len(on_host("cat", JOURNAL).splitlines())
    with Load(announced=True) as load:
        doomed = Background(verb, *arguments, *CONSENT)
        until(moment, 400, lambda: MOMENTS[moment](since, target))
        doomed.kill()
        print(f"{verb}, {moment}: killed with {partitioned()} rewritten and {len(running())} replicas at work")
        ok(then or verb, *(() if then else arguments), *CONSENT)
        time.sleep(3)
    # One window that the kill has left open, and one of the run that goes on.
    assert_announced(load, windows=2)
    nothing_is_left()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_is_finished_by_the_next_there_and_back(before: dict[str, str], moment: str) -> None:
    killed_and_finished(VERB, facts(**QUICK), moment, len(TABLES))
    assert all(hashed(table) for table in TABLES)
    assert ok(VERB, *facts()).changed == 0
    killed_and_finished(BACK, (), moment, 0)
    assert schema() == before["schema"]
    assert ok(BACK).changed == 0
    files = owner_files()
    assert files == {name: before[name] for name in files}


def test_a_copy_that_waits_renews_the_window_and_outlives_its_play(before: dict[str, str]) -> None:
    """The copy runs on the host: who comes after the kill waits for its end before HAPI is started."""
    ok(VERB, *facts(**QUICK), *CONSENT)
    since = len(on_host("cat", JOURNAL).splitlines())

    def told(words: str) -> int:
        return on_host("bash", "-c", f"tail -n +{since + 1} {JOURNAL}").count(words)

    # Rounds of a quarter of a minute in place of ten.
    patient = {"_hapi_partitioning_round_seconds": 15, "hapi_partitioning_lock_tries": 1000}
    with Load(announced=True) as load:
        with client("report", "postgres", f"BEGIN; SELECT count(*) FROM {TABLES[0]}; SELECT pg_sleep(900)"):
            until("it holds the lock", 30, lambda: psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'report'") == "1")
            doomed = Background(BACK, *CONSENT, "-e", json.dumps(patient))
            until("the window is renewed twice", 500, lambda: told("open window") >= 3 and told("goes on") >= 2)
            doomed.kill()
            assert TABLES[0] in partitioned()
            assert not running()
            psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'report'")
        until("the copy is done, with nobody to see it", 60, lambda: TABLES[0] not in partitioned())
        ok(BACK, *CONSENT)
        time.sleep(3)
    assert_announced(load, windows=2)
    assert schema() == before["schema"]
    nothing_is_left()


def test_the_way_back_brings_hapi_back_as_well(before: dict[str, str]) -> None:
    killed_and_finished(VERB, facts(**QUICK), "HAPI is stopped", len(TABLES), then=BACK)
    assert schema() == before["schema"]


def test_without_a_balancer_the_plan_says_that_requests_fail(before: dict[str, str], request: pytest.FixtureRequest) -> None:
    """The pilot as its owner made it: one replica, and nothing in front of it that could answer."""
    request.getfixturevalue("pilot")
    words = "There is no balancer of ours in front of HAPI, so each request fails meanwhile"
    assert words in " ".join(ok(VERB, "--check", *facts()).out.split())
    refused = play(VERB, *facts())
    assert refused.rc != 0
    assert "so each request would fail meanwhile. Choose the hour" in " ".join(refused.out.split())
    stands, works = schema(), running()
    ok(VERB, *facts(tables=["hfj_spidx_date"], **QUICK), *CONSENT)
    assert hashed("hfj_spidx_date")
    assert set(running()) == set(works)
    until("one healthy replica", 60, lambda: healthy(1))
    ok(BACK, *CONSENT)
    assert schema() == stands
    until("one healthy replica", 60, lambda: healthy(1))
